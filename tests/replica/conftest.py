"""A server, a network that misbehaves on demand, and replicas on it: all in one process."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from pycrdt import Text

from ds_sync import Replica
from ds_sync.client.stream import StreamClient
from ds_sync.client.transport import Transport
from ds_sync.environment import Environment
from ds_sync.exceptions import NotFoundError
from ds_sync.protocol.framing import parse_frames
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.replica.document import Document, Status
from ds_sync.replica.local import Tuning
from ds_sync.server.app import create_app
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.testing.asgi_transport import AsgiTransport
from ds_sync.testing.faults import FaultyTransport

TUNING = Tuning(store_retry=0.02, heal_jitter=0.02, pause=0.1)
URL = "http://server"


async def _sleep_less(seconds: float) -> None:
    await asyncio.sleep(seconds / 5)


HASTY = Environment(sleep=_sleep_less)
"""Delays between attempts are a fifth. Tests that measure delays pass an Environment of their own."""


class World:
    """One server, and replicas each with a network of its own."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.url = URL
        self.data: Path | None = None
        self.app: Any = None
        self.engine: MemoryEngine | SqliteEngine | None = None
        self._options: dict[str, Any] = {}
        self._stack = stack
        self._servers: list[AsgiTransport] = []

    async def start(self, *, data: Path | None = None, app: Any = None, **options: Any) -> None:
        """Start the server: on `data`, or empty in memory; or start another application."""
        self.data, self._options = data, options
        self.engine = None if app else MemoryEngine() if data is None else SqliteEngine(data)
        self.app = app or create_app(self.engine, long_poll_timeout=2.0, compact_after=None, **options)  # type: ignore[arg-type]
        for server in self._servers:
            server.app = self.app

    async def stop(self) -> None:
        """End the server; live readers are cut off."""
        for server in self._servers:
            server.app = None
        if self.engine is not None:
            await self.app.drain(2.0)
            await self.app.aclose()
            await self.engine.aclose()
        self.engine = self.app = None

    async def restart(self, **options: Any) -> None:
        data = self.data
        before = self._options
        await self.stop()
        await self.start(data=data, **{**before, **options})

    def network(self) -> FaultyTransport:
        server = AsgiTransport(self.app)
        self._servers.append(server)
        self._stack.push_async_callback(server.aclose)
        return FaultyTransport(server)

    async def replica(self, name: str, *, online: bool = True, transport: Transport | None = None, **options: Any) -> Replica:
        options = {
            "tuning": TUNING,
            "environment": HASTY,
            "transport": transport or self.network(),
            "server": self.url if online else None,
            **options,
        }
        return await self._stack.enter_async_context(Replica(self.folder / f"{name}.db", **options))

    def client(self, path: str = "note", crdt: str = "yjs") -> StreamClient:
        return StreamClient(f"{self.url}/v1/stream/{crdt}/default/docs/{path}/.updates", transport=self.network())

    async def payloads(self, path: str = "note") -> list[bytes]:
        """What the stream holds, frame by frame."""
        client, data, offset = self.client(path), b"", BEGINNING
        try:
            while True:
                page = await client.read(offset)
                data, offset = data + page.data, page.next_offset
                if page.up_to_date:
                    break
        except NotFoundError:
            return []
        frames = parse_frames(data)
        assert frames.rest == b""
        return list(frames.payloads)

    async def settle(self) -> None:
        """Wait until requests that were given up have ended on the server, too."""
        for server in self._servers:
            await server.settle()
        await asyncio.sleep(0)

    async def set_back(self, backup: Path) -> None:
        """Put an older copy of the server's file in the place of the newer one."""
        assert self.data is not None
        data = self.data
        await self.stop()
        for path in self.folder.glob(f"{data.name}-*"):
            path.unlink()
        shutil.copy(backup, data)
        await self.start(data=data)

    async def back_up(self) -> Path:
        assert self.data is not None
        data, copy = self.data, self.folder / "backup"
        await self.stop()
        shutil.copy(data, copy)
        await self.start(data=data)
        return copy


class Foreign:
    """A plain Durable Streams server that knows neither documents nor incarnations; its pages end anywhere. An ASGI application."""

    def __init__(self, page: int = 7) -> None:
        self.page = page
        self.streams: dict[str, bytearray] = {}
        self.producers: dict[tuple[str, str], int] = {}

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        body = (await receive())["body"] if scope["method"] in ("POST", "PUT") else b""
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        status, sent, answer = await self.answer(scope["method"], scope["path"], query, headers, body)
        sent = {"content-type": "application/octet-stream", **sent}
        await send({"type": "http.response.start", "status": status, "headers": [(k.encode(), v.encode()) for k, v in sent.items()]})
        await send({"type": "http.response.body", "body": answer})

    async def answer(
        self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if method == "PUT":
            created = path not in self.streams
            stream = self.streams.setdefault(path, bytearray())
            return 201 if created else 200, {"stream-next-offset": f"{len(stream):010}"}, b""
        if path not in self.streams:
            return 404, {}, b""
        stream = self.streams[path]
        if method == "POST":
            key, seq = (path, headers["producer-id"]), int(headers["producer-seq"])
            last = self.producers.get(key, -1)
            if seq <= last:
                return 204, {"stream-next-offset": f"{len(stream):010}"}, b""
            if seq > last + 1:
                return 409, {"producer-expected-seq": str(last + 1), "producer-received-seq": str(seq)}, b""
            self.producers[key] = seq
            stream += body
            return 200, {"stream-next-offset": f"{len(stream):010}"}, b""
        at = 0 if query.get("offset", "-1") == "-1" else int(query["offset"])
        if query.get("live") == "sse":
            return 400, {}, b""
        if query.get("live") == "long-poll":
            for _ in range(20):
                if len(stream) > at:
                    break
                await asyncio.sleep(0.01)
        data = bytes(stream[at : at + self.page])
        end = min(at, len(stream)) + len(data)
        up_to_date = {"stream-up-to-date": "true"} if end == len(stream) else {}
        return 200, {"stream-next-offset": f"{end:010}", **up_to_date}, data


@pytest.fixture
async def world(tmp_path: Path, anyio_backend: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        made = World(tmp_path, stack)
        await made.start()
        stack.push_async_callback(made.stop)
        yield made


@pytest.fixture
def foreign() -> type[Foreign]:
    return Foreign


def text_of(document: Document) -> Text:
    text: Text = document.doc.get("body", type=Text)
    return text


class Acts:
    """What the tests do again and again."""

    @staticmethod
    def write(document: Document, words: str) -> None:
        text = text_of(document)
        text += words

    @staticmethod
    def read(document: Document) -> str:
        return str(text_of(document))

    @classmethod
    def words(cls, *documents: Document) -> list[str]:
        """What all of them hold, which is the same."""
        texts = {cls.read(document) for document in documents}
        assert len(texts) == 1, texts
        found = sorted(texts.pop().split())
        assert len(found) == len(set(found)), f"something stands twice: {found}"
        return found

    @staticmethod
    async def synced(*documents: Document) -> None:
        async with asyncio.timeout(10):
            for document in documents:
                await document.synced()

    @staticmethod
    async def until(condition: Callable[[], bool], what: str = "") -> None:
        """Wait until it is so, 10 seconds at most."""
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"never came about: {what}")

    @staticmethod
    async def state(document: Document, *states: str) -> Status:
        """Wait until the document is in one of the states."""
        async with asyncio.timeout(10):
            async for status in document.statuses():
                if status.state in states:
                    return status
        raise AssertionError("the document was closed")

    @staticmethod
    def edits(status: Status) -> int:
        return status.unsaved + status.unsent + status.sent + status.durable


@pytest.fixture
def acts() -> type[Acts]:
    return Acts
