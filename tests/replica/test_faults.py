"""The fault injector does what it says, and nothing when nothing is injected."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from ds_sync.client.transport import Response
from ds_sync.exceptions import TransportError
from ds_sync.testing.faults import (
    Fault,
    FaultyTransport,
    Request,
    delay,
    drop_before_sending,
    duplicate,
    hold,
    is_append,
    is_live,
    is_read,
    lose_answer,
    respond,
    respond_after,
    truncate,
)

pytestmark = pytest.mark.anyio


class Recorder:
    """A transport that counts, and answers with the count."""

    def __init__(self) -> None:
        self.arrived: list[str] = []
        self.closed = False

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", timeout: float | None) -> Response:
        self.arrived.append(method)
        return Response(200, {"n": str(len(self.arrived))}, b"answer")

    @asynccontextmanager
    async def stream(self, method: str, url: str, *, headers: Mapping[str, str], timeout: float | None) -> AsyncIterator["Streamed"]:
        self.arrived.append(f"stream {method}")
        yield Streamed()

    async def aclose(self) -> None:
        self.closed = True


class Streamed:
    status = 200
    headers: Mapping[str, str] = {"kind": "stream"}

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in (b"one ", b"two ", b"three"):
            yield chunk


async def send(transport: FaultyTransport, method: str = "POST", url: str = "http://s/x") -> Response:
    return await transport.request(method, url, headers={}, body=b"body", timeout=1.0)


async def read(transport: FaultyTransport) -> tuple[int, Mapping[str, str], bytes]:
    async with transport.stream("GET", "http://s/x?live=sse", headers={}, timeout=1.0) as answer:
        return answer.status, answer.headers, b"".join([chunk async for chunk in answer.chunks()])


async def test_without_injections_everything_passes_as_it_is() -> None:
    inner = Recorder()
    transport = FaultyTransport(inner)
    assert await send(transport) == Response(200, {"n": "1"}, b"answer")
    assert await read(transport) == (200, {"kind": "stream"}, b"one two three")
    assert transport.requests == [Request("POST", "http://s/x", {}, b"body"), Request("GET", "http://s/x?live=sse", {}, b"")]
    assert (transport.count(), transport.count(is_append), transport.count(is_read), transport.count(is_live)) == (2, 1, 1, 1)
    await transport.aclose()
    assert inner.closed


async def test_dropped_before_sending_never_arrives_and_a_lost_answer_does() -> None:
    inner = Recorder()
    transport = FaultyTransport(inner)
    transport.inject(drop_before_sending(), times=2)
    transport.inject(lose_answer(), times=2)
    for _ in range(2):
        with pytest.raises(TransportError):
            await send(transport)
        with pytest.raises(TransportError):
            await read(transport)
    assert inner.arrived == ["POST", "stream GET"]


async def test_an_injection_befalls_what_fits_as_often_as_it_says_and_counts() -> None:
    inner = Recorder()
    transport = FaultyTransport(inner)
    twice = transport.inject(respond(503), when=is_append, times=2)
    always = transport.inject(respond(500), when=is_append, times=None)
    statuses = [(await send(transport)).status for _ in range(4)]
    assert statuses == [503, 503, 500, 500]
    assert (await send(transport, "PUT")).status == 200
    assert (twice.hits, always.hits, inner.arrived) == (2, 2, ["PUT"])
    transport.clear()
    assert (await send(transport)).status == 200


async def test_duplicates_arrive_several_times_and_the_last_answer_counts() -> None:
    inner = Recorder()
    transport = FaultyTransport(inner)
    transport.inject(duplicate(3))
    assert (await send(transport)).headers == {"n": "3"}
    assert inner.arrived == ["POST"] * 3


async def test_an_answer_breaks_off_after_so_many_bytes() -> None:
    transport = FaultyTransport(Recorder())
    transport.inject(truncate(3), times=1)
    with pytest.raises(TransportError):
        await send(transport)
    transport.inject(truncate(6), times=2)
    assert (await send(transport)).body == b"answer"
    async with transport.stream("GET", "http://s/x", headers={}, timeout=1.0) as answer:
        chunks = answer.chunks()
        assert [await anext(chunks), await anext(chunks)] == [b"one ", b"tw"]
        with pytest.raises(TransportError):
            await anext(chunks)


async def test_somebody_else_answers_instead_of_the_server_or_after_it() -> None:
    inner = Recorder()
    transport = FaultyTransport(inner)
    transport.inject(respond(204, {"a": "b"}, b"never heard"), times=2)
    assert await send(transport) == Response(204, {"a": "b"}, b"never heard")
    assert await read(transport) == (204, {"a": "b"}, b"never heard")
    assert inner.arrived == []
    transport.inject(respond_after(204, {"a": "b"}), times=2)
    assert await send(transport) == Response(204, {"n": "1", "a": "b"}, b"answer")
    assert await read(transport) == (204, {"kind": "stream", "a": "b"}, b"one two three")
    assert inner.arrived == ["POST", "stream GET"]


@pytest.mark.parametrize("committed", [False, True])
async def test_a_held_request_waits_before_or_after_the_server(committed: bool) -> None:
    inner = Recorder()
    transport = FaultyTransport(inner)
    gate = asyncio.Event()
    transport.inject(hold(gate, committed=committed))
    waiting = asyncio.ensure_future(send(transport))
    for _ in range(5):
        await asyncio.sleep(0)
    assert (inner.arrived, waiting.done()) == (["POST"] if committed else [], False)
    gate.set()
    assert (await waiting).body == b"answer"
    assert inner.arrived == ["POST"]


async def test_a_delay_sleeps_by_the_clock_it_is_given() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    transport = FaultyTransport(Recorder())
    transport.inject(delay(3.5, sleep=sleep))
    assert (await send(transport)).status == 200
    assert slept == [3.5]


async def test_a_fault_that_delivers_nothing_must_answer() -> None:
    transport = FaultyTransport(Recorder())
    transport.inject(Fault(copies=0))
    with pytest.raises(ValueError, match="zero times"):
        await send(transport)
