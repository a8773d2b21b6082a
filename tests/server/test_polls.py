"""Long-polls that wait in the express lane end as those of the application do, byte for byte, and leave nothing behind."""

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ds_sync.environment import Environment
from ds_sync.server.app import Application, create_app
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.server.front.http1 import Http1Server

pytestmark = pytest.mark.anyio

OpenEngine = Callable[[], StorageEngine]

START = f"{0:016}_{0:016}"


def build_request(method: str, target: str, *fields: str, body: bytes = b"") -> bytes:
    return "\r\n".join((f"{method} {target} HTTP/1.1", "host: h", f"content-length: {len(body)}", *fields, "", "")).encode() + body


def poll(*fields: str, path: str = "/v1/stream/s", offset: str = START, more: str = "") -> bytes:
    return build_request("GET", f"{path}?offset={offset}&live=long-poll{more}", *fields)


def append(body: bytes, *fields: str) -> bytes:
    return build_request("POST", "/v1/stream/s", "content-type: text/plain", *fields, body=body)


MAKE = build_request("PUT", "/v1/stream/s", "content-type: text/plain")
FORK = build_request("PUT", "/v1/stream/f", "content-type: text/plain", "stream-forked-from: /v1/stream/s")
DELETE = build_request("DELETE", "/v1/stream/s")
CLOSE = build_request("POST", "/v1/stream/s", "stream-closed: true")
LAST = "connection: close"


@pytest.fixture(params=["memory", "sqlite"])
def open_engine(request: pytest.FixtureRequest, tmp_path: Path) -> OpenEngine:
    numbers = iter(range(1000))
    return lambda: MemoryEngine() if request.param == "memory" else SqliteEngine(tmp_path / f"{next(numbers)}.db")


@dataclass
class Served:
    app: Application
    port: int

    async def connect(self, *requests: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"".join(requests))
        return reader, writer

    async def ask(self, *requests: bytes) -> bytes:
        """Return all that comes until the server hangs up: the last request has to ask for that."""
        reader, writer = await self.connect(*requests)
        try:
            return await read(reader)
        finally:
            writer.close()

    async def do(self, *requests: bytes) -> None:
        for request in requests:
            answer = await self.ask(request.replace(b"host: h", b"host: h\r\nconnection: close"))
            assert answer.startswith(b"HTTP/1.1 20"), answer

    async def until_waiting(self, count: int) -> None:
        for _ in range(5000):
            if len(self.app.metrics._waiters) == count:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"there never were {count} who waited")


async def read(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        return re.sub(rb"(?<=\r\n)date: [^\r]*\r\n", b"", await reader.read())


@asynccontextmanager
async def serving(engine: StorageEngine, *, express: bool = True, timeout: float = 30.0) -> AsyncIterator[Served]:
    world = Environment(now=lambda: 1_800_000_000.0, random=random.Random(1))
    app = create_app(engine, environment=world, long_poll_timeout=timeout)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.setblocking(False)
    server = Http1Server(app, express=app.express if express else None)
    await server.start(listener)
    served = Served(app, listener.getsockname()[1])
    try:
        await served.do(MAKE)
        yield served
    finally:
        await server.aclose()
        await app.aclose()
        await engine.aclose()


async def in_both_ways(open_engine: OpenEngine, play: Callable[[Served], Awaitable[bytes]], *, timeout: float = 30.0) -> bytes:
    """Return what both ways answered: the same, and counted the same."""
    answers, counts = [], []
    for express in (True, False):
        async with serving(open_engine(), express=express, timeout=timeout) as served:
            answers.append(await play(served))
            await served.until_waiting(0)
            assert await served.app.drain(1.0), "requests are counted in and out"
            counts.append((served.app.metrics.answers, served.app.metrics.sent))
    assert answers[0] == answers[1]
    assert counts[0] == counts[1]
    return answers[0]


@pytest.mark.parametrize(
    ("events", "status", "body"),
    [
        pytest.param((append(b"news"),), b"200", b"news", id="append"),
        pytest.param((CLOSE,), b"204", b"", id="close"),
        pytest.param((append(b"the end", "stream-closed: true"),), b"200", b"the end", id="append and close"),
        pytest.param((DELETE,), b"404", b"", id="delete"),
        pytest.param((FORK, append(b"news")), b"200", b"news", id="fork, then append"),
        pytest.param((FORK, DELETE), b"410", b"", id="fork, then delete"),
    ],
)
async def test_what_ends_the_waiting(open_engine: OpenEngine, events: tuple[bytes, ...], status: bytes, body: bytes) -> None:
    async def play(served: Served) -> bytes:
        waiting = asyncio.ensure_future(served.ask(poll(LAST)))
        await served.until_waiting(1)
        await served.do(*events)
        return await waiting

    answer = await in_both_ways(open_engine, play)
    assert answer.startswith(b"HTTP/1.1 %b " % status)
    assert answer.endswith(b"\r\n\r\n" + body) or status not in (b"200", b"204")
    assert (b"stream-closed: true" in answer) == any(b"stream-closed" in event for event in events)
    assert (b"\r\nstream-cursor: " in answer) == (status in (b"200", b"204"))


@pytest.mark.parametrize("more", ["", "&cursor=3", "&cursor=999999999", "&cursor=@"])
async def test_the_time_is_over(open_engine: OpenEngine, more: str) -> None:
    answer = await in_both_ways(open_engine, lambda served: served.ask(poll(LAST, more=more)), timeout=0.02)
    assert answer.startswith(b"HTTP/1.1 204 ")
    cursor = re.search(rb"\r\nstream-cursor: (\d+)\r\n", answer)
    assert cursor is not None
    assert (int(cursor[1]) > 999_999_999) == (more == "&cursor=999999999")
    assert b"\r\nstream-up-to-date: true\r\n" in answer


async def test_what_is_there_is_answered_at_once_and_a_cached_page_is_not_sent_again(open_engine: OpenEngine) -> None:
    async def play(served: Served) -> bytes:
        await served.do(append(b"one"), append(b"two"))
        first = await served.ask(poll(), poll(LAST, offset="-1"))
        etag = re.search(rb'\r\netag: ("[^"]+")', first)
        assert etag is not None
        return first + await served.ask(poll(LAST, f"if-none-match: {etag[1].decode()}"))

    answers = (await in_both_ways(open_engine, play)).split(b"HTTP/1.1 ")[1:]
    assert [(answer[:3], answer.partition(b"\r\n\r\n")[2]) for answer in answers] == [
        (b"200", b"onetwo"),
        (b"200", b"onetwo"),
        (b"304", b""),
    ]


@pytest.mark.parametrize("offset", [f"{5:016}_{7:016}", "@"])
async def test_places_that_are_none_are_refused(open_engine: OpenEngine, offset: str) -> None:
    answer = await in_both_ways(open_engine, lambda served: served.ask(poll(LAST, offset=offset)))
    assert answer.startswith(b"HTTP/1.1 4")


async def test_requests_sent_ahead_wait_for_their_turn(open_engine: OpenEngine) -> None:
    async def play(served: Served) -> bytes:
        following = poll(), append(b"own"), poll(), build_request("GET", "/v1/stream/s?offset=-1", LAST)
        waiting = asyncio.ensure_future(served.ask(*following))
        await served.until_waiting(1)
        await served.do(append(b"news"))
        return await waiting

    answers = (await in_both_ways(open_engine, play)).split(b"HTTP/1.1 ")[1:]
    assert [answer.partition(b"\r\n\r\n")[2] for answer in answers] == [b"news", b"", b"newsown", b"newsown"]


async def test_who_stops_sending_while_waiting_is_refused(open_engine: OpenEngine) -> None:
    async def play(served: Served) -> bytes:
        reader, writer = await served.connect(poll())
        await served.until_waiting(1)
        writer.write_eof()
        answer = await read(reader)
        writer.close()
        return answer

    assert b'"INCOMPLETE_REQUEST"' in await in_both_ways(open_engine, play)


async def test_who_hangs_up_is_forgotten(open_engine: OpenEngine) -> None:
    async def play(served: Served) -> bytes:
        _, writer = await served.connect(poll(), append(b"asked ahead, not answered, not done"))
        other = asyncio.ensure_future(served.ask(poll(LAST)))
        await served.until_waiting(2)
        writer.transport.abort()
        await served.until_waiting(1)
        await served.do(append(b"news"))
        return await other

    assert (await in_both_ways(open_engine, play)).endswith(b"\r\n\r\nnews")


async def test_a_server_that_stops_sends_everybody_home(open_engine: OpenEngine) -> None:
    async def play(served: Served) -> bytes:
        waiting = [asyncio.ensure_future(served.ask(poll(LAST))) for _ in range(3)]
        await served.until_waiting(3)
        assert await served.app.drain(5.0)
        late = await served.ask(poll(LAST))
        assert {await answer for answer in waiting} == {late}
        return late

    assert (await in_both_ways(open_engine, play)).startswith(b"HTTP/1.1 204 ")


async def test_many_wait_without_the_application_and_each_gets_a_cursor_of_its_own(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(open_engine()) as served:

        async def fail(*_: object) -> None:
            raise AssertionError("the application was asked")

        monkeypatch.setattr(served.app, "_serve", fail)
        waiting = [asyncio.ensure_future(served.ask(poll(LAST, more=f"&cursor={10**9 * number}"))) for number in range(1, 30)]
        await served.until_waiting(29)
        writing = asyncio.ensure_future(served.ask(append(b"all", LAST)))
        answers = await asyncio.gather(*waiting)
        await writing
        cursors = [re.search(rb"\r\nstream-cursor: (\d+)\r\n", answer) for answer in answers]
        assert [int(cursor[1]) // 10**9 for cursor in cursors if cursor] == list(range(1, 30))
        assert all(answer.endswith(b"\r\n\r\nall") for answer in answers)
        assert served.app.express is not None
        assert len(served.app.express.lane.held) == 1, "one page for all of them"


async def test_news_that_only_the_file_holds_is_answered_from_there(tmp_path: Path) -> None:
    async with serving(SqliteEngine(tmp_path / "streams.db", recent_bytes=0)) as served:
        waiting = asyncio.ensure_future(served.ask(poll(LAST)))
        await served.until_waiting(1)
        await served.do(append(b"news"))
        answer = await waiting
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nnews")


async def test_streams_that_are_renewed_by_waiting_are_left_to_the_application(open_engine: OpenEngine) -> None:
    async def play(served: Served) -> bytes:
        await served.do(build_request("PUT", "/v1/stream/brief", "content-type: text/plain", "stream-ttl: 60"))
        return await served.ask(poll(LAST, path="/v1/stream/brief"))

    assert b"stream-ttl: 60" in await in_both_ways(open_engine, play, timeout=0.02)
