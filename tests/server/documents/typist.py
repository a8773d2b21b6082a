"""Who writes to a document and knows what it must hold, and a worker that can misbehave."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pycrdt import Doc, Text

from ds_sync.client.transport import Response
from ds_sync.crdt import load_adapter
from ds_sync.protocol.framing import build_frames, parse_frames
from ds_sync.server.app import create_app
from ds_sync.server.documents.compaction import Worker
from ds_sync.server.documents.worker import Compaction
from ds_sync.server.engines.base import StorageEngine
from ds_sync.testing.asgi_transport import AsgiTransport

ROOT = "yjs/notes/docs/a"
DOC = "http://example.org/v1/yjs/notes/docs/a"


@dataclass
class Inline:
    """A worker in this process, which can be told to misbehave."""

    compaction: Compaction = field(default_factory=lambda: Compaction(load_adapter("yjs")))
    spoil: Callable[[bytes], bytes] = bytes
    believe: bool = False

    async def feed(self, frames: bytes) -> None:
        self.compaction.feed(frames)

    async def snapshot(self) -> tuple[bytes, int]:
        return self.spoil(self.compaction.snapshot()), self.compaction.refused

    async def verify(self, stored: bytes) -> bool:
        return self.compaction.is_same(stored)


@asynccontextmanager
async def open_inline(adapter: str) -> AsyncIterator[Worker]:
    assert adapter == "yjs"
    yield Inline()


class Typist:
    """Writes to the document, and knows what it must hold."""

    def __init__(self, engine: StorageEngine, after: int | None, open_worker: Callable[[str], object] | None = open_inline) -> None:
        self.app = create_app(engine, compact_after=after, open_worker=open_worker)  # type: ignore[arg-type]
        self.transport = AsgiTransport(self.app)
        self.doc = Doc[Any]()
        self.text: Text = self.doc.get("body", type=Text)
        self.updates: list[bytes] = []
        self.doc.observe(lambda event: self.updates.append(bytes(event.update)))

    async def __call__(self, method: str, url: str, body: bytes = b"") -> Response:
        return await self.transport.request(method, url, headers={}, body=body, timeout=10)

    async def type(self, words: str) -> None:
        self.text += words
        await self.send()

    async def send(self) -> None:
        assert (await self("POST", DOC, build_frames(self.updates))).status == 204
        self.updates.clear()

    async def newest(self) -> str:
        answer = await self("GET", f"{DOC}?offset=snapshot")
        assert answer.status == 307
        return answer.headers["location"].partition("?offset=")[2]

    async def wait_for_snapshot(self, other_than: str = "-1") -> str:
        for _ in range(1000):
            if (found := await self.newest()) not in ("-1", other_than):
                return found
            await asyncio.sleep(0.02)
        raise AssertionError("no snapshot came")

    async def join(self) -> str:
        """Return the text a newcomer sees: the snapshot, and what follows it."""
        doc, offset = Doc[Any](), await self.newest()
        if offset.endswith("_snapshot"):
            answer = await self("GET", f"{DOC}?offset={offset}")
            assert answer.status == 200
            doc.apply_update(answer.body)
            offset = answer.headers["stream-next-offset"]
        answer = await self("GET", f"{DOC}?offset={offset}")
        assert answer.status == 200
        for update in parse_frames(answer.body).payloads:
            doc.apply_update(update)
        return str(doc.get("body", type=Text))

    async def aclose(self) -> None:
        await self.app.aclose()
        await self.transport.aclose()
