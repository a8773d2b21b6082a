"""Presence in memory: what is kept is bounded, in one stream and in all together."""

from __future__ import annotations

import pytest

from ds_sync.exceptions import GoneError
from ds_sync.protocol.decisions import AppendRequest, CreateRequest, decide_append, decide_create
from ds_sync.protocol.endings import decide_delete
from ds_sync.protocol.history import START, Place
from ds_sync.server.engines import presence
from ds_sync.server.engines.presence import KEPT_SECONDS, RECORD_COST, PresenceEngine

pytestmark = pytest.mark.anyio

KIND = "application/octet-stream"
LIMIT = 40_000


class Room:
    """An engine, its time, and short words for what is done with it."""

    def __init__(self) -> None:
        self.time = 100.0
        self.engine = PresenceEngine(lambda: self.time)

    async def say(self, path: str, words: bytes) -> Place:
        """Say something; return the place after it."""
        if (await self.engine.read(path, None, 0)).state is None:
            request = CreateRequest(path, KIND, f"{len(path):032x}")
            await self.engine.transact((path,), lambda views: decide_create(views[0], request, 0.0))
        append = AppendRequest(path, words, KIND)
        return (await self.engine.transact((path,), lambda views: decide_append(views[0], append, 0.0))).state.place

    async def heard(self, path: str, after: Place = START) -> list[bytes]:
        return list((await self.engine.read(path, after, 1 << 40)).records)

    def cost(self) -> int:
        """What the rings really hold."""
        return sum(len(record) + RECORD_COST for ring in self.engine._rings.values() for record in ring.records)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    monkeypatch.setattr(presence, "KEPT_IN_ALL", LIMIT)
    return Room()


async def test_all_streams_together_are_bounded(room: Room) -> None:
    """What was said longest ago goes first; nobody is refused; who has heard everything reads on."""
    tails = {}
    for number in range(60):
        tails[number] = await room.say(f"stream {number}", bytes([number]) * 1_000)
        assert room.cost() <= LIMIT
        assert room.engine._cost == room.cost()
        assert await room.heard(f"stream {number}") == [bytes([number]) * 1_000]
    kept = [number for number in range(60) if await room.heard(f"stream {number}")]
    assert kept == list(range(60 - len(kept), 60))
    assert len(kept) >= LIMIT * 3 // 4 // (1_000 + RECORD_COST) - 1
    assert await room.heard("stream 0", tails[0]) == []
    with pytest.raises(GoneError):
        await room.engine.read("stream 0", Place(500, 1), 1)
    await room.say("stream 0", b"again")
    assert await room.heard("stream 0", tails[0]) == [b"again"]


async def test_what_is_too_old_goes_before_what_is_not(room: Room) -> None:
    await room.say("quiet", b"still here")
    for number in range(20):
        await room.say(f"old {number}", bytes(1_000))
    room.time += KEPT_SECONDS - 1
    await room.say("young", b"young")
    room.time += 2
    await room.say("quiet", b"and again")
    room.engine._rings.move_to_end("young", last=False)  # the next to go, if the old ones did not
    for number in range(15):
        await room.say(f"new {number}", bytes(1_000))
    assert await room.heard("young") == [b"young"]
    assert await room.heard("quiet") == [b"and again"]
    assert not any([await room.heard(f"old {number}") for number in range(20)])
    assert room.engine._cost == room.cost()


async def test_a_word_is_kept_for_24_seconds(room: Room) -> None:
    """Who repeats it every 18 s is always in what is left."""
    await room.say("room", b"first")
    room.time += 18
    await room.say("room", b"second")
    room.time += 5.9
    assert await room.heard("room") == [b"first", b"second"]
    room.time += 0.1
    assert await room.heard("room") == [b"second"]
    room.time += 18
    assert await room.heard("room") == []


async def test_many_small_words_count_for_what_they_cost(room: Room) -> None:
    for number in range(1_000):
        await room.say(f"stream {number % 3}", b"x")
        assert room.cost() <= LIMIT


async def test_what_ends_costs_nothing_any_more(room: Room) -> None:
    for path in ("a/one", "a/two", "b"):
        await room.say(path, bytes(1_000))
    room.engine.forget("a/")
    assert room.engine._cost == room.cost() == 1_000 + RECORD_COST
    await room.engine.transact(("b",), lambda views: decide_delete(views[0], 0.0, {}))
    assert room.engine._cost == 0


async def test_streams_are_bounded_in_number(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MAX_STREAMS", 3)
    for number in range(5):
        await room.say(f"stream {number}", b"x")
    assert await room.engine.list("*") == ["stream 2", "stream 3", "stream 4"]
    assert room.engine._cost == room.cost()


async def test_what_is_recalled_has_its_time(room: Room) -> None:
    assert room.engine.recall("a", None) == ((), None)
    first = await room.say("a", b"first")
    room.time += 10.0
    await room.say("a", b"second")
    said, tail = room.engine.recall("a", None)
    assert said == ((100.0, b"first"), (110.0, b"second"))
    assert room.engine.recall("a", first) == (((110.0, b"second"),), tail)
    assert room.engine.recall("a", tail) == ((), tail)
    room.time += KEPT_SECONDS - 5.0
    third = await room.say("a", b"third")
    assert room.engine.recall("a", START) == room.engine.recall("a", first), "from a place that is forgotten, all that is left"
    assert room.engine.recall("a", first)[0] == ((110.0, b"second"), (room.time, b"third"))
    room.engine.forget("a")
    await room.say("a", b"another life")
    assert room.engine.recall("a", third)[0] == ((room.time, b"another life"),)
