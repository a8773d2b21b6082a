import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from producing import Log, client_of, numbers, write

from ds_sync.client.producer import MAX_CLAIMS
from ds_sync.client.retry import RetryPolicy
from ds_sync.client.stream import StreamClient
from ds_sync.client.transport import Response
from ds_sync.environment import Environment
from ds_sync.exceptions import (
    InvalidRequestError,
    SequenceGapError,
    StaleEpochError,
    TransportError,
)
from ds_sync.testing import faults
from ds_sync.testing.faults import Fault, FaultyTransport, Request

pytestmark = pytest.mark.anyio


async def test_items_are_batched_in_order_and_the_tail_is_told() -> None:
    log = Log()
    network = FaultyTransport(log)
    async with client_of(log, network).producer("p") as producer:
        receipts = [await producer.append(f"{word} ") for word in range(50)]
        result = await receipts[-1]
        assert (result.tail, result.duplicate) == (str(len(log.bodies)), False)
    assert log.items == numbers(range(50))
    assert all(receipt.done and receipt.error is None for receipt in receipts)
    assert network.count(faults.is_append) == len(log.bodies) < 10
    assert network.requests[0].method == "HEAD"  # for the content type, once
    assert sum(request.method == "HEAD" for request in network.requests) == 1


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"max_batch_items": 2}, [2, 2, 1]),
        ({"max_batch_bytes": 6}, [3, 2]),
        ({"max_batch_bytes": 1}, [1, 1, 1, 1, 1]),
        ({"linger": 60.0}, [5]),
        ({"linger": 0.0, "max_in_flight": 1}, [1, 4]),
    ],
)
async def test_what_makes_a_batch(settings: dict[str, Any], sizes: list[int]) -> None:
    log = Log()
    async with client_of(log).producer("p", **{"linger": 60.0, **settings}) as producer:
        await write(producer, range(5))
        await producer.flush()
        assert [len(body.split()) for body in log.bodies] == sizes


async def test_a_batch_goes_out_by_itself_after_the_linger() -> None:
    log = Log()
    async with client_of(log).producer("p", linger=0.01) as producer:
        receipt = await producer.append("1")
        async with asyncio.timeout(5):
            await receipt
        assert log.items == ["1"]


async def test_json_items_are_messages() -> None:
    log = Log("application/json")
    async with client_of(log).producer("p") as producer:
        await producer.append_json({"a": 1})
        await producer.append("[1, 2]")
        await producer.append_json([None, "é"])
        for wrong in ("1],[2", "", "{", "NaN,1", b"\xff"):
            with pytest.raises(InvalidRequestError):
                await producer.append(wrong)
        with pytest.raises(ValueError, match="JSON"):
            await producer.append_json(float("nan"))
    assert [json.loads(item) for item in log.items] == [{"a": 1}, [1, 2], [None, "é"]]


async def test_the_window_is_kept_and_used() -> None:
    log = Log()
    async with client_of(log).producer("p", max_in_flight=3, max_batch_items=1, linger=0.0) as producer:
        await write(producer, range(20))
    assert log.items == numbers(range(20))
    assert log.most_under_way == 3


async def test_append_waits_for_room() -> None:
    log, gate = Log(), asyncio.Event()
    network = FaultyTransport(log)
    network.inject(faults.hold(gate), when=faults.is_append)
    async with client_of(log, network).producer("p", max_buffered=1000, linger=0.0) as producer:
        await producer.append(b"x" * 900)
        waiting = asyncio.create_task(producer.append(b"y" * 900))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        gate.set()
        async with asyncio.timeout(5):
            await (await waiting)
        assert b"".join(log.bodies) == b"x" * 900 + b"y" * 900


async def test_one_item_above_the_buffer_goes_alone() -> None:
    log = Log()
    async with client_of(log).producer("p", max_buffered=10, max_batch_bytes=10) as producer:
        await producer.append("x" * 100)
        await producer.append("y")
    assert log.bodies == [b"x" * 100, b"y"]


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (faults.respond(500), 3),
        (faults.respond(503, {"retry-after": "0"}), 2),
        (faults.respond(429, {"retry-after": "0"}), 2),
        (faults.respond(502), 2),
        (faults.drop_before_sending(), 3),
        (faults.lose_answer(), 3),
        (faults.respond_after(502), 3),
        (faults.respond_after(504), 1),
        (faults.delay(0.01), 1),
        (faults.delay(0.01), 3),
        (faults.duplicate(), 5),
    ],
    ids=lambda value: value if isinstance(value, int) else "",
)
@pytest.mark.parametrize("settings", [{"auto_claim": True}, {"auto_claim": False}, {"max_in_flight": 1}], ids=str)
async def test_faults_leave_each_item_there_once(fault: Fault, times: int, settings: dict[str, Any]) -> None:
    log = Log()
    network = FaultyTransport(log)
    network.inject(fault, when=faults.is_append, times=times)
    async with client_of(log, network).producer("p", **{"max_batch_items": 2, "linger": 0.0, **settings}) as producer, asyncio.timeout(5):
        await write(producer, range(12))
        await producer.flush()
    assert log.items == numbers(range(12))


@pytest.mark.parametrize("seed", range(30))
async def test_any_run_of_faults_leaves_each_item_there_once(seed: int) -> None:
    draw = random.Random(seed)
    log = Log()
    network = FaultyTransport(log)
    kinds: list[Callable[[], Fault]] = [
        faults.drop_before_sending,
        faults.lose_answer,
        lambda: faults.respond(503),
        lambda: faults.respond_after(502),
        lambda: faults.delay(draw.uniform(0, 0.005)),
        faults.duplicate,
    ]
    for _ in range(30):
        share = draw.random() * 0.5
        network.inject(draw.choice(kinds)(), when=lambda request, share=share: faults.is_append(request) and draw.random() < share)  # type: ignore[misc]
    client = StreamClient("http://log/s", transport=network, retry=RetryPolicy(max_attempts=40, first_delay=0.001, max_delay=0.002))
    settings = {"max_in_flight": draw.randint(1, 6), "max_batch_items": draw.randint(1, 4), "linger": draw.choice([0.0, 0.001])}
    async with client.producer("p", auto_claim=draw.random() < 0.5, **settings) as producer, asyncio.timeout(10):  # type: ignore[arg-type]
        for word in range(40):
            await producer.append(f"{word} ")
            if draw.random() < 0.2:
                await asyncio.sleep(draw.uniform(0, 0.003))
    assert log.items == numbers(range(40))


async def test_what_overtook_another_waits_for_it_and_only_that_is_sent_again() -> None:
    log, gate = Log(), asyncio.Event()
    network = FaultyTransport(log)
    async with client_of(log, network).producer("p", max_batch_items=1, linger=0.0) as producer:
        await (await producer.append("0 "))
        network.inject(faults.hold(gate), when=faults.is_append)
        await write(producer, range(1, 4))
        await asyncio.sleep(0.01)
        assert log.items == ["0"]
        gate.set()
    assert log.items == numbers(range(4))
    assert network.count(faults.is_append) == 4 + 2


class TestEpochs:
    async def test_a_program_that_starts_again_takes_over_its_name(self) -> None:
        log = Log()
        times = iter([1_000.0, 2_000.0])
        for round_ in range(2):
            now = next(times)
            client = client_of(log, environment=Environment(now=lambda now=now: now))  # type: ignore[misc]
            async with client.producer("p") as producer:
                await producer.append(f"{round_} ")
                assert producer.epoch // 1000 == int(now * 1000)
        assert log.items == ["0", "1"]

    async def test_two_of_one_name_that_begin_in_the_same_millisecond_lose_nothing(self) -> None:
        log = Log()
        client = client_of(log, environment=Environment(now=lambda: 1_000.0, random=random.Random(1)))
        first, second = client.producer("p"), client.producer("p")
        for producer, word in ((first, "0"), (second, "1")):
            receipt = await producer.append(f"{word} ")
            await producer.flush()
            assert not (await receipt).duplicate
        assert log.items == ["0", "1"]
        for producer in (first, second):
            await producer.aclose()

    async def test_a_clock_that_went_back_costs_one_refusal(self) -> None:
        log = Log()
        log.producers["p"] = 5_000_000, 7
        network = FaultyTransport(log)
        async with client_of(log, network, environment=Environment(now=lambda: 1.0)).producer("p", max_batch_items=1) as producer:
            await write(producer, range(3))
        assert log.items == numbers(range(3))
        assert network.count(faults.is_append) == 4  # nothing else goes out until the epoch is known
        assert log.producers["p"] == (5_000_001, 2)

    async def test_fenced_without_claiming_everything_left_fails(self) -> None:
        log = Log()
        log.producers["p"] = 5, 0
        producer = client_of(log).producer("p", epoch=3, auto_claim=False, max_batch_items=1, linger=0.0)
        receipts = [await producer.append(f"{word} ") for word in range(3)]
        for receipt in receipts:
            with pytest.raises(StaleEpochError) as caught:
                await receipt
            assert caught.value.current_epoch == 5
        with pytest.raises(StaleEpochError):
            await producer.append("more")
        with pytest.raises(StaleEpochError):
            await producer.flush()
        assert log.items == []

    async def test_fenced_on_the_way_with_claiming(self) -> None:
        log = Log()
        async with client_of(log).producer("p", epoch=0, max_batch_items=1, linger=0.0) as producer:
            await write(producer, range(3))
            await producer.flush()
            log.producers["p"] = 9, 4
            await write(producer, range(3, 8))
        assert log.items == numbers(range(8))
        assert log.producers["p"] == (10, 4)

    async def test_numbers_that_were_anothers_are_not_taken_for_ours(self) -> None:
        log = Log()
        log.producers["p"] = 0, 3
        async with client_of(log).producer("p", epoch=0) as producer:
            await producer.append("mine ")
        assert log.items == ["mine"]
        assert log.producers["p"] == (1, 0)

    async def test_who_keeps_the_numbers_is_told_of_duplicates(self) -> None:
        log = Log()
        for expected in (False, True):
            async with client_of(log).producer("p", epoch=0, auto_claim=False) as producer:
                assert (await (await producer.append("once "))).duplicate is expected
        assert log.items == ["once"]

    async def test_an_import_that_begins_anew_goes_on_where_it_died(self) -> None:
        log = Log()
        for reached in (5, 8):
            async with client_of(log).producer("import", epoch=7, auto_claim=False, max_batch_items=1) as producer:
                receipts = [await producer.append(f"{word} ") for word in range(reached)]
                duplicates = [(await receipt).duplicate for receipt in receipts]
        assert duplicates == [True] * 5 + [False] * 3
        assert log.items == numbers(range(8))

    async def test_numbers_that_the_server_lost(self) -> None:
        log = Log()
        async with client_of(log).producer("p", epoch=4, max_batch_items=1, linger=0.0) as producer:
            await write(producer, range(2))
            await producer.flush()
            log.producers.clear()
            await write(producer, range(2, 4))
            await producer.flush()
            log.producers["p"] = 1, 0  # set back to an older epoch
            await write(producer, range(4, 6))
        assert log.items == numbers(range(6))

    async def test_numbers_that_the_server_lost_without_claiming(self) -> None:
        log = Log()
        producer = client_of(log).producer("p", epoch=4, auto_claim=False, linger=0.0)
        await (await producer.append("0 "))
        log.producers.clear()
        with pytest.raises(SequenceGapError):
            await (await producer.append("1 "))

    async def test_what_may_stand_under_an_epoch_that_is_over_is_not_sent_again(self) -> None:
        log = Log()
        network = FaultyTransport(log)
        async with client_of(log, network).producer("p", epoch=0, linger=0.0) as producer:
            await (await producer.append("0 "))

            async def take_over(request: Request, response: Response) -> Response:
                log.producers["p"] = 7, 0
                raise TransportError("lost")

            network.inject(Fault(after=take_over), when=faults.is_append)
            doubtful = await producer.append("1 ")
            with pytest.raises(StaleEpochError):
                await doubtful
            await producer.append("2 ")
        assert log.items == ["0", "1", "2"]

    async def test_two_that_claim_in_turn_end(self) -> None:
        log = Log()
        network = FaultyTransport(log)
        network.inject(faults.respond(403, {"producer-epoch": "9"}), when=faults.is_append, times=None)
        producer = client_of(log, network).producer("p", epoch=0)
        with pytest.raises(StaleEpochError):
            await (await producer.append("x"))
        assert network.count(faults.is_append) == MAX_CLAIMS + 1


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"epoch": -1}, "epoch"),
        ({"epoch": 2**53}, "epoch"),
        ({"id": ""}, "id"),
        ({"id": "p\n"}, "id"),
        ({"id": "pé"}, "id"),
        ({"id": " p"}, "id"),
        ({"id": "p" * 257}, "id"),
        ({"max_batch_bytes": 0}, "max_batch_bytes"),
        ({"max_batch_items": -1}, "max_batch_items"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"max_buffered": 0}, "max_buffered"),
        ({"linger": -0.1}, "linger"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} "):
        client_of(Log()).producer(**{"id": "p", **settings})


async def test_without_an_id_no_two_are_the_same() -> None:
    client = client_of(Log())
    assert client.producer().id != client.producer().id
