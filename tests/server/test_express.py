"""The express lane answers as the application does, byte for byte, and takes what it should."""

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ds_sync.environment import Environment
from ds_sync.server.app import Application, create_app
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.server.express import PlainAppend, PlainRead
from ds_sync.server.front.head import parse_head
from ds_sync.server.front.http1 import Http1Server
from ds_sync.server.lane import HELD_BYTES
from ds_sync.server.polls import PlainPoll

pytestmark = pytest.mark.anyio

OpenEngine = Callable[[str], StorageEngine]

FIELDS = {
    "text": "content-type: text/plain",
    "typed": "content-type: TEXT/plain; charset=utf-8",
    "json": "content-type: application/json",
    "closing": "stream-closed: true",
    "seq": "stream-seq: b",
    "life": "stream-incarnation: 00000000000000000000000000000000",
    "no life": "stream-incarnation: x",
    "producer": "producer-id: p\r\nproducer-epoch: 0\r\nproducer-seq: 0",
    "next": "producer-id: p\r\nproducer-epoch: 0\r\nproducer-seq: 1",
    "gap": "producer-id: p\r\nproducer-epoch: 0\r\nproducer-seq: 7",
    "stale": "producer-id: q\r\nproducer-epoch: 1\r\nproducer-seq: 0",
    "half": "producer-id: p",
    "expect": "expect: 100-continue",
    "cached": 'if-none-match: "other", *',
}
PATHS = (
    "/v1/stream/s",
    "/v1/stream/a%2Fb",
    "/v1/stream/j",
    "/v1/stream/gone",
    "/v1/stream/ttl",
    "/v1/stream/%2E",
    "/v1/stream/d/.updates",
    "/x",
)
OFFSETS = (
    "",
    "?offset=-1",
    "?offset=now",
    "?offset=0",
    f"?offset={0:016}_{0:016}",
    f"?offset={5:016}_{7:016}",
    "?offset=-1&offset=now",
    "?live=sse",
    "?offset=-1&live=long-poll",
    "?offset=-1&live=long-poll&cursor=999999999",
    "?offset=now&live=long-poll",
)
BODIES = (b"", b"body", b'["a", {"b": 1}]', b"[]", b"\x00\xff" * 100)


def build_request(method: str, target: str, fields: tuple[str, ...] = (), body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "host: h", *(FIELDS[name] for name in fields)]
    if body or method == "POST":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


SETTING = (
    build_request("PUT", "/v1/stream/s", ("text",)),
    build_request("PUT", "/v1/stream/a%2Fb", ("text",), b"first"),
    build_request("PUT", "/v1/stream/j", ("json",)),
    build_request("PUT", "/v1/stream/gone", ("text",)),
    build_request("DELETE", "/v1/stream/gone"),
    build_request("PUT", "/v1/stream/ttl", ("text",)).replace(b"host: h", b"host: h\r\nstream-ttl: 60"),
)

requests = st.one_of(
    st.builds(
        build_request,
        st.just("POST"),
        st.sampled_from(PATHS),
        st.lists(st.sampled_from(tuple(FIELDS)), max_size=3, unique=True).map(tuple),
        st.sampled_from(BODIES),
    ),
    st.builds(
        lambda path, offset, fields: build_request("GET", path + offset, fields),
        st.sampled_from(PATHS),
        st.sampled_from(OFFSETS),
        st.sampled_from(((), ("cached",))),
    ),
)


@pytest.fixture(params=["memory", "sqlite"])
def open_engine(request: pytest.FixtureRequest, tmp_path: Path) -> OpenEngine:
    numbers = iter(range(1000))
    return lambda name: MemoryEngine() if request.param == "memory" else SqliteEngine(tmp_path / f"{name}-{next(numbers)}.db")


@dataclass
class Served:
    app: Application
    port: int


@asynccontextmanager
async def serving(engine: StorageEngine, *, express: bool, max_body: int = 1000) -> AsyncIterator[Served]:
    world = Environment(now=lambda: 1_800_000_000.0, random=random.Random(1))
    app = create_app(engine, environment=world, max_body=max_body, sse_seconds=0.01, long_poll_timeout=0.01)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.setblocking(False)
    server = Http1Server(app, express=app.express if express else None)
    await server.start(listener)
    try:
        yield Served(app, listener.getsockname()[1])
    finally:
        await server.aclose()
        await app.aclose()
        await engine.aclose()


async def ask(port: int, requests: list[bytes]) -> bytes:
    """Send them all at once; return all answers, without their dates."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"".join(requests) + b"GET /nothing HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        async with asyncio.timeout(10):
            return re.sub(rb"(?<=\r\n)date: [^\r]*\r\n", b"", await reader.read())
    finally:
        writer.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(requests, max_size=12))
async def test_both_ways_give_the_same_answers(open_engine: OpenEngine, asked: list[bytes]) -> None:
    async with serving(open_engine("express"), express=True) as fast, serving(open_engine("ordinary"), express=False) as slow:
        answers = await ask(fast.port, [*SETTING, *asked]), await ask(slow.port, [*SETTING, *asked])
        assert answers[0] == answers[1]
        assert answers[0].count(b"HTTP/1.1 ") >= len(asked) + len(SETTING) + 1
        assert fast.app.metrics.answers == slow.app.metrics.answers
        assert fast.app.metrics.sent == slow.app.metrics.sent
        assert await fast.app.drain(1.0), "requests are counted in and out"


@pytest.mark.parametrize("request_", ["GET /v1/stream/s?offset=-1", "GET /v1/stream/s?offset=now", "POST /v1/stream/s"])
async def test_plain_requests_do_not_reach_the_application(open_engine: OpenEngine, request_: str) -> None:
    method, _, target = request_.partition(" ")
    async with serving(open_engine("plain"), express=True) as served:
        await ask(served.port, [*SETTING, build_request("POST", "/v1/stream/s", ("text",), b"one")])
        entered: list[str] = []

        async def fail(*_: object) -> None:
            entered.append(request_)
            raise AssertionError("the application was asked")

        served.app._serve = fail  # type: ignore[method-assign]
        answer = await ask(served.port, [build_request(method, target, ("text",), b"two" if method == "POST" else b"")])
        assert len(entered) == 1, "that is the request which ends the connection"
        assert answer.startswith(b"HTTP/1.1 204 " if method == "POST" else b"HTTP/1.1 200 ")


async def test_an_answer_that_is_held_is_not_given_of_another_state(open_engine: OpenEngine) -> None:
    async with serving(open_engine("held"), express=True) as served:
        read = build_request("GET", "/v1/stream/s?offset=-1")
        append = build_request("POST", "/v1/stream/s", ("text",), b"+")
        await ask(served.port, list(SETTING))
        bodies = [(await ask(served.port, [read, read])).split(b"\r\n\r\n")[1].partition(b"HTTP")[0]]
        for _ in range(3):
            await ask(served.port, [append])
            bodies.append((await ask(served.port, [read, read])).split(b"\r\n\r\n")[2].partition(b"HTTP")[0])
        assert bodies == [b"", b"+", b"++", b"+++"]
        await ask(served.port, [build_request("DELETE", "/v1/stream/s")])
        assert (await ask(served.port, [read])).startswith(b"HTTP/1.1 404 ")


async def test_what_is_held_is_bounded() -> None:
    async with serving(MemoryEngine(), express=True, max_body=100_000) as served:
        express = served.app.express
        assert express is not None
        for number in range(HELD_BYTES // 60_000 + 20):
            path = f"/v1/stream/large/{number}"
            make = build_request("PUT", path, ("text",), b"x" * 60_000)
            await ask(served.port, [make, build_request("GET", f"{path}?offset=-1")])
        assert HELD_BYTES - 70_000 < sum(len(head) + len(body) for _, _, head, body in express.lane.held.values()) <= HELD_BYTES


async def test_the_kinds_of_plain_requests() -> None:
    app = create_app(MemoryEngine())
    retaining = create_app(MemoryEngine(), retain_bytes=1000)

    def kind(line: str, *fields: str, of: Application = app) -> type[object]:
        assert of.express is not None
        return type(of.express.plan(parse_head("\r\n".join((f"{line} HTTP/1.1", "host: h", *fields)).encode())))

    nothing = type(None)
    try:
        assert kind("GET /v1/stream/s?offset=-1") is PlainRead
        assert kind("POST /v1/stream/s", "content-length: 3") is PlainAppend
        assert kind("POST /v1/stream/s", "content-length: 3", of=retaining) is nothing
        assert kind("POST /v1/stream/s", "transfer-encoding: chunked") is nothing
        assert kind("POST /v1/stream/s", "content-length: 3", "expect: 100-continue") is nothing
        assert kind("POST /v1/stream/s", "content-length: 99999999999") is nothing
        assert kind("GET /v1/stream/s?offset=-1&live=long-poll") is PlainPoll
        assert kind("GET /v1/stream/s?offset=-1&live=long-poll", "content-length: 3") is nothing
        assert kind("GET /v1/stream/s?offset=now&live=long-poll") is nothing
        assert kind("GET /v1/stream/s?offset=-1&live=sse") is nothing
        assert kind("GET /v1/stream/s?offset=@") is nothing
        assert kind("GET /v1/stream/yjs/a/docs/d/.updates") is nothing
        assert kind("GET /v1/stream/__ds/subscriptions/x") is nothing
        assert kind("GET /health") is nothing
        assert kind("HEAD /v1/stream/s") is nothing
    finally:
        await app.aclose()
        await retaining.aclose()
