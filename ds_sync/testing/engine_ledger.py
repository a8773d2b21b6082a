"""What an engine was asked and what it promised, beside the engine; and whether what is left of it after a crash agrees."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar

from ds_sync.protocol.decisions import AppendOutcome, AppendRequest, CreateRequest, decide_append, decide_create
from ds_sync.protocol.endings import SourcesNeededError, decide_delete
from ds_sync.protocol.forks import ForkPoint, ForkRequest, decide_fork
from ds_sync.protocol.history import START, Place
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.producer import ProducerState
from ds_sync.protocol.state import Change, Decision, StreamState, StreamView
from ds_sync.server.engines.base import Decide, StorageEngine

R = TypeVar("R")

Record: TypeAlias = tuple[bytes, Place]
"""Bytes, and the place after them."""

PRODUCERS: Final = ("p", "q")
BINARY: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Picture:
    """All that an engine shows under one path."""

    state: StreamState | None = None
    records: tuple[Record, ...] = ()
    """With the place after each."""
    producers: tuple[ProducerState | None, ...] = (None, None)
    """Of PRODUCERS, in that order."""
    stored: tuple[Record, ...] = field(default=(), compare=False)
    """Also those of a stream that ended and is kept for its forks, which nobody is shown under this path."""

    def after(self, change: Change, source: Picture) -> Picture:
        """Return the picture with `change` made; `source` is what the stream is a fork of."""
        base, state = Picture() if change.fresh else self, change.state
        stored, producers = base.stored, base.producers
        if change.fresh and state.origin is not None:
            stored = tuple(record for record in source.stored if record[1].position <= state.origin.position)
        if change.record is not None:
            stored = (*stored, (change.record, state.place))
        if change.producer is not None:
            name, made = change.producer
            producers = tuple(made if known == name else old for known, old in zip(PRODUCERS, producers, strict=True))
        return Picture(state, () if _is_over(state) else stored, producers, stored)


def _is_over(state: StreamState | None) -> bool:
    return state is None or state.deleted or state.kept


@dataclass(frozen=True, slots=True)
class _Entry:
    transaction: int
    picture: Picture


@dataclass(slots=True)
class Ledger:
    """The pictures each path went through, and which transactions returned."""

    histories: dict[str, list[_Entry]] = field(default_factory=dict)
    returned: set[int] = field(default_factory=set)
    paths: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Which paths each transaction changed."""
    last: str = "nothing"
    """What was begun last, for messages."""

    def mark(self) -> tuple[int, int]:
        """Return a value that changes with everything that is noted."""
        return len(self.paths), len(self.returned)

    def copy(self) -> Ledger:
        """Return the ledger as of now."""
        histories = {path: list(entries) for path, entries in self.histories.items()}
        return Ledger(histories, set(self.returned), dict(self.paths), self.last)

    def living(self) -> list[str]:
        """Return the paths that can be appended to, after all that was begun."""
        states = [(path, entries[-1].picture.state) for path, entries in self.histories.items() if entries]
        return sorted(path for path, state in states if state is not None and not _is_over(state) and not state.closed)

    def newest(self, path: str) -> Picture:
        """Return the path's picture after all that was begun."""
        entries = self.histories.get(path)
        return entries[-1].picture if entries else Picture()

    async def transact(self, engine: StorageEngine, name: str, paths: Sequence[str], decide: Decide[R], producer: str | None = None) -> R:
        """Run a transaction and note it: what it changes when it is decided, and that it returned."""
        number = len(self.paths)
        self.paths[number] = tuple(paths)
        self.last = f"{name} {', '.join(paths)} ({number})"

        def note(views: Sequence[StreamView]) -> Decision[R]:
            decision = decide(views)
            for path, view, change in zip(paths, views, decision.changes, strict=True):
                entries = self.histories.setdefault(path, [])
                entries[:] = [entry for entry in entries if entry.transaction != number]  # decided again, with newer views
                before = self.newest(path)
                assert view.state == before.state, f"{path}: a decision was given another state than the one before it made"
                if change is not None:
                    origin = change.state.origin
                    entries.append(_Entry(number, before.after(change, Picture() if origin is None else self.newest(origin.path))))
            return decision

        result = await engine.transact(paths, note, producer=producer)
        self.returned.add(number)
        return result

    def find(self, path: str, picture: Picture) -> int:
        """Return after how many of the path's changes it looked like this; -1: it never did."""
        pictures = [Picture(), *(entry.picture for entry in self.histories.get(path, ()))]
        return max((number for number, known in enumerate(pictures) if known == picture), default=-1)

    def floor(self, path: str) -> int:
        """Return how many of the path's changes must be there."""
        entries = enumerate(self.histories.get(path, ()), 1)
        return max((number for number, entry in entries if entry.transaction in self.returned), default=0)


async def live_a_day(engine: StorageEngine, ledger: Ledger, rng: random.Random, *, rounds: int = 4) -> None:
    """Create, append, close, fork, delete, make anew, and move between streams; alone and several at once."""
    numbers: dict[tuple[str, str], int] = {}

    async def create(path: str) -> None:
        request = CreateRequest(path, BINARY, f"{rng.getrandbits(128):032x}", body=rng.randbytes(5) if rng.random() < 0.5 else b"")
        for name in PRODUCERS:
            numbers.pop((path, name), None)
        await ledger.transact(engine, "create", (path,), lambda views: decide_create(views[0], request, 0.0))

    async def append(path: str, size: int, *, close: bool = False) -> None:
        name = rng.choice((None, *PRODUCERS))
        stamp = None
        if name is not None:
            seq = numbers[path, name] = numbers.get((path, name), -1) + 1
            stamp = ProducerStamp(name, 0, seq)
        request = AppendRequest(path, rng.randbytes(size), BINARY, close, stamp)
        await ledger.transact(engine, "append to", (path,), lambda views: decide_append(views[0], request, 0.0), producer=name)

    async def delete(path: str) -> None:
        sources: tuple[str, ...] = ()

        def decide(views: Sequence[StreamView]) -> Decision[StreamState]:
            return decide_delete(views[0], 0.0, dict(zip(sources, views[1:], strict=True)))

        while True:
            try:
                await ledger.transact(engine, "delete", (path, *sources), decide)
                return
            except SourcesNeededError as needed:
                sources = needed.paths

    async def fork(path: str, source: str) -> None:
        parent = ledger.newest(source)
        at = rng.randrange(len(parent.stored))
        place, record = parent.stored[at - 1][1] if at else START, parent.stored[at][0]
        life = "" if parent.state is None else parent.state.incarnation
        request = ForkRequest(path, source, f"{rng.getrandbits(128):032x}", place, sub_offset=rng.randint(0, 1), body=b"of the fork")
        for name in PRODUCERS:
            numbers.pop((path, name), None)
        point = ForkPoint(life, place, record)
        await ledger.transact(engine, "fork", (path, source), lambda views: decide_fork(views[0], views[1], request, point, 0.0))

    async def move(source: str, target: str) -> None:
        request = CreateRequest(target, BINARY, f"{rng.getrandbits(128):032x}", body=b"moved")

        def decide(views: Sequence[StreamView]) -> Decision[None]:
            made = decide_create(views[1], request, 0.0)
            return Decision(None, (*decide_delete(views[0], 0.0).changes, *made.changes))

        await ledger.transact(engine, "move", (source, target), decide)

    for path in ("a", "a/b", "b", "c"):
        await create(path)
    for number in range(rounds):
        await append("a", rng.choice((1, 40, 6000)))
        if number % 4 == 0:
            await append("b", 30)
            await fork("fork", "b")
            await fork("fork/of/fork", "fork")
        if number % 4 == 2:
            await delete("b")  # kept for its forks, and then the first of them likewise
            await delete("fork")
        if number % 4 == 3:
            await delete("fork/of/fork")  # and with it all that was kept for it
            await create("b")
        await asyncio.gather(*(append(rng.choice(ledger.living()), rng.choice((3, 300))) for _ in range(4)))
        if number % 4 == 1:
            await move("c", f"moved/{number}")
            await create("c")
        if number % 4 == 2:
            await append(f"moved/{number - 1}", 9, close=True)
        if number % 4 == 3:
            await delete("a/b")
            await create("a/b")


async def look(engine: StorageEngine, path: str) -> Picture:
    """Return what the engine holds under `path`; records are read page by page and from every place between two of them."""
    state = (await engine.read(path, None, 0)).state
    records: list[Record] = []
    after = START
    if state is None or _is_over(state):
        run = await engine.read(path, START, 1 << 20)
        assert run.records == (), f"{path}: a stream that is not there has records"
    else:
        while after.position < state.position:
            run = await engine.read(path, after, 1)
            assert len(run.records) == 1, f"{path}: no record at {after}, which is before the tail {state.place}"
            after = run.end
            records.append((run.records[0], after))
        assert after == state.place, f"{path}: state and records disagree"
        for number, place in enumerate([START, *(place for _, place in records)]):
            run = await engine.read(path, place, 1 << 20)
            assert run.records == tuple(record for record, _ in records[number:]), f"{path}: reading from {place} gives other bytes"
    return Picture(state, tuple(records), tuple([await _peek(engine, path, name) for name in PRODUCERS]))


async def _peek(engine: StorageEngine, path: str, name: str) -> ProducerState | None:
    return await engine.transact((path,), lambda views: Decision(views[0].producers.get(name)), producer=name)


async def require_laws(ledger: Ledger, reopen: Callable[[], StorageEngine], moment: str) -> None:
    """Open what was left at `moment` and require all the laws of it. Raises AssertionError that names the law and the moment."""
    try:
        engine = reopen()
        try:
            kept = await _require_kept(engine, ledger)
            grown = await _go_on(engine, kept)
        finally:
            await engine.aclose()
        engine = reopen()
        try:
            for path, picture in grown.items():
                assert await look(engine, path) == picture, f"{path}: what was appended after the crash is not there at the next opening"
        finally:
            await engine.aclose()
    except Exception as error:
        raise AssertionError(f"{moment}: {error if isinstance(error, AssertionError) else repr(error)}") from error


async def _require_kept(engine: StorageEngine, ledger: Ledger) -> dict[str, Picture]:
    kept, found = dict[str, Picture](), dict[str, int]()
    for path in ledger.histories:
        picture = kept[path] = await look(engine, path)
        found[path] = ledger.find(path, picture)
        if found[path] < 0:
            _explain(ledger, path, picture)
        assert found[path] >= ledger.floor(path), f"{path}: what returned is gone"
    for number, paths in ledger.paths.items():
        places = [_index(ledger, path, number) for path in paths]
        done = {found[path] >= place for path, place in zip(paths, places, strict=True) if place}
        assert len(done) < 2, f"{', '.join(paths)}: half of a transaction is there"
    living = sorted(path for path, picture in kept.items() if not _is_over(picture.state))
    assert await engine.list("**") == living, "the list is not that of the living streams"
    return kept


def _index(ledger: Ledger, path: str, number: int) -> int:
    """Return which of the path's changes transaction `number` made, from 1; 0: none."""
    entries = enumerate(ledger.histories.get(path, ()), 1)
    return next((index for index, entry in entries if entry.transaction == number), 0)


def _explain(ledger: Ledger, path: str, picture: Picture) -> None:
    """Raise the AssertionError that says what is wrong with a picture that never was."""
    for entry in ledger.histories[path]:
        known = entry.picture
        if known.records == picture.records and known.state == picture.state:
            raise AssertionError(f"{path}: producers and records disagree: {picture.producers} instead of {known.producers}")
        if known.records == picture.records and known.producers == picture.producers:
            raise AssertionError(f"{path}: state and records disagree: {picture.state} instead of {known.state}")
        if [record for record, _ in known.records] == [record for record, _ in picture.records] != []:
            raise AssertionError(f"{path}: a record does not stand at the offset that was given out for it")
    raise AssertionError(f"{path}: it never looked like this: {picture}")


async def _go_on(engine: StorageEngine, kept: dict[str, Picture]) -> dict[str, Picture]:
    """Append to all that is left, with the next number of a producer, and again; make a new stream. Return the pictures after."""
    requests = {}
    for path, picture in kept.items():
        state, producer = picture.state, picture.producers[0]
        if state is not None and not _is_over(state) and not state.closed:
            stamp = ProducerStamp("p", 0, 0 if producer is None else producer.seq + 1)
            requests[path] = AppendRequest(path, b"after the crash", BINARY, producer=stamp)
    first = await asyncio.gather(*(_append(engine, request) for request in requests.values()))
    again = await asyncio.gather(*(_append(engine, request) for request in requests.values()))
    create = CreateRequest("after", BINARY, "ab" * 16, body=b"new")
    outcome = await engine.transact(("after",), lambda views: decide_create(views[0], create, 0.0))
    grown = {"after": Picture(outcome.state, ((b"new", outcome.state.place),))}
    for (path, request), news, repetition in zip(requests.items(), first, again, strict=True):
        assert not news.duplicate, f"{path}: the next number was taken for a repetition"
        assert repetition.duplicate, f"{path}: a repetition was taken for news"
        picture = kept[path]
        grown[path] = Picture(news.state, (*picture.records, (request.body, news.state.place)), (news.producer, picture.producers[1]))
    return grown


async def _append(engine: StorageEngine, request: AppendRequest) -> AppendOutcome:
    return await engine.transact((request.path,), lambda views: decide_append(views[0], request, 0.0), producer=PRODUCERS[0])
