from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine


@pytest.fixture(params=["memory", "sqlite"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StorageEngine]:
    made: StorageEngine = MemoryEngine() if request.param == "memory" else SqliteEngine(tmp_path / "server.db")
    try:
        yield made
    finally:
        await made.aclose()
