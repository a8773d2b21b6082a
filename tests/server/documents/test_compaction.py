"""Snapshots: made, verified, found, replaced; and what happens when one can't be made."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from pycrdt import Doc, Text

from ds_sync.environment import Environment
from ds_sync.exceptions import CompactionError, NotFoundError
from ds_sync.protocol.framing import build_frame
from ds_sync.protocol.history import START, spell_place
from ds_sync.server.documents.compaction import CHECK_SECONDS, PATIENCE, Compactor, Worker
from ds_sync.server.documents.snapshots import Snapshot, Snapshots
from ds_sync.server.engines.base import StorageEngine
from tests.server.documents.typist import DOC, ROOT, Inline, Typist, open_inline

pytestmark = pytest.mark.anyio


async def test_a_log_that_has_grown_gets_a_snapshot_and_the_next_replaces_it(engine: StorageEngine) -> None:
    typist = Typist(engine, after=300)
    await typist("PUT", DOC)
    await typist.type("few")
    await asyncio.sleep(0.4)
    assert await typist.newest() == "-1", "too little for a snapshot"
    await typist.type("x" * 300)
    first = await typist.wait_for_snapshot()
    answer = await typist("GET", f"{DOC}?offset={first}")
    position, check = first.removesuffix("_snapshot").split("_")
    assert answer.headers["stream-next-offset"] == f"{position}_{int(check) + 1:016}"
    assert answer.headers["content-type"] == "application/octet-stream"
    head = await typist("HEAD", f"{DOC}?offset={first}")
    assert (head.status, head.body) == (200, b"")
    assert head.headers == answer.headers
    assert (await typist("HEAD", f"{DOC}?offset=snapshot")).headers["location"].endswith(first)
    assert (await typist("HEAD", f"{DOC}?offset={'9' * 16}_{'9' * 16}_snapshot")).status == 404
    assert (await typist("HEAD", DOC)).headers["stream-next-offset"] == first.removesuffix("_snapshot")
    await typist.type("after")
    assert await typist.join() == str(typist.text)
    await typist.type("y" * 300)
    second = await typist.wait_for_snapshot(other_than=first)
    statuses = []
    for _ in range(1000):
        statuses.append((await typist("GET", f"{DOC}?offset={first}")).status)
        if statuses[-1] == 404:
            break
        await asyncio.sleep(0.02)
    assert statuses[-1] == 404
    assert await typist.join() == str(typist.text)
    assert len((await typist("GET", f"{DOC}?offset=-1")).body) > 600, "the log is kept"
    async with asyncio.timeout(20):
        while await engine.list(f"{ROOT}/.snapshots/*") != [f"{ROOT}/.snapshots/{second}"]:  # noqa: ASYNC110  # a list has no event
            await asyncio.sleep(0.02)
    await typist.aclose()


class Watched:
    """A compactor whose time passes when it sleeps, as fast as it can; a snapshot takes `cost` seconds of it."""

    def __init__(self, engine: StorageEngine, after: int, cost: float = 0.0) -> None:
        self.time = 1_000.0
        self.made: dict[str, list[float]] = {}
        environment = Environment(monotonic=lambda: self.time, sleep=self._sleep)
        self.snapshots = Snapshots(engine, environment)
        self.compactor = Compactor(engine, self.snapshots, environment, after, open_inline)
        compact = self.compactor.compact

        async def noting(root: str) -> bool:
            made = await compact(root)
            self.made.setdefault(root, []).append(self.time)
            self.time += cost
            return made

        self.compactor.compact = noting  # type: ignore[method-assign]

    async def _sleep(self, seconds: float) -> None:
        self.time += seconds
        await asyncio.sleep(0)

    async def rest(self) -> None:
        """Return when it has nothing to do."""
        while self.compactor._task is not None:
            await asyncio.wait((self.compactor._task,))


async def test_a_tail_that_newcomers_would_notice_gets_a_snapshot_a_little_later(engine: StorageEngine) -> None:
    typist, watched = Typist(engine, after=None), Watched(engine, 6_400)
    await typist("PUT", DOC)
    await typist.type("x" * 60)
    await watched.rest()
    assert watched.made == {}, "less than the 64th part of 6,400"
    began = watched.time
    await typist.type("x" * 60)
    await watched.rest()
    assert [made - began for made in watched.made[ROOT]] == [pytest.approx(PATIENCE, abs=2 * CHECK_SECONDS)]
    await typist.type("y" * 7_000)
    await watched.rest()
    assert watched.made[ROOT][1] - watched.made[ROOT][0] < 2, "at once"
    await typist.type("z" * 120)
    await watched.rest()
    assert len(watched.made[ROOT]) == 2, "less than the 32nd part of a snapshot of 7,000"
    await typist.type("z" * 120)
    await watched.rest()
    assert len(watched.made[ROOT]) == 3
    assert await typist.join() == str(typist.text)
    await watched.compactor.aclose()
    await typist.aclose()


async def test_early_snapshots_take_a_quarter_of_the_time(engine: StorageEngine) -> None:
    typist, watched = Typist(engine, after=None), Watched(engine, 6_400, cost=10.0)
    updates = Doc[Any]({"body": Text("x" * 200)}).get_update()
    for name in "abc":
        await typist("PUT", DOC[:-1] + name)
        assert (await typist("POST", DOC[:-1] + name, build_frame(updates))).status == 204
    await watched.rest()
    times = sorted(time for (time,) in watched.made.values())
    assert [late - early for early, late in pairwise(times)] == [pytest.approx(40, abs=1)] * 2
    await watched.compactor.aclose()
    await typist.aclose()


async def test_a_long_tail_from_before_a_restart_goes_when_somebody_joins(engine: StorageEngine) -> None:
    typist = Typist(engine, after=None)
    await typist("PUT", DOC)
    await typist.type("x" * 500)
    await typist.aclose()
    watched = Watched(engine, 6_400)
    assert watched.compactor._task is None
    watched.compactor.consider(ROOT)
    await watched.rest()
    assert len(watched.made[ROOT]) == 1
    await watched.compactor.aclose()
    joined = list[str]()
    reader = Typist(engine, after=6_400)
    compactor = reader.app._documents._compactor
    assert compactor is not None
    compactor.consider = joined.append  # type: ignore[method-assign]
    await reader.newest()
    assert joined == [ROOT]
    await reader.aclose()


async def test_the_index_is_read_on_from_where_it_was_read(engine: StorageEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    typist, watched = Typist(engine, after=None), Watched(engine, 1 << 40)
    await typist("PUT", DOC)
    for words in ("one", "two", "three"):
        await typist.type(words)
        assert await watched.compactor.compact(ROOT)
    life = (await engine.read(f"{ROOT}/.updates", None, 0)).state
    assert life is not None
    read = list[int]()
    reads = engine.read

    async def counting(path: str, after: Any, limit: int) -> Any:
        run = await reads(path, after, limit)
        if path.endswith("/.index"):
            read.append(len(run.records))
        return run

    monkeypatch.setattr(engine, "read", counting)
    seen = Snapshots(engine, Environment())
    for words, entries in ((None, 3), (None, 0), ("four", 1)):
        if words is not None:
            await typist.type(words)
            assert await watched.compactor.compact(ROOT)
            read.clear()
        newest = await seen.newest(ROOT, life.incarnation)
        assert newest is not None
        assert f"{spell_place(newest.place)}_snapshot" == await typist.newest()
        assert read.pop(0) == entries
        read.clear()
    assert await seen.newest(ROOT, "0" * 32) is None
    await typist("DELETE", DOC)
    assert await seen.newest(ROOT, life.incarnation) is None
    await watched.compactor.aclose()
    await typist.aclose()


async def test_the_names_of_all_streams_are_searched_once_a_document(engine: StorageEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an attempt left that did not get to its end goes with the next; after that it is known which snapshot is replaced."""
    typist, watched = Typist(engine, after=None), Watched(engine, 1 << 40)
    await typist("PUT", DOC)
    await typist.type("one")
    left = f"{ROOT}/.snapshots/{'1' * 16}_{'1' * 16}_snapshot"
    await typist("PUT", f"http://example.org/v1/stream/{left}")
    searches = list[str]()
    lists = engine.list

    async def counting(glob: str) -> list[str]:
        searches.append(glob)
        return await lists(glob)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "list", counting)
        for words in ("two", "three", "four"):
            await typist.type(words)
            assert await watched.compactor.compact(ROOT)
    assert len(searches) == 1
    assert await engine.list(f"{ROOT}/.snapshots/*") == [f"{ROOT}/.snapshots/{await typist.newest()}"]
    await watched.compactor.aclose()
    await typist.aclose()


async def test_a_deleted_document_takes_its_snapshots_along(engine: StorageEngine) -> None:
    typist = Typist(engine, after=100)
    await typist("PUT", DOC)
    await typist.type("x" * 200)
    key = await typist.wait_for_snapshot()
    assert (await typist("DELETE", DOC)).status == 204
    assert await engine.list("**") == []
    await typist("PUT", DOC)
    assert await typist.newest() == "-1"
    assert (await typist("GET", f"{DOC}?offset={key}")).status == 404
    await typist.aclose()


async def test_what_an_earlier_life_left_is_nothing_to_the_next(engine: StorageEngine) -> None:
    typist = Typist(engine, after=100)
    await typist("PUT", DOC)
    await typist.type("x" * 200)
    key = await typist.wait_for_snapshot()
    # As after a crash in the middle of a deletion: only the log is gone.
    assert (await typist("DELETE", f"http://example.org/v1/stream/{ROOT}/.updates")).status == 204
    await typist("PUT", DOC)
    assert await typist.newest() == "-1"
    assert (await typist("GET", f"{DOC}?offset={key}")).status == 404
    await typist.aclose()


async def test_updates_that_wait_are_in_the_snapshot(engine: StorageEngine) -> None:
    typist = Typist(engine, after=None)
    await typist("PUT", DOC)
    for word in ("one ", "two ", "three"):
        typist.text += word
    first, second, third = typist.updates
    typist.updates = [first, third]
    await typist.send()
    compactor = Compactor(engine, Snapshots(engine, Environment()), Environment(), 1, open_inline)
    assert await compactor.compact(ROOT)
    assert not await compactor.compact(ROOT), "nothing has come since"
    typist.updates = [second]
    await typist.send()
    assert await typist.join() == "one two three"
    await compactor.aclose()
    await typist.aclose()


async def test_updates_that_can_not_be_read_are_left_out(engine: StorageEngine, caplog: pytest.LogCaptureFixture) -> None:
    typist = Typist(engine, after=None)
    await typist("PUT", DOC)
    await typist.type("good ")
    assert (await typist("POST", DOC, build_frame(b"\xff\xffgarbage"))).status == 204
    await typist.type("better")
    compactor = Compactor(engine, Snapshots(engine, Environment()), Environment(), 1, open_inline)
    assert await compactor.compact(ROOT)
    assert await typist.join() == "good better"
    assert "1 updates can't be read" in caplog.text
    await compactor.aclose()
    await typist.aclose()


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("step", ["feed", "snapshot", "verify"])
async def test_a_document_that_is_deleted_while_its_snapshot_is_made_has_none(
    engine: StorageEngine, caplog: pytest.LogCaptureFixture, step: str, anew: bool
) -> None:
    """Nothing went wrong, and nobody is alarmed."""
    typist = Typist(engine, after=None)

    class Slow(Inline):
        async def at(self, here: str) -> None:
            if here == step and (await typist("DELETE", DOC)).status == 204 and anew:
                await typist("PUT", DOC)

        async def feed(self, frames: bytes) -> None:
            await self.at("feed")
            await super().feed(frames)

        async def snapshot(self) -> tuple[bytes, int]:
            await self.at("snapshot")
            return await super().snapshot()

        async def verify(self, stored: bytes) -> bool:
            await self.at("verify")
            return await super().verify(stored)

    @asynccontextmanager
    async def open_slow(adapter: str) -> AsyncIterator[Worker]:
        yield Slow()

    await typist("PUT", DOC)
    for _ in range(3):
        await typist.type("x" * (1 << 20))
    compactor = Compactor(engine, Snapshots(engine, Environment()), Environment(), 1, open_slow)
    assert not await compactor.compact(ROOT)
    assert await engine.list(f"{ROOT}/.snapshots/*") == []
    assert (await typist("GET", f"{DOC}?offset=snapshot")).status == (307 if anew else 404)
    assert caplog.text == ""
    await compactor.aclose()
    await typist.aclose()


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: b"\x00\x00", lambda data: b""])
async def test_a_snapshot_that_is_not_the_document_is_never_told_of(engine: StorageEngine, spoil: Callable[[bytes], bytes]) -> None:
    @asynccontextmanager
    async def open_spoiling(adapter: str) -> AsyncIterator[Worker]:
        yield Inline(spoil=spoil)

    typist = Typist(engine, after=None)
    await typist("PUT", DOC)
    await typist.type("precious")
    typist.text.clear()  # a deletion changes no version
    await typist.send()
    compactor = Compactor(engine, Snapshots(engine, Environment()), Environment(), 1, open_spoiling)
    with pytest.raises((CompactionError, NotFoundError)):
        await compactor.compact(ROOT)
    assert await typist.newest() == "-1"
    await compactor.aclose()
    await typist.aclose()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1] + bytes((data[-1] ^ 1,)), lambda data: data[: len(data) // 2], lambda data: b"\x00\x00"]
)
async def test_a_snapshot_that_the_storage_gives_back_damaged_replaces_nothing(
    engine: StorageEngine, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    """What was made is the document, what was stored is not: no word of it, and all that is older stays."""
    typist, watched = Typist(engine, after=None), Watched(engine, 1 << 40)
    await typist("PUT", DOC)
    await typist.type("old ")
    assert await watched.compactor.compact(ROOT)
    older = await typist.newest()
    await typist.type("new")
    log = await typist("GET", f"{DOC}?offset=-1")
    damaged, reads = list[str](), engine.read

    async def damaging(path: str, after: Any, limit: int) -> Any:
        run = await reads(path, after, limit)
        if not run.records or "/.snapshots/" not in path or path.endswith(older):
            return run
        damaged.append(path)
        return replace(run, records=(damage(b"".join(run.records)),))

    with monkeypatch.context() as patch:
        patch.setattr(engine, "read", damaging)
        with pytest.raises(CompactionError, match="the snapshot is not the document"):
            await watched.compactor.compact(ROOT)
        assert await typist.newest() == older
        assert await typist.join() == "old new"
    assert len(damaged) == 1, "what is stored is read again before anybody is told of it"
    assert await engine.list(f"{ROOT}/.snapshots/*") == [f"{ROOT}/.snapshots/{older}"]
    after = await typist("GET", f"{DOC}?offset=-1")
    assert (after.status, after.body) == (200, log.body), "the log is kept as it is"
    assert await watched.compactor.compact(ROOT), "the storage is well again"
    assert await typist.newest() != older
    assert await typist.join() == "old new"
    await watched.compactor.aclose()
    await typist.aclose()


async def test_a_failure_is_logged_and_tried_again_when_the_log_has_grown_as_much_again(
    engine: StorageEngine, caplog: pytest.LogCaptureFixture
) -> None:
    broken = True

    @asynccontextmanager
    async def open_sometimes(adapter: str) -> AsyncIterator[Worker]:
        if broken:
            raise CompactionError("no process today")
        yield Inline()

    typist = Typist(engine, after=200, open_worker=open_sometimes)
    await typist("PUT", DOC)
    await typist.type("x" * 200)
    await asyncio.sleep(0.5)
    assert "no process today" in caplog.text
    broken = False
    caplog.clear()
    await typist.type("few")
    await asyncio.sleep(0.4)
    assert await typist.newest() == "-1"
    await typist.type("y" * 200)
    await typist.wait_for_snapshot()
    assert await typist.join() == str(typist.text)
    assert not caplog.records
    await typist.aclose()


async def test_a_document_that_is_remade_meanwhile_gets_no_snapshot(engine: StorageEngine) -> None:
    typist = Typist(engine, after=None)

    @asynccontextmanager
    async def open_slow(adapter: str) -> AsyncIterator[Worker]:
        yield Inline()
        await typist("DELETE", DOC)
        await typist("PUT", DOC)

    await typist("PUT", DOC)
    await typist.type("old")
    compactor = Compactor(engine, Snapshots(engine, Environment()), Environment(), 1, open_slow)
    assert not await compactor.compact(ROOT)
    assert await typist.newest() == "-1"
    assert await engine.list(f"{ROOT}/.snapshots/*") == []
    await compactor.aclose()
    await typist.aclose()


async def test_a_log_is_read_in_pages_with_rests_between(engine: StorageEngine) -> None:
    """Each page takes a second here: most of the time the process waits for the next one."""
    typist, watched = Typist(engine, after=None), Watched(engine, 1 << 40)
    await typist("PUT", DOC)
    for _ in range(3):
        await typist.type("x" * 200_000)
    reads, pages = engine.read, list[float]()

    async def slow(path: str, after: Any, limit: int) -> Any:
        if path.endswith("/.updates") and limit:
            pages.append(watched.time)
            watched.time += 1
        return await reads(path, after, limit)

    engine.read = slow  # type: ignore[method-assign]
    assert await watched.compactor.compact(ROOT)
    engine.read = reads  # type: ignore[method-assign]
    assert [late - early for early, late in pairwise(pages)] == [pytest.approx(4)] * 2
    assert await typist.join() == str(typist.text)
    await watched.compactor.aclose()
    await typist.aclose()


async def test_a_large_snapshot_is_stored_in_parts_and_read_whole(engine: StorageEngine) -> None:
    """So that other appends need not wait until all of it is written."""
    typist, watched = Typist(engine, after=None), Watched(engine, 1 << 40)
    await typist("PUT", DOC)
    await typist.type("".join(random.Random(1).choices("abcdefgh", k=2_500_000)))
    state = (await engine.read(f"{ROOT}/.updates", None, 0)).state
    assert state is not None
    key = await watched.snapshots.store(ROOT, state.incarnation, Snapshot(b"half of it", state.place))
    hidden = await typist("GET", f"{DOC}?offset={key}")
    assert hidden.status == 404, "what nobody was told of may be half stored, and was not verified"
    assert await watched.compactor.compact(ROOT)
    sizes = [len(record) for record in (await engine.read(f"{ROOT}/.snapshots/{key}", START, 1 << 40)).records]
    assert (max(sizes), len(sizes)) == (256 * 1024, 10)
    assert await typist.join() == str(typist.text)
    await watched.compactor.aclose()
    await typist.aclose()
