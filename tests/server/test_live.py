"""Live reading over real sockets, and the machinery below it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import httpx
import pytest

from ds_sync.server.app import create_app
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.live import Reader, SharedPages, Waiters
from ds_sync.server.responses import Message
from ds_sync.server.streams import Limits
from ds_sync.testing.asgi_transport import AsgiTransport
from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.anyio

TEXT = {"content-type": "text/plain"}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(long_poll_timeout=0.4) as running:
        yield running


async def read_events(response: httpx.Response, controls: int) -> list[tuple[str, str]]:
    events: list[tuple[str, str]] = []
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data:"):
            events.append((name, line.removeprefix("data:")))
            if [kind for kind, _ in events].count("control") == controls:
                break
    return events


@pytest.fixture(scope="module")
def patient() -> Iterator[ServerProcess]:
    """A server whose long-polls last longer than its shortest streams."""
    with ServerProcess(long_poll_timeout=2.5) as running:
        yield running


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_who_waits_keeps_a_stream_alive_and_nobody_else_does(patient: ServerProcess, live: str) -> None:
    async with httpx.AsyncClient(base_url=patient.url) as client:
        path = f"/v1/stream/ttl-{live}"
        await client.put(path, headers=TEXT | {"stream-ttl": "1"})
        began = asyncio.get_running_loop().time()
        with suppress(TimeoutError):
            async with asyncio.timeout(2.3), client.stream("GET", path, params={"offset": "-1", "live": live}, timeout=9) as response:
                await response.aread()
        assert asyncio.get_running_loop().time() - began > 2
        assert (await client.head(path)).status_code == 200, "it has lived more than twice as long as it would have alone"
        await asyncio.sleep(1.1)
        assert (await client.head(path)).status_code == 404


async def test_plain_reads_keep_a_stream_alive(patient: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=patient.url) as client:
        await client.put("/v1/stream/read", headers=TEXT | {"stream-ttl": "1"}, content=b"x")
        for _ in range(10):
            assert (await client.get("/v1/stream/read", params={"offset": "-1"})).content == b"x"
            await asyncio.sleep(0.25)
        await asyncio.sleep(1.1)
        assert (await client.get("/v1/stream/read", params={"offset": "-1"})).status_code == 404


async def test_a_silent_event_stream_repeats_its_control_event_and_is_not_to_be_buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds_sync.server.app.Limits", partial(Limits, sse_heartbeat=0.05))
    app = create_app(MemoryEngine())
    transport = AsgiTransport(app)
    await transport.request("PUT", "http://h/v1/stream/s", headers=TEXT, timeout=5)
    async with asyncio.timeout(5), transport.stream("GET", "http://h/v1/stream/s?offset=-1&live=sse", headers={}, timeout=5) as response:
        assert response.headers["x-accel-buffering"] == "no"
        seen = b""
        async for chunk in response.chunks():
            seen += chunk
            if seen.count(b"event: control") == 3:
                break
    assert b"event: data" not in seen
    await transport.aclose()
    await app.aclose()


async def test_a_long_poll_gets_what_comes_and_204_when_nothing_does(server: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        await client.put("/v1/stream/poll", headers=TEXT)
        waiting = asyncio.ensure_future(client.get("/v1/stream/poll", params={"offset": "now", "live": "long-poll"}))
        await asyncio.sleep(0.1)
        appended = await client.post("/v1/stream/poll", headers=TEXT, content=b"news")
        answer = await waiting
        assert (answer.status_code, answer.content) == (200, b"news")
        tail = appended.headers["stream-next-offset"]
        assert answer.headers["stream-next-offset"] == tail
        cursor = answer.headers["stream-cursor"]
        quiet = await client.get("/v1/stream/poll", params={"offset": tail, "live": "long-poll", "cursor": cursor})
        assert (quiet.status_code, quiet.headers["stream-next-offset"], quiet.headers["stream-up-to-date"]) == (204, tail, "true")
        assert int(quiet.headers["stream-cursor"]) > int(cursor)


async def test_a_long_poll_hears_of_a_close_and_of_a_deletion(server: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        for path, method, headers, status in (("shut", "POST", {"stream-closed": "true"}, 204), ("dead", "DELETE", {}, 404)):
            await client.put(f"/v1/stream/{path}", headers=TEXT)
            waiting = asyncio.ensure_future(client.get(f"/v1/stream/{path}", params={"offset": "now", "live": "long-poll"}))
            await asyncio.sleep(0.1)
            await client.request(method, f"/v1/stream/{path}", headers=headers)
            answer = await waiting
            assert answer.status_code == status
            assert answer.headers.get("stream-closed") == ("true" if path == "shut" else None)


async def test_sse_gives_what_is_there_then_what_comes_then_the_end(server: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        made = await client.put("/v1/stream/sse", headers=TEXT, content=b"one")
        async with client.stream("GET", "/v1/stream/sse", params={"offset": "-1", "live": "sse"}) as response:
            assert response.headers["content-type"] == "text/event-stream"
            assert response.headers["stream-incarnation"] == made.headers["stream-incarnation"]
            reading = asyncio.ensure_future(read_events(response, 3))
            await asyncio.sleep(0.1)
            second = await client.post("/v1/stream/sse", headers=TEXT, content=b"two")
            await asyncio.sleep(0.1)
            await client.post("/v1/stream/sse", headers={**TEXT, "stream-closed": "true"}, content=b"three")
            events = await reading
        assert [text for name, text in events if name == "data"] == ["one", "two", "three"]
        controls = [json.loads(text) for name, text in events if name == "control"]
        assert [control["streamNextOffset"] for control in controls][:2] == [
            made.headers["stream-next-offset"],
            second.headers["stream-next-offset"],
        ]
        assert [control.get("upToDate") for control in controls[:2]] == [True, True]
        assert controls[2]["streamClosed"] is True
        assert "streamCursor" not in controls[2]


async def test_binary_streams_come_as_base64(server: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        await client.put("/v1/stream/bin", content=b"\x00\xff", headers={"content-type": "application/octet-stream"})
        async with client.stream("GET", "/v1/stream/bin", params={"offset": "-1", "live": "sse"}) as response:
            assert response.headers["stream-sse-data-encoding"] == "base64"
            assert (await read_events(response, 1))[0] == ("data", "AP8=")


async def test_many_readers_of_one_tail_all_hear_of_one_append(server: ServerProcess) -> None:
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(base_url=server.url, limits=limits) as client:
        await client.put("/v1/stream/crowd", headers=TEXT)
        # From the beginning, not from "now": on a busy machine some ask only when the append is done, and would wait for another.
        waiting = [asyncio.ensure_future(client.get("/v1/stream/crowd", params={"offset": "-1", "live": "long-poll"})) for _ in range(50)]
        await asyncio.sleep(0.2)
        await client.post("/v1/stream/crowd", headers=TEXT, content=b"all")
        assert {answer.content for answer in await asyncio.gather(*waiting)} == {b"all"}


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("nothing comes")


async def test_readers_are_woken_by_a_commit_to_their_path_and_forgotten_when_they_leave() -> None:
    waiters = Waiters()
    outer, inner = Reader(never), Reader(never)
    with waiters.waiting("a", outer):
        with waiters.waiting("a", inner):
            assert (len(waiters), waiters.count("a")) == (2, 2)
            waiting = asyncio.gather(outer.wait(5), inner.wait(5))
            await asyncio.sleep(0)
            waiters.wake(["b"])
            await asyncio.sleep(0)
            assert not waiting.done()
            waiters.wake(["a", "b"])
            assert await waiting == [True, True]
        outer.changed = False
        assert not await outer.wait(0.001), "nothing came"
        waiters.stop()
        assert await outer.wait(5), "the last time"
    assert len(waiters) == 0
    await outer.stop()
    await inner.stop()


async def test_a_reader_that_takes_the_news_at_once_is_not_woken() -> None:
    waiters, reader, taken = Waiters(), Reader(never), []

    def take() -> bool:
        taken.append(len(taken))
        return len(taken) < 3

    reader.take = take
    with waiters.waiting("a", reader):
        waiters.wake(["a"])
        assert (reader.changed, taken) == (True, []), "it was not waiting"
        reader.changed = False
        waiting = asyncio.ensure_future(reader.wait(5))
        await asyncio.sleep(0)
        waiters.wake(["a"])
        waiters.wake(["a"])
        await asyncio.sleep(0)
        assert not waiting.done()
        assert taken == [0, 1]
        waiters.wake(["a"])
        assert await waiting
    await reader.stop()


async def test_a_reader_notices_that_its_client_is_gone_in_both_ways() -> None:
    gone = asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    class Line:
        pushed = 0

        def on_hangup(self, call: Callable[[], None]) -> None:
            asyncio.get_running_loop().call_later(0.01, call)

        def push(self, data: bytes) -> bool:
            return False

    reader, other = Reader(receive), Reader(never, Line())
    waiting = asyncio.gather(reader.wait(5), other.wait(5))
    await asyncio.sleep(0)
    gone.set()
    assert await waiting == [False, False]
    assert reader.gone
    assert other.gone
    await reader.stop()
    await other.stop()


def test_a_page_is_built_once_while_it_is_held() -> None:
    pages, built = SharedPages(budget=100), []

    def build(number: int, size: int) -> bytes:
        built.append(number)
        return bytes([number]) * size

    for _ in range(3):
        assert pages.page(("life", "a", "b", "page"), lambda: build(1, 20)) == b"\x01" * 20
    assert built == [1]
    for number in range(2, 8):
        key = ("life", str(number), "b", "page")
        assert pages.page(key, lambda number=number: build(number, 20)) == bytes([number]) * 20  # type: ignore[misc]
    pages.page(("life", "a", "b", "page"), lambda: build(1, 20))
    assert built == [1, 2, 3, 4, 5, 6, 7, 1]
