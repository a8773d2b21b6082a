"""A compaction worker in this process: for tests and the simulator, which can't wait for another process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ds_sync.crdt import load_adapter
from ds_sync.server.documents.compaction import Worker
from ds_sync.server.documents.worker import Compaction


class InlineWorker:
    """Does at once what `ds_sync.server.documents.worker` does in a process."""

    def __init__(self, adapter: str) -> None:
        self.compaction = Compaction(load_adapter(adapter))

    async def feed(self, frames: bytes) -> None:
        """Apply the frames."""
        self.compaction.feed(frames)

    async def snapshot(self) -> tuple[bytes, int]:
        """Return the snapshot, and how many updates it lacks."""
        return self.compaction.snapshot(), self.compaction.refused

    async def verify(self, stored: bytes) -> bool:
        """Compare."""
        return self.compaction.is_same(stored)


@asynccontextmanager
async def open_inline(adapter: str) -> AsyncIterator[Worker]:
    """Give an InlineWorker: what `create_app(open_worker=...)` takes."""
    yield InlineWorker(adapter)
