"""What a producer does when an item, a batch or everything fails, and how it ends."""

import asyncio
from typing import Any

import pytest
from producing import Log, client_of

from ds_sync.exceptions import (
    ClosedError,
    DsSyncError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    PayloadTooLargeError,
    ServerError,
    StreamClosedError,
    TransportError,
)
from ds_sync.testing import faults
from ds_sync.testing.faults import Fault, FaultyTransport

pytestmark = pytest.mark.anyio


class TestRefusals:
    @pytest.mark.parametrize("bad", [[0], [3], [7], [2, 5], [0, 1, 2], list(range(8))])
    @pytest.mark.parametrize("size", [1, 3, 8])
    async def test_a_refused_item_fails_alone(self, bad: list[int], size: int) -> None:
        log = Log(refused=tuple(f"<{word}>".encode() for word in bad))
        producer = client_of(log).producer("p", max_batch_items=size, linger=0.0, max_in_flight=3)
        receipts = [await producer.append(f"<{word}> ") for word in range(8)]
        async with asyncio.timeout(5):
            results = await asyncio.gather(*receipts, return_exceptions=True)
            await producer.aclose()
        assert [word for word, result in enumerate(results) if isinstance(result, InvalidRequestError)] == bad
        assert log.items == [f"<{word}>" for word in range(8) if word not in bad]

    async def test_an_item_that_is_too_large_for_the_server(self) -> None:
        log = Log(max_body=10)
        producer = client_of(log).producer("p", linger=0.0)
        receipts = [await producer.append(data) for data in ("aaaa ", "bbbb ", "c" * 11, "dddd ")]
        results = await asyncio.gather(*receipts, return_exceptions=True)
        assert [type(result) for result in results].index(PayloadTooLargeError) == 2
        assert log.items == ["aaaa", "bbbb", "dddd"]
        await producer.aclose()

    async def test_an_error_that_nobody_saw_is_raised_by_flush_and_only_once(self) -> None:
        log = Log(refused=(b"bad",))
        async with client_of(log).producer("p") as producer:
            await producer.append("bad")
            await producer.append("good ")
            await producer.append("bad")
            with pytest.raises(InvalidRequestError) as caught:
                await producer.flush()
            assert caught.value.__notes__ == ["2 items were not accepted; this is the error of the first"]
            await producer.flush()
        assert log.items == ["good"]

    async def test_an_error_that_nobody_saw_is_raised_at_the_end(self) -> None:
        with pytest.raises(InvalidRequestError):
            async with client_of(Log(refused=(b"bad",))).producer("p") as producer:
                await producer.append("bad")

    async def test_an_error_that_was_seen_is_not_raised_again(self) -> None:
        async with client_of(Log(refused=(b"bad",))).producer("p") as producer:
            with pytest.raises(InvalidRequestError):
                await (await producer.append("bad"))

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (faults.respond(404), NotFoundError),
            (faults.respond(403), ForbiddenError),
            (faults.respond(409, {"stream-closed": "true"}), StreamClosedError),
            (faults.respond(500), ServerError),
            (faults.drop_before_sending(), TransportError),
        ],
        ids=lambda value: "" if isinstance(value, Fault) else value.__name__,
    )
    async def test_what_ends_it_fails_everything_that_is_left(self, fault: Fault, error: type[DsSyncError]) -> None:
        log = Log()
        network = FaultyTransport(log)
        producer = client_of(log, network).producer("p", max_batch_items=2, linger=0.0)
        await (await producer.append("0 "))
        network.inject(fault, when=faults.is_append, times=None)
        receipts = [await producer.append(f"{word} ") for word in range(1, 30)]
        async with asyncio.timeout(5):
            assert {type(result) for result in await asyncio.gather(*receipts, return_exceptions=True)} == {error}
        for call in (producer.append("x"), producer.flush(), producer.close()):
            with pytest.raises(error):
                await call
        await producer.aclose()
        assert log.items == ["0"]

    async def test_who_waits_for_room_is_told_of_the_end(self) -> None:
        log = Log()
        network = FaultyTransport(log)
        network.inject(faults.respond(404), when=faults.is_append)
        producer = client_of(log, network).producer("p", max_buffered=10, linger=60.0)
        await producer.append("xxxxxxxx")
        waiting = asyncio.create_task(producer.append("yyyyyyyy"))
        with pytest.raises(NotFoundError):
            await producer.flush()
        with pytest.raises(NotFoundError):
            await waiting


class TestEnds:
    async def test_closing_sends_what_is_left_and_the_last_word(self) -> None:
        log = Log()
        producer = client_of(log).producer("p", linger=60.0)
        await producer.append("a ")
        result = await producer.close("z")
        assert (result.closed, result.tail) == (False, "2")
        assert (log.items, log.closed_by is not None) == (["a", "z"], True)
        assert await producer.close("other") == result
        with pytest.raises(ClosedError):
            await producer.append("more")

    @pytest.mark.parametrize("body", ["", "z"])
    async def test_closing_survives_lost_answers(self, body: str) -> None:
        log = Log()
        network = FaultyTransport(log)
        network.inject(faults.lose_answer(), when=faults.is_append, times=2)
        await client_of(log, network).producer("p").close(body)
        assert (log.items, network.count(faults.is_append)) == (body.split(), 3)

    async def test_closing_what_another_closed(self) -> None:
        log = Log()
        await client_of(log).producer("p").close()
        with pytest.raises(StreamClosedError):
            await client_of(log).producer("q").close("z")
        assert log.items == []

    async def test_a_stream_is_not_closed_over_an_item_that_failed(self) -> None:
        log = Log(refused=(b"bad",))
        producer = client_of(log).producer("p")
        await producer.append("bad")
        with pytest.raises(InvalidRequestError):
            await producer.close()
        assert log.closed_by is None
        await producer.close()
        assert log.closed_by is not None

    async def test_leaving_the_block_with_an_error_sends_what_is_left(self) -> None:
        log = Log()

        async def run() -> None:
            async with client_of(log).producer("p", linger=60.0) as producer:
                await producer.append("a")
                raise KeyError

        with pytest.raises(KeyError):
            await run()
        assert log.items == ["a"]

    async def test_leaving_it_with_an_error_keeps_the_error_and_notes_the_other(self) -> None:
        async def run() -> None:
            async with client_of(Log(refused=(b"bad",))).producer("p") as producer:
                await producer.append("bad")
                raise KeyError

        with pytest.raises(KeyError) as caught:
            await run()
        assert "not everything was appended" in caught.value.__notes__[0]

    async def test_being_cancelled_fails_what_is_left(self) -> None:
        log, gate = Log(), asyncio.Event()
        network = FaultyTransport(log)
        network.inject(faults.hold(gate), when=faults.is_append, times=None)
        receipts, before = [], asyncio.all_tasks()

        async def run() -> None:
            async with client_of(log, network).producer("p", linger=0.0) as producer:
                receipts.append(await producer.append("a"))
                receipts.append(await producer.append("b"))
                await asyncio.sleep(60)

        task = asyncio.create_task(run())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [type(receipt.error) for receipt in receipts] == [ClosedError, ClosedError]
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == before

    async def test_who_gives_up_on_a_receipt_leaves_it_to_the_others(self) -> None:
        log, gate = Log(), asyncio.Event()
        network = FaultyTransport(log)
        network.inject(faults.hold(gate), when=faults.is_append)
        async with client_of(log, network).producer("p", linger=0.0) as producer:
            receipt = await producer.append("a")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_await(receipt), 0.01)
            gate.set()
            assert (await receipt).tail == "1"


async def _await(receipt: Any) -> Any:
    return await receipt
