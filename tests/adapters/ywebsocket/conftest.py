import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ds_sync.server.app import create_app
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.memory import MemoryEngine

sys.path.insert(0, str(Path(__file__).parent))  # for talking.py
from talking import House

OpenHouse = Callable[..., Awaitable[House]]


@pytest.fixture
async def open_house() -> AsyncIterator[OpenHouse]:
    """Open an application on an engine; by default, one in memory."""
    opened: list[House] = []

    async def open_one(engine: StorageEngine | None = None, **options: Any) -> House:
        engine = engine or MemoryEngine()
        opened.append(House(engine, create_app(engine, **options)))
        return opened[-1]

    yield open_one
    for house in opened:
        await house.aclose()


@pytest.fixture
async def house(open_house: OpenHouse) -> House:
    return await open_house()
