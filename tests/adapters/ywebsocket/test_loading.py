"""What a room is loaded from, when it is let go, and what becomes of it when that is dropped."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from ds_sync_ywebsocket import gateway
from talking import House, write_update

from ds_sync.exceptions import GoneError
from ds_sync.protocol.history import Place
from ds_sync.server.engines.base import Run
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine

pytestmark = pytest.mark.anyio
R = TypeVar("R")
OpenHouse = Callable[..., Awaitable[House]]


class TrimmingEngine(MemoryEngine):
    """Has dropped what is asked for, `times` times."""

    times = 0

    async def read(self, path: str, after: Place | None, limit: int) -> Run:
        if self.times and limit and path.endswith("/.updates"):
            self.times -= 1
            raise GoneError("dropped", code="OFFSET_EXPIRED")
        return await super().read(path, after, limit)


async def test_what_is_dropped_while_a_room_is_loaded_is_in_a_newer_snapshot(open_house: OpenHouse) -> None:
    engine = TrimmingEngine()
    house = await open_house(engine)
    await house.append([write_update("x")])
    engine.times = 2
    ann = await house.join()
    assert (str(ann.text), engine.times) == ("x", 0)


async def test_a_room_that_has_fallen_behind_begins_again(open_house: OpenHouse) -> None:
    engine = TrimmingEngine()
    house = await open_house(engine)
    ann = await house.join()
    engine.times = 1
    await house.append([write_update("x")])
    await ann.wait(lambda client: client.closed is not None)
    assert ann.closed is not None
    assert ann.closed[0] == 1013
    again = await house.join()
    assert str(again.text) == "x"


class NotingEngine(SqliteEngine):
    """Notes what is read: of which stream, from which position on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.noted: list[tuple[str, int]] = []

    async def read(self, path: str, after: Place | None, limit: int) -> Run:
        if after is not None and limit:
            self.noted.append((path, after.position))
        return await super().read(path, after, limit)


async def test_an_idle_room_is_let_go_and_loaded_again_from_snapshot_and_updates(
    tmp_path: Path, open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(gateway, "ROUND_SECONDS", 0.02)
    engine = NotingEngine(tmp_path / "streams.db")
    house = await open_house(engine, compact_after=1000)
    ann, _ = await house.join(), await house.join()
    ann.edit("x" * 2000)
    await ann.wait(lambda client: bool(client.updates()))
    await snapshot_of_the_room(house)
    ann.edit("y")
    await ann.wait(lambda client: len(client.updates()) == 2)
    await ann.hang_up()
    await asyncio.sleep(0.2)
    engine.noted.clear()
    await house.join()
    assert engine.noted == [], "somebody is there: the room is held"
    for client in house.clients:
        await client.hang_up()
    await asyncio.sleep(0.2)
    late = await house.join()
    assert str(late.text) == "x" * 2000 + "y"
    updates = [position for path, position in engine.noted if path.endswith("/.updates")]
    snapshots = [position for path, position in engine.noted if not path.endswith("/.updates")]
    assert len(snapshots) >= 1, "nobody was there: the room was let go, and is loaded"
    assert updates
    assert min(updates) > 0, "what the snapshot holds is not read again"


async def snapshot_of_the_room(house: House) -> None:
    for _ in range(400):
        _, headers, _ = await house.ask("GET", "/v1/yjs/default/docs/room?offset=snapshot")
        if headers["location"].endswith("_snapshot"):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("no snapshot was made")
