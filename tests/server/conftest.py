"""A receiver of webhooks on loopback, and applications to subscribe to."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ds_sync.server.app import Application, create_app
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.server.subscriptions.targets import TargetPolicy
from ds_sync.testing.asgi_transport import AsgiTransport


@dataclass
class Delivery:
    """A request that arrived."""

    line: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.raw)
        return fields


def build_answer(status: str, body: bytes = b"{}", *fields: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", *fields, "", ""]).encode() + body


@dataclass
class Receiver:
    """An HTTP server that answers with `answer`: bytes as they are, b"" cuts the connection off, None never answers."""

    answer: bytes | None = field(default_factory=lambda: build_answer("200 OK"))
    deliveries: list[Delivery] = field(default_factory=list)
    url: str = ""
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _held: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._held.append(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        self.deliveries.append(Delivery(head[0], headers, await reader.readexactly(int(headers["content-length"]))))
        self._arrived.set()
        if self.answer is not None:
            writer.write(self.answer)
            writer.close()

    async def wait(self, number: int = 1, seconds: float = 5.0) -> Delivery:
        """Return the `number`th delivery, counted from 1."""
        async with asyncio.timeout(seconds):
            while len(self.deliveries) < number:
                self._arrived.clear()
                await self._arrived.wait()
        return self.deliveries[number - 1]

    def close(self) -> None:
        for writer in self._held:
            writer.transport.abort()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?x=1"
    yield made
    server.close()
    await asyncio.sleep(0.01)  # a connection may have been accepted in this very turn
    made.close()
    await asyncio.sleep(0)
    await server.wait_closed()


class Service:
    """An application over an engine, asked over HTTP."""

    def __init__(self, engine: StorageEngine, app: Application) -> None:
        self.engine = engine
        self.app = app
        self._transport = AsgiTransport(app)
        self._closed = False

    async def ask(
        self, method: str, path: str, body: object = None, *, token: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """Return status, headers and body, read as JSON if it is."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        fields = {"content-type": "application/json", **({} if token is None else {"authorization": f"Bearer {token}"}), **headers}
        answer = await self._transport.request(method, f"http://example.org/v1/stream/{path}", headers=fields, body=data, timeout=10.0)
        known = dict(answer.headers)
        return answer.status, known, json.loads(answer.body) if "json" in known.get("content-type", "") and answer.body else answer.body

    async def subscribe(self, name: str, **fields: object) -> dict[str, Any]:
        status, _, body = await self.ask("PUT", f"__ds/subscriptions/{name}", fields)
        assert status == 201, body
        return dict(body)

    async def append(self, path: str, message: object = "x") -> str:
        """Make the stream if need be; return the offset after the message."""
        await self.ask("PUT", path)
        _, headers, _ = await self.ask("POST", path, [message])
        return headers["stream-next-offset"]

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._transport.aclose()
        await self.app.aclose()
        await self.engine.aclose()


def build_service(engine: StorageEngine) -> Service:
    return Service(engine, create_app(engine, webhook_targets=TargetPolicy(allow_http=True)))


OpenService = Callable[[], Awaitable[Service]]


@pytest.fixture
async def open_durable(tmp_path: Path) -> AsyncIterator[OpenService]:
    """Open a service on a file, the same one each time; what is still open is closed at the end."""
    opened: list[Service] = []

    async def open_one() -> Service:
        opened.append(build_service(SqliteEngine(tmp_path / "streams.db")))
        await opened[-1].app.start()
        return opened[-1]

    yield open_one
    for service in opened:
        await service.aclose()


@pytest.fixture(params=["memory", "sqlite"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    """A service on each engine."""
    made = build_service(MemoryEngine() if request.param == "memory" else SqliteEngine(tmp_path / "streams.db"))
    yield made
    await made.aclose()


@pytest.fixture
async def plain() -> AsyncIterator[Service]:
    """A service in memory, for what has nothing to do with engines."""
    made = build_service(MemoryEngine())
    yield made
    await made.aclose()
