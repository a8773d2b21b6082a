"""The acceptance kit of the StorageEngine port.

Derive from `StorageEngineContract`, give it an `open_engine` fixture, and pytest runs the laws:

    class TestMyEngine(StorageEngineContract):
        @pytest.fixture
        def open_engine(self, tmp_path):
            return lambda: MyEngine(tmp_path / "streams")

`open_engine()` opens the same storage each time it is called; the kit closes what it opened before it opens again. An engine
that is not `durable` may come back empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import pytest

from ds_sync.exceptions import ClosedError, ConflictError, GoneError
from ds_sync.protocol.decisions import (
    AppendOutcome,
    AppendRequest,
    CreateOutcome,
    CreateRequest,
    Decision,
    StreamState,
    StreamView,
    decide_append,
    decide_create,
    decide_delete,
)
from ds_sync.protocol.history import START, Place, begin_history, build_place, extend_history
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.retention import decide_trim
from ds_sync.server.engines.base import INTERNAL, StorageEngine

OpenEngine: TypeAlias = Callable[[], StorageEngine]

LIFE = "0123456789abcdef0123456789abcdef"
OTHER_LIFE = "fedcba9876543210fedcba9876543210"
BINARY = "application/octet-stream"


async def create(engine: StorageEngine, path: str, incarnation: str = LIFE) -> CreateOutcome:
    """Make a stream."""
    return await engine.transact((path,), lambda views: decide_create(views[0], CreateRequest(path, BINARY, incarnation), 0.0))


async def append(
    engine: StorageEngine, path: str, body: bytes, *, producer: ProducerStamp | None = None, stream_seq: str | None = None
) -> AppendOutcome:
    """Append a record."""
    request = AppendRequest(path, body, BINARY, producer=producer, stream_seq=stream_seq)
    name = None if producer is None else producer.id
    return await engine.transact((path,), lambda views: decide_append(views[0], request, 0.0), producer=name)


async def delete(engine: StorageEngine, path: str) -> StreamState:
    """Delete a stream."""
    return await engine.transact((path,), lambda views: decide_delete(views[0], 0.0))


def trim(views: Sequence[StreamView], place: Place) -> Decision[bool]:
    """Decide that everything before `place` goes."""
    return decide_trim(views[0], LIFE, place, 0.0)


async def read_all(engine: StorageEngine, path: str, after: Place = START, limit: int = 1 << 20) -> list[bytes]:
    """Read to the tail, page by page."""
    records: list[bytes] = []
    while True:
        run = await engine.read(path, after, limit)
        records += run.records
        if run.up_to_date:
            return records
        if not run.records:
            raise AssertionError("a page before the tail holds at least one record")
        after = run.end


def places_of(records: Sequence[bytes], incarnation: str = LIFE) -> list[Place]:
    """Return the places before, between and after `records`."""
    running, position, places = begin_history(incarnation), 0, [START]
    for record in records:
        running, position = extend_history(running, record), position + len(record)
        places.append(build_place(position, running))
    return places


async def require_diverged(engine: StorageEngine, path: str, place: Place) -> str | None:
    """Require GoneError at `place`; return the incarnation it names."""
    with pytest.raises(GoneError) as caught:
        await engine.read(path, place, 1 << 20)
    assert caught.value.code == "HISTORY_DIVERGED"
    return caught.value.incarnation


class StorageEngineContract:
    """The laws, one test each."""

    pytestmark = pytest.mark.anyio

    async def test_a_path_that_never_was_has_no_state(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        run = await engine.read("nowhere", START, 100)
        assert (run.state, run.records) == (None, ())
        await engine.aclose()

    async def test_records_come_back_byte_for_byte_from_every_place(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        records = [b"a", b"\x00\xff", b"long" * 500, b"\r\n", bytes(range(256)), b"z"]
        await create(engine, "s")
        places = [START] + [(await append(engine, "s", record)).state.place for record in records]
        assert places == places_of(records)
        for number, place in enumerate(places):
            for limit in (1, 300, 1 << 20):
                assert await read_all(engine, "s", place, limit) == records[number:]
        await engine.aclose()

    async def test_a_page_keeps_to_its_limit_and_ends_on_a_record(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        for number in range(10):
            await append(engine, "s", bytes([number]) * 10)
        run = await engine.read("s", START, 35)
        assert run.records == tuple(bytes([number]) * 10 for number in range(3))
        assert (run.end.position, run.up_to_date) == (30, False)
        run = await engine.read("s", run.end, 5)
        assert run.records == (bytes([3]) * 10,)
        await engine.aclose()

    async def test_the_tail_has_the_state_and_no_records(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        state = (await append(engine, "s", b"abc")).state
        run = await engine.read("s", None, 100)
        assert (run.state, run.records, run.end, run.up_to_date) == (state, (), state.place, True)
        await engine.aclose()

    async def test_a_place_of_another_history_is_refused(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        records = [b"abc", b"def", b"ghi"]
        for record in records:
            await append(engine, "s", record)
        for place in places_of(records)[1:]:
            assert await require_diverged(engine, "s", replace(place, check=place.check + 2)) == LIFE
        assert await require_diverged(engine, "s", Place(2, places_of(records)[1].check)) == LIFE
        assert await require_diverged(engine, "s", Place(10, 0)) == LIFE
        await engine.aclose()

    async def test_the_check_plus_one_is_the_same_place(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        for record in (b"abc", b"def"):
            await append(engine, "s", record)
        place = places_of([b"abc", b"def"])[1]
        run = await engine.read("s", replace(place, check=place.check + 1), 100)
        assert run.records == (b"def",)
        await engine.aclose()

    async def test_what_returned_is_there_after_reopening(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        if not engine.durable:
            await engine.aclose()
            return
        await create(engine, "s")
        records = [b"%d" % number for number in range(40)]
        for number, record in enumerate(records):
            await append(engine, "s", record, producer=ProducerStamp("p", 3, number), stream_seq=f"{number:04}")
        before = (await engine.read("s", None, 0)).state
        await engine.aclose()
        engine = open_engine()
        assert (await engine.read("s", None, 0)).state == before
        assert await read_all(engine, "s", START, 7) == records
        for number, place in enumerate(places_of(records)):
            assert await read_all(engine, "s", place) == records[number:]
        repeated = await append(engine, "s", records[-1], producer=ProducerStamp("p", 3, 39))
        assert repeated.duplicate
        following = await append(engine, "s", b"next", producer=ProducerStamp("p", 3, 40))
        assert following.state.place == places_of([*records, b"next"])[-1]
        await engine.aclose()

    async def test_a_refusal_stores_nothing(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        state = (await append(engine, "s", b"abc")).state

        def refuse(views: Sequence[StreamView]) -> Decision[None]:
            raise ConflictError("no")

        with pytest.raises(ConflictError):
            await engine.transact(("s",), refuse)
        with pytest.raises(ConflictError):
            await engine.transact(("new",), refuse)
        assert (await engine.read("s", None, 0)).state == state
        assert (await engine.read("new", None, 0)).state is None
        assert await engine.list("**") == ["s"]
        await engine.aclose()

    async def test_concurrent_appends_form_one_line(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        bodies = [b"%03d" % number for number in range(60)]
        outcomes = await asyncio.gather(*(append(engine, "s", body) for body in bodies))
        by_position = {outcome.state.position: body for outcome, body in zip(outcomes, bodies, strict=True)}
        assert sorted(by_position) == [3 * number for number in range(1, 61)]
        assert await read_all(engine, "s") == [by_position[position] for position in sorted(by_position)]
        await engine.aclose()

    async def test_one_producer_number_is_accepted_once(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        outcomes = await asyncio.gather(*(append(engine, "s", b"once", producer=ProducerStamp("p", 0, 0)) for _ in range(8)))
        assert sorted(outcome.duplicate for outcome in outcomes) == [False] + [True] * 7
        assert await read_all(engine, "s") == [b"once"]
        await engine.aclose()

    async def test_several_paths_change_together(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "from")
        await append(engine, "from", b"abc")

        def move(views: Sequence[StreamView]) -> Decision[str]:
            made = decide_create(views[1], CreateRequest("to", BINARY, OTHER_LIFE, body=b"xyz"), 0.0)
            return Decision("moved", (*decide_delete(views[0], 0.0).changes, *made.changes))

        assert await engine.transact(("from", "to"), move) == "moved"
        assert await engine.list("*") == ["to"]
        assert await read_all(engine, "to") == [b"xyz"]
        await engine.aclose()

    async def test_paths_that_begin_alike_are_strangers(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        for path in ("a", "a/b", "ab", "a%", "A"):
            await create(engine, path)
            await append(engine, path, path.encode())
        await delete(engine, "a")
        for path in ("a/b", "ab", "a%", "A"):
            assert await read_all(engine, path) == [path.encode()]
        assert (await engine.read("a", START, 10)).records == ()
        await engine.aclose()

    async def test_list_matches_whole_paths_in_order(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        for path in ("x/2", "x/1", "x/1/deep", "y", "x.1"):
            await create(engine, path)
        assert await engine.list("x/*") == ["x/1", "x/2"]
        assert await engine.list("x/**") == ["x/1", "x/1/deep", "x/2"]
        assert await engine.list("y") == ["y"]
        await engine.aclose()

    async def test_streams_are_counted_as_they_come_and_go(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        for path in ("a", "b", "c", INTERNAL + "own"):
            await create(engine, path)
        await append(engine, "a", b"x")
        assert engine.count() == 3
        await delete(engine, "a")
        await delete(engine, "b")
        assert engine.count() == 1
        await create(engine, "b", OTHER_LIFE)
        assert engine.count() == 2 == len(await engine.list("**"))
        await engine.aclose()
        engine = open_engine()
        assert engine.count() == len(await engine.list("**"))
        await engine.aclose()

    async def test_list_hides_the_servers_own_streams(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        for path in (INTERNAL + "x/1", INTERNAL + "y", "x/1"):
            await create(engine, path)
        for glob in ("**", "*/*", "**x/1", "?x/1"):
            assert await engine.list(glob) == (["x/1"] if "*" in glob else [])
        assert await engine.list(INTERNAL + "x/**") == [INTERNAL + "x/1"]
        await engine.aclose()

    async def test_a_deleted_stream_leaves_a_tombstone_and_a_new_life_has_nothing_of_the_old(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        old = (await append(engine, "s", b"old", producer=ProducerStamp("p", 5, 0))).state
        await delete(engine, "s")
        if engine.durable:
            await engine.aclose()
            engine = open_engine()
        run = await engine.read("s", START, 10)
        assert run.state is not None
        assert (run.state.deleted, run.state.incarnation, run.records) == (True, LIFE, ())
        assert await engine.list("**") == []
        assert (await create(engine, "s", OTHER_LIFE)).created
        assert await require_diverged(engine, "s", old.place) == OTHER_LIFE
        outcome = await append(engine, "s", b"new", producer=ProducerStamp("p", 0, 0))
        assert not outcome.duplicate
        assert await read_all(engine, "s") == [b"new"]
        assert await require_diverged(engine, "s", old.place) == OTHER_LIFE
        await engine.aclose()

    async def test_what_retention_dropped_is_gone_and_the_rest_is_as_it_was(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        records = [b"%d" % number * 3 for number in range(12)]
        places = [START] + [(await append(engine, "s", record)).state.place for record in records]
        for kept in (4, 7):
            assert await engine.transact(("s",), partial(trim, place=places[kept]))
            if engine.durable:
                await engine.aclose()
                engine = open_engine()
            for number, place in enumerate(places):
                if number < kept:
                    with pytest.raises(GoneError) as caught:
                        await engine.read("s", place, 100)
                    assert (caught.value.code, caught.value.incarnation) == ("OFFSET_EXPIRED", LIFE)
                else:
                    for limit in (1, 7, 1 << 20):
                        assert await read_all(engine, "s", place, limit) == records[number:]
        await require_diverged(engine, "s", replace(places[7], check=places[7].check + 2))
        assert (await append(engine, "s", b"next")).state.place == places_of([*records, b"next"])[-1]
        assert await read_all(engine, "s", places[7]) == [*records[7:], b"next"]
        await engine.aclose()

    async def test_watchers_hear_of_every_commit_after_it_can_be_read(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        heard: list[str] = []
        unwatch = engine.watch(lambda paths: heard.extend(paths))
        await create(engine, "s")
        await append(engine, "s", b"abc")
        assert heard == ["s", "s"]
        unwatch()
        await append(engine, "s", b"def")
        assert heard == ["s", "s"]
        await engine.aclose()

    async def test_a_cancelled_caller_harms_nobody(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        tasks = [asyncio.ensure_future(append(engine, "s", b"%d" % number)) for number in range(5)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.wait(tasks)
        state = (await append(engine, "s", b"end")).state
        records = await read_all(engine, "s")
        assert [record for record in records if record != b"2"] == [b"0", b"1", b"3", b"4", b"end"]
        assert places_of(records)[-1] == state.place
        await engine.aclose()

    async def test_used_after_close_is_an_error(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        await engine.aclose()
        with pytest.raises(ClosedError):
            await engine.read("s", START, 10)
        with pytest.raises(ClosedError):
            await append(engine, "s", b"abc")
