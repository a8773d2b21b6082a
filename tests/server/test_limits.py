"""What one client may take, on real sockets: too much, too many, too slow."""

import asyncio
import json
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from ds_sync.cli.serve_limits import OWN_FILES, allow_open_files
from ds_sync.server.app import create_app
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.front.http1 import Http1Server
from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.anyio

TEXT = {"content-type": "text/plain"}
MEGABYTE = 1024 * 1024


Log = Callable[[], list[tuple[str, str, int]]]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Log:
    """What the access log says: method, path and status of each line."""
    caplog.set_level(logging.INFO, "ds_sync.access")
    fields = ("method", "path", "status")
    return lambda: [tuple(vars(record)["fields"][name] for name in fields) for record in caplog.records if record.name == "ds_sync.access"]


@asynccontextmanager
async def serving(*, held: int = 1, **options: Any) -> AsyncIterator[tuple[Http1Server, int, MemoryEngine]]:
    """A whole server in this process; it looks at its clients twenty times a second."""
    engine = MemoryEngine()
    app = create_app(engine, page_bytes=64 * MEGABYTE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        server = Http1Server(app, tick=0.05, **options)
        await server.start(listener)
        try:
            async with httpx.AsyncClient() as client:
                await client.put(f"http://127.0.0.1:{port}/v1/stream/a", headers=TEXT)
                await client.post(f"http://127.0.0.1:{port}/v1/stream/a", headers=TEXT, content=b"x" * held)
            yield server, port, engine
        finally:
            await server.aclose()
            await app.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nobody tells when a connection is gone
            await asyncio.sleep(0.01)


async def ask(port: int, *pieces: bytes, pause: float = 0.0) -> tuple[int, dict[str, str], bytes]:
    """Send a request in pieces; return the answer's status, headers and body, up to the hang-up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause)
        async with asyncio.timeout(10):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    line, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    return int(line.split()[1]), headers, body


def post(length: int) -> bytes:
    return b"POST /v1/stream/a HTTP/1.1\r\nhost: h\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % length


def require_refusal(answer: tuple[int, dict[str, str], bytes], status: int, code: str) -> None:
    found, headers, body = answer
    assert (found, json.loads(body)["error"]["code"]) == (status, code)
    assert headers["cache-control"] == "no-store"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["connection"] == "close"


async def test_a_url_and_headers_too_long(logged: Log) -> None:
    async with serving(max_target=300, max_head=2000) as (server, port, _):
        require_refusal(await ask(port, b"GET /" + b"a" * 300 + b" HTTP/1.1\r\nhost: h\r\n\r\n"), 414, "URL_TOO_LONG")
        require_refusal(await ask(port, b"GET / HTTP/1.1\r\nhost: h\r\nx: " + b"a" * 2000), 431, "HEADERS_TOO_LARGE")
        assert (await ask(port, b"GET /health HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx: " + b"a" * 1900 + b"\r\n\r\n"))[0] == 200
        assert server.refused == {414: 1, 431: 1}
        assert logged()[-3:] == [("-", "-", 414), ("-", "-", 431), ("GET", "/health", 200)]


@pytest.mark.parametrize("begun", [b"GET", b"GET /health HTTP/1.1\r\nhost: h\r\n"])
async def test_a_head_that_does_not_come(begun: bytes) -> None:
    async with serving(patience=0.2) as (_, port, _):
        require_refusal(await ask(port, begun), 408, "REQUEST_TIMEOUT")


async def test_a_head_that_drips_gets_no_more_time() -> None:
    async with serving(patience=0.2) as (_, port, _):
        began = asyncio.get_running_loop().time()
        require_refusal(await ask(port, *(bytes((byte,)) for byte in b"GET /health HTTP/1.1"), pause=0.02), 408, "REQUEST_TIMEOUT")
        assert asyncio.get_running_loop().time() - began < 2


async def test_a_connection_that_was_quiet_has_all_its_time_for_the_next_request() -> None:
    async with serving(patience=0.3, idle=5) as (_, port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0.5)
        writer.write(b"GET /health HTTP/1.1\r\n")
        await asyncio.sleep(0.1)
        writer.write(b"host: h\r\n\r\n")
        async with asyncio.timeout(5):
            assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        writer.close()


async def test_a_body_that_drips_is_not_appended(logged: Log) -> None:
    async with serving(patience=0.2) as (_, port, engine):
        require_refusal(await ask(port, post(1000), *([b"x"] * 30), pause=0.02), 408, "REQUEST_TIMEOUT")
        assert (await engine.read("a", None, 0)).end.position == 1
        assert logged()[-1] == ("POST", "/v1/stream/a", 408)
        assert len(logged()) == 3  # one for each request


async def test_a_body_that_keeps_up_may_take_its_time() -> None:
    async with serving(patience=0.5, min_rate=100) as (_, port, engine):
        status, _, _ = await ask(port, post(1500), *([b"x" * 50] * 30), pause=0.03)
        assert status == 204
        assert (await engine.read("a", None, 0)).end.position == 1501


async def test_who_reads_nothing_is_cut_off_and_lets_go_of_the_memory() -> None:
    async with serving(held=20 * MEGABYTE, patience=0.3) as (server, port, _):
        with socket.create_connection(("127.0.0.1", port)) as reader:
            reader.sendall(b"GET /v1/stream/a HTTP/1.1\r\nhost: h\r\n\r\n")
            await until(lambda: len(server.connections) > 0)
            await until(lambda: not server.connections)
            assert server.refused == {0: 1}


async def test_who_reads_slowly_but_steadily_gets_everything() -> None:
    async with serving(held=20 * MEGABYTE, patience=0.8, min_rate=100_000) as (server, port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=64 * 1024)
        writer.write(b"GET /v1/stream/a HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        received = 0
        while data := await reader.read(MEGABYTE // 2):
            received += len(data)
            await asyncio.sleep(0.04)
        writer.close()
        assert received > 20 * MEGABYTE
        assert server.refused == {}


async def test_an_answer_that_is_its_connections_last_does_not_wait_for_its_reader_either() -> None:
    async with serving(held=20 * MEGABYTE, patience=0.3) as (server, port, _):
        with socket.create_connection(("127.0.0.1", port)) as reader:
            reader.sendall(b"GET /v1/stream/a HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
            await until(lambda: len(server.connections) == 1)
            await until(lambda: not server.connections)


async def test_connections_above_the_limit_are_told_to_come_again(logged: Log) -> None:
    async with serving(max_connections=2) as (server, port, _):
        await until(lambda: not server.connections)
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await until(lambda: len(server.connections) == 2)
        answer = await ask(port, b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n")
        require_refusal(answer, 429, "TOO_MANY_CONNECTIONS")
        assert answer[1]["retry-after"] == "5"
        assert logged()[-1] == ("-", "-", 429)
        held[0][1].write(b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n")
        assert await held[0][0].readline() == b"HTTP/1.1 200 OK\r\n"
        held[1][1].close()
        await until(lambda: len(server.connections) == 1)
        assert (await ask(port, b"GET /health HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"))[0] == 200
        held[0][1].close()


async def test_a_flood_of_connections_is_cut_off() -> None:
    async with serving(max_connections=1) as (server, port, _):
        await until(lambda: not server.connections)
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        async with asyncio.timeout(5):
            for reader, _ in held[2:]:
                assert await reader.read() == b""
        assert len(server.connections) == 2
        for _, writer in held:
            writer.close()


async def test_a_connection_in_http2_counts_as_the_three_it_takes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as beyond:
        async with serving(max_connections=3, beyond=beyond.getsockname()[1]) as (server, port, _):
            await until(lambda: not server.connections)
            _, tunnel = await asyncio.open_connection("127.0.0.1", port)
            tunnel.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            await until(lambda: server.tunnels == 1)
            require_refusal(await ask(port, b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n"), 429, "TOO_MANY_CONNECTIONS")
            tunnel.close()
            await until(lambda: not server.tunnels)
            assert (await ask(port, b"GET /health HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"))[0] == 200


async def test_streams_above_the_limit_are_refused_and_those_there_go_on() -> None:
    app = create_app(MemoryEngine(), max_streams=2)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x/v1") as client:
        for path in ("stream/a", "yjs/s/docs/d"):
            assert (await client.put(path, headers=TEXT)).status_code == 201
        fork = {**TEXT, "stream-forked-from": "/v1/stream/a"}
        for path, headers in (("stream/b", TEXT), ("yjs/s/docs/e", TEXT), ("stream/f", fork)):
            answer = await client.put(path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (507, "STREAM_LIMIT_REACHED")
            assert int(answer.headers["retry-after"]) > 0
            assert (await client.head(path)).status_code == 404
        assert (await client.put("stream/a", headers=TEXT)).status_code == 200
        assert (await client.post("stream/a", headers=TEXT, content=b"x")).status_code == 204
        await client.delete("stream/a")
        assert (await client.put("stream/b", headers=TEXT)).status_code == 201
    await app.aclose()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header in HPACK, spelled out; `value` has less than 127 bytes, or 10,000."""
    length = bytes((len(value),)) if len(value) < 127 else b"\x7f\x91\x4d"
    return b"\x00" + bytes((len(name),)) + name + length + value


def ask_http2(port: int, headers: bytes, awaited: bytes) -> None:
    """Send a request's headers in HTTP/2, by hand, and read until what is awaited has come."""
    frames = frame(1, 0, 1, b"") + b"".join(frame(9, 0, 1, headers[at : at + 16000]) for at in range(0, len(headers), 16000))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frames + frame(9, 4, 1, b""))
        received = b""
        while awaited not in received:
            data = connection.recv(65536)
            assert data, received
            received += data


def test_http2_has_a_limit_of_headers_and_of_time() -> None:
    with ServerProcess(options=("--request-timeout", "0.4")) as server:
        httpx.put(f"{server.url}/v1/stream/a", headers=TEXT)
        where = literal(b":path", b"/v1/stream/a") + literal(b":authority", b"h")
        # \x82, \x83 and \x86 are GET, POST and http; the answer is 431 in HPACK's Huffman code, without a body.
        ask_http2(server.port, b"\x82\x86" + where + literal(b"x", b"a" * 10_000) * 4, b"H\x83i\x90\xff")
        ask_http2(server.port, b"\x83\x86" + where + literal(b"content-type", b"text/plain"), b"REQUEST_TIMEOUT")
        assert httpx.get(f"{server.url}/v1/stream/a").content == b""


def test_the_options_arrive() -> None:
    options = (
        "--max-head",
        "1024",
        "--max-url",
        "300",
        "--max-connections",
        "50",
        "--max-streams",
        "1",
        "--min-rate",
        "1",
        "--idle-timeout",
        "9",
    )
    with ServerProcess(options=options) as server, httpx.Client(base_url=server.url) as client:
        assert client.put("/v1/stream/a", headers=TEXT).status_code == 201
        assert client.put("/v1/stream/b", headers=TEXT).status_code == 507
        assert httpx.get(f"{server.url}/{'a' * 400}").status_code == 414
        assert httpx.get(f"{server.url}/health", headers={"x": "a" * 1500}).status_code == 431


def test_the_system_limits_connections_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    allowed: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: allowed.append(limits))
    most = allow_open_files(20_000)
    assert 3500 < most <= 4096 - OWN_FILES - most // 10
    assert allow_open_files(1000) == 1000
    assert allow_open_files(100) == 100
    assert allowed == [(4096, 4096), (1100 + OWN_FILES, 4096)]
