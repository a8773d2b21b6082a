import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ds_sync.server.front.head import MAX_HEAD
from ds_sync.server.front.http1 import Http1Server
from ds_sync.server.responses import Receive, Scope, Send
from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.anyio

App = Callable[[Scope, Receive, Send], Awaitable[None]]

GET = b"GET /x HTTP/1.1\r\nhost: h\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with method, path and body."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-kind", b"echo")]})
    await send({"type": "http.response.body", "body": f"{scope['method']} {scope['path']} ".encode() + body})


@asynccontextmanager
async def serving(app: App, **options: float) -> AsyncIterator[int]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.setblocking(False)
    port: int = listener.getsockname()[1]
    server = Http1Server(app, **options)  # type: ignore[arg-type]
    await server.start(listener)
    try:
        yield port
    finally:
        await server.aclose()


async def talk(port: int, *pieces: bytes) -> bytes:
    """Send pieces; return all that comes until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.005)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


def last(request: bytes) -> bytes:
    return request.replace(b"\r\nhost: h\r\n", b"\r\nhost: h\r\nconnection: close\r\n")


def bodies(answers: bytes) -> list[bytes]:
    """The bodies of answers with a Content-Length, in order."""
    found = []
    while answers:
        head, _, answers = answers.partition(b"\r\n\r\n")
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        found.append(answers[:length])
        answers = answers[length:]
    return found


async def test_requests_follow_each_other_on_a_connection_also_when_they_are_sent_ahead() -> None:
    post = b"POST /y HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc"
    async with serving(echo) as port:
        answers = await talk(port, GET + post + GET[:10], GET[10:] + post + last(GET))
    assert answers.startswith(b"HTTP/1.1 200 OK\r\nx-kind: echo\r\ndate: ")
    assert bodies(answers) == [b"GET /x ", b"POST /y abc", b"GET /x ", b"POST /y abc", b"GET /x "]
    assert answers.count(b"connection: close") == 1


async def test_a_request_cut_anywhere_is_the_same_request() -> None:
    request = b"POST /y HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with serving(echo) as port:
        for size in (1, 7, 50):
            pieces = [request[start : start + size] for start in range(0, len(request), size)]
            assert bodies(await talk(port, *pieces)) == [b"POST /y abcde"]


async def test_a_large_body_is_read_as_the_application_reads_it() -> None:
    body = bytes(range(256)) * 8000
    async with serving(echo) as port:
        answer = await talk(port, b"POST /y HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    assert bodies(answer) == [b"POST /y " + body]


async def test_who_waits_for_permission_to_send_a_body_gets_it() -> None:
    async with serving(echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /y HTTP/1.1\r\nhost: h\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert bodies(await reader.read()) == [b"POST /y ok"]
        writer.close()


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in (b"one", b"", b"three"):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})


async def test_an_answer_in_parts() -> None:
    async with serving(stream) as port:
        assert (await talk(port, last(GET))).partition(b"\r\n\r\n")[2] == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"
        assert (await talk(port, b"GET / HTTP/1.0\r\n\r\n")).partition(b"\r\n\r\n")[2] == b"onethree"
        assert (await talk(port, last(GET).replace(b"GET", b"HEAD"))).partition(b"\r\n\r\n")[2] == b""


async def test_204_has_neither_body_nor_length() -> None:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b"ignored"})

    async with serving(nothing) as port:
        head, mark, body = (await talk(port, last(GET))).partition(b"\r\n\r\n")
    assert (mark, body) == (b"\r\n\r\n", b"")
    assert b"content-length" not in head
    assert b"transfer-encoding" not in head


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nhost: h\r\nx: " + b"a" * MAX_HEAD + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nwrong\r\n", 400),
    ],
)
async def test_what_can_not_be_read_is_answered_and_ends_the_connection(request_: bytes, status: int) -> None:
    async with serving(echo) as port:
        answer = await talk(port, request_)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in answer


async def test_a_request_that_does_not_come_ends() -> None:
    async with serving(echo, patience=0.1, tick=0.05) as port:
        assert (await talk(port, GET[:10])).startswith(b"HTTP/1.1 408 ")
        assert (await talk(port, b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nabc")).startswith(b"HTTP/1.1 408 ")


async def test_a_connection_that_asks_nothing_ends() -> None:
    async with serving(echo, idle=0.1, tick=0.05) as port:
        assert await talk(port) == b""
        assert bodies(await talk(port, GET)) == [b"GET /x "]


async def test_a_failure_before_the_answer_is_500_and_one_within_cuts_it_off(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"some", "more_body": True})
        raise RuntimeError("on purpose")

    async with serving(fail) as port:
        assert (await talk(port, GET)).startswith(b"HTTP/1.1 500 ")
        try:
            late = await talk(port, GET.replace(b"/x", b"/late"))
        except ConnectionResetError:
            late = b""
        assert b"0\r\n\r\n" not in late
    assert [record.message for record in caplog.records] == ["GET /x failed", "GET /late failed"]


async def test_who_sends_nothing_more_still_gets_its_answer() -> None:
    async with serving(echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        writer.write_eof()
        assert bodies(await reader.read()) == [b"GET /x "]
        writer.close()


async def test_the_application_hears_that_its_client_is_gone() -> None:
    heard = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        heard.set()

    async with serving(wait) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await asyncio.sleep(0.02)
        writer.close()
        async with asyncio.timeout(5):
            await heard.wait()


async def test_a_client_that_does_not_read_stops_its_writer_and_nobody_else() -> None:
    sent = 0

    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        if scope["path"] == "/x":
            await echo(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(400):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            sent += 1

    async with serving(flood) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET.replace(b"/x", b"/flood"))
        await asyncio.sleep(0.1)
        stopped = sent
        assert bodies(await talk(port, last(GET))) == [b"GET /x "]
        assert sent == stopped < 400
        writer.close()


async def test_who_stops_serving_ends_what_is_idle_and_finishes_what_is_asked() -> None:
    go = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await echo(scope, receive, send)

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.setblocking(False)
    port = listener.getsockname()[1]
    server = Http1Server(slow)
    await server.start(listener)
    idle, idle_writer = await asyncio.open_connection("127.0.0.1", port)
    asking = asyncio.ensure_future(talk(port, GET))
    await asyncio.sleep(0.05)
    server.stop_accepting()
    assert await idle.read() == b""
    go.set()
    answer = await asking
    assert bodies(answer) == [b"GET /x "]
    assert b"connection: close" in answer
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", port)
    await server.aclose()
    idle_writer.close()


async def test_what_is_not_http1_is_handed_on_byte_for_byte(tmp_path: Path) -> None:
    received: list[bytes] = []

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readexactly(len(hello)))
        writer.write(b"hello back")
        received.append(await reader.readexactly(500_000))
        writer.write(b"y" * 500_000)
        await writer.drain()
        writer.close()

    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"
    beyond = await asyncio.start_server(other, "127.0.0.1", 0)
    async with beyond, serving(echo, beyond=beyond.sockets[0].getsockname()[1]) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(hello)
        assert await reader.readexactly(10) == b"hello back"
        writer.write(b"x" * 500_000)
        assert await reader.read(-1) == b"y" * 500_000
        writer.close()
    assert received == [hello, b"x" * 500_000]


async def test_serve_hands_http2_to_granian() -> None:
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    with ServerProcess() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
        frame = await reader.readexactly(9)
        assert frame[3] == 4  # SETTINGS
        writer.close()


async def test_who_asks_ahead_and_does_not_read_is_not_answered_into_memory() -> None:
    asked = 0

    async def answer_much(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"500000")]})
        await send({"type": "http.response.body", "body": b"x" * 500_000})

    async with serving(answer_much) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(GET * 100)
        await asyncio.sleep(0.3)
        assert 0 < asked < 60
        received = 0
        async with asyncio.timeout(10):
            while received < 100 * 500_000:
                received += len(await reader.read(1_000_000))
        assert asked == 100
        writer.close()
