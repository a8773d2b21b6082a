"""WebSockets of our own HTTP/1.1 server, with the `websockets` package as the client."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Data

from ds_sync.server.front import websocket
from ds_sync.server.front.http1 import Http1Server
from ds_sync.server.gateway import PUSH
from ds_sync.server.responses import Receive, Scope, Send

pytestmark = pytest.mark.anyio

App = Callable[[Scope, Receive, Send], Awaitable[None]]

HANDSHAKE = (
    b"GET /x HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@asynccontextmanager
async def serving(app: App, tick: float = 1.0) -> AsyncIterator[int]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.setblocking(False)
    port: int = listener.getsockname()[1]
    server = Http1Server(app, tick=tick)
    await server.start(listener)
    try:
        yield port
    finally:
        await server.aclose()


class Echo:
    """An application that sends back what it gets, and notes what else it sees."""

    def __init__(self) -> None:
        self.scope: Scope = {}
        self.ended: dict[str, Any] = {}
        self.over = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        assert await receive() == {"type": "websocket.connect"}
        offered = scope["subprotocols"]
        await send({"type": "websocket.accept", "subprotocol": offered[0] if offered else None})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "close":
                await send({"type": "websocket.close", "code": 4001, "reason": "as you wish"})
                continue
            await send({**message, "type": "websocket.send"})
        self.ended = dict(message)
        self.over.set()


async def test_messages_go_both_ways() -> None:
    app = Echo()
    async with serving(app) as port:
        async with connect(f"ws://127.0.0.1:{port}/a%20b/c?x=1", subprotocols=["one", "two"], max_size=None) as client:  # type: ignore[list-item]
            assert client.subprotocol == "one"
            for message in ("text é😀", b"bytes", b"", "", b"x" * 70_000, b"y" * 15_000_000):
                await client.send(message)
                assert await client.recv() == message
            await client.send([b"in ", b"fragments"])
            assert await client.recv() == b"in fragments"
            assert await (await client.ping(b"?")) >= 0
            await client.close(3333, "enough")
        await asyncio.wait_for(app.over.wait(), 5)
    assert (app.scope["path"], app.scope["raw_path"], app.scope["query_string"]) == ("/a b/c", b"/a%20b/c", b"x=1")
    assert (b"host", f"127.0.0.1:{port}".encode()) in app.scope["headers"]
    assert app.ended == {"type": "websocket.disconnect", "code": 3333, "reason": "enough"}
    assert client.close_code == 3333


async def test_the_server_closes() -> None:
    app = Echo()
    async with serving(app) as port, connect(f"ws://127.0.0.1:{port}/") as client:
        await client.send("close")
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert (client.close_code, client.close_reason) == (4001, "as you wish")
        await asyncio.wait_for(app.over.wait(), 5)


async def test_a_client_that_breaks_off_is_reported() -> None:
    app = Echo()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head  # RFC 6455 section 1.3
        writer.transport.abort()
        await asyncio.wait_for(app.over.wait(), 5)
        assert app.ended["code"] == 1006


async def test_frames_right_behind_the_handshake_are_taken() -> None:
    async with serving(Echo()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE + b"\x82\x83\x00\x00\x00\x00abc")
        assert (await reader.readuntil(b"abc")).endswith(b"\x82\x03abc")
        writer.close()


async def test_broken_frames_end_their_connection_with_a_code() -> None:
    app = Echo()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x82\x03abc")  # no mask
        assert (await reader.readexactly(4))[2:] == (1002).to_bytes(2, "big")
        await asyncio.wait_for(app.over.wait(), 5)
        writer.close()
        async with connect(f"ws://127.0.0.1:{port}/", max_size=None) as client:
            await client.send(b"x" * (16 * 1024 * 1024 + 1))
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.close_code == 1009


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"version: 13", b"version: 8", b"426"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"c2hvcnQ=", b"400"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"!", b"400"),
        (b"GET", b"POST", b"400"),
        (b"host: h", b"host: h\r\ncontent-length: 3", b"400"),
    ],
)
async def test_a_bad_handshake_is_refused(old: bytes, new: bytes, status: bytes) -> None:
    async with serving(Echo()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE.replace(old, new))
        assert (await reader.readline()).startswith(b"HTTP/1.1 " + status)
        await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def test_refusing_before_accepting_is_403() -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 1008})

    async with serving(refuse) as port:
        with pytest.raises(InvalidStatus) as error:
            await connect(f"ws://127.0.0.1:{port}/")
        assert error.value.response.status_code == 403


@pytest.mark.parametrize(("failing", "code"), [(True, 1011), (False, 1000)])
async def test_an_application_that_leaves_closes(caplog: pytest.LogCaptureFixture, failing: bool, code: int) -> None:
    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        if failing:
            raise ValueError("on purpose")

    async with serving(leave) as port, connect(f"ws://127.0.0.1:{port}/") as client:
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == code
    assert ("on purpose" in caplog.text) == failing


async def test_what_is_pushed_arrives_in_order_whatever_its_size_and_however_fast_it_is_read() -> None:
    sizes = [1, 10, 70_000, 3, 65_000, 2_000_000, 1, 1, 60_000, 60_000, 60_000, 60_000, 60_000, 5] * 3

    async def push_all(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        push = scope["extensions"][PUSH]
        for number, size in enumerate(sizes):
            message = bytes((number,)) * size
            if not push(message):
                await send({"type": "websocket.send", "bytes": message})
            if number % 5 == 0:
                await asyncio.sleep(0)

    async with serving(push_all) as port, connect(f"ws://127.0.0.1:{port}/", max_size=None) as client:
        got = []
        for _ in sizes:
            await asyncio.sleep(0.001)
            message = await asyncio.wait_for(client.recv(), 5)
            assert isinstance(message, bytes)
            assert len(set(message)) == 1
            got.append((message[0], len(message)))
    assert got == list(enumerate(sizes))


async def test_who_does_not_read_holds_up_its_sender_only_and_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0
    refused = asyncio.Event()

    async def pour(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "websocket.accept"})
        push = scope["extensions"][PUSH]
        while push(b"x" * 65_536):
            sent += 1
        refused.set()
        try:
            async with asyncio.timeout(0.1):
                await send({"type": "websocket.send", "bytes": b"y"})
        except TimeoutError:
            return

    async with serving(pour) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(HANDSHAKE)
        await asyncio.wait_for(refused.wait(), 5)
        await asyncio.sleep(0.2)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            async with asyncio.timeout(5):
                await reader.readexactly((sent + 10) * 70_000)
        writer.close()


async def test_an_application_that_takes_nothing_stops_the_reading() -> None:
    go_on = asyncio.Event()
    taken = 0

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal taken
        await send({"type": "websocket.accept"})
        await receive()
        await go_on.wait()
        while (message := await receive())["type"] == "websocket.receive":
            taken += len(message["bytes"])

    async with serving(wait) as port, connect(f"ws://127.0.0.1:{port}/", write_limit=1024, max_size=None) as client:

        async def send_all() -> None:
            for _ in range(400):
                await client.send(b"x" * 100_000)

        sending = asyncio.ensure_future(send_all())
        await asyncio.sleep(0.3)
        assert not sending.done()
        go_on.set()
        await asyncio.wait_for(sending, 10)
        await client.close()
    assert taken == 40_000_000


async def test_empty_messages_that_nobody_takes_stop_the_reading() -> None:
    go_on = asyncio.Event()
    taken = 0

    async def take_late(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal taken
        await receive()
        await send({"type": "websocket.accept"})
        await go_on.wait()
        while (await receive())["type"] == "websocket.receive":
            taken += 1

    async with serving(take_late) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        chunk, written = b"\x82\x80\x00\x00\x00\x00" * 50_000, 0
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while written < 20_000_000:
                    written += len(chunk)
                    writer.write(chunk)
                    await writer.drain()
        assert written < 20_000_000
        writer.write(b"\x88\x80\x00\x00\x00\x00")
        go_on.set()
        async with asyncio.timeout(60):
            await writer.drain()
            await reader.read()
        assert taken == written // 6
        writer.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is short."""
    monkeypatch.setattr(websocket, "PING_SECONDS", 0.05)


@pytest.mark.usefixtures("hasty")
async def test_a_silent_client_is_pinged_twice_and_hung_up_on_though_its_system_acknowledges() -> None:
    app = Echo()
    async with serving(app, tick=0.02) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        assert await asyncio.wait_for(reader.readexactly(4), 5) == b"\x89\x00\x89\x00"
        await asyncio.wait_for(app.over.wait(), 5)
        assert app.ended["code"] == 1006
        writer.close()


@pytest.mark.usefixtures("hasty")
async def test_who_answers_pings_stays_though_it_is_written_to_all_the_time() -> None:
    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        for _ in range(60):
            await send({"type": "websocket.send", "bytes": b"x"})
            await asyncio.sleep(0.02)
        await send({"type": "websocket.close", "code": 4000})

    async with serving(talk, tick=0.02) as port, connect(f"ws://127.0.0.1:{port}/") as client:
        assert len([message async for message in client_messages(client)]) == 60
        assert client.close_code == 4000


@pytest.mark.usefixtures("hasty")
async def test_the_answer_to_a_ping_may_wait_behind_what_was_sent_before() -> None:
    """A slow line: the client reads a megabyte for as long as that may take, and answers no ping meanwhile."""

    async def pour(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        for _ in range(16):
            scope["extensions"][PUSH](b"x" * 65_536)
        ended.set_result((await receive()) and (await receive()))

    ended = asyncio.get_running_loop().create_future()
    async with serving(pour, tick=0.02) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.5)
        assert not ended.done()
        async with asyncio.timeout(10):
            assert (await ended)["code"] == 1006, "not for ever"
        writer.close()


@pytest.mark.usefixtures("hasty")
async def test_a_server_that_was_away_itself_blames_nobody() -> None:
    async with serving(Echo(), tick=0.02) as port, connect(f"ws://127.0.0.1:{port}/") as client:
        for _ in range(3):
            time.sleep(0.4)  # noqa: ASYNC251 - the whole process stands still
            await asyncio.sleep(0.1)
        await client.send(b"here")
        assert await client.recv() == b"here"


async def client_messages(client: ClientConnection) -> AsyncIterator[Data]:
    """Whatever comes, until the server closes."""
    with suppress(ConnectionClosed):
        while True:
            yield await client.recv()
