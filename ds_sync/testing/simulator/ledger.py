"""Everything that any life of any server ever appended, by offset: offsets prove their history, so the chain behind one is unique."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from ds_sync.protocol.decisions import Decision, StreamView
from ds_sync.protocol.framing import parse_frames
from ds_sync.protocol.history import Place
from ds_sync.server.engines.base import Decide, Run, StorageEngine

R = TypeVar("R")


class Ledger:
    """Offsets, each with the one before it and the record between them."""

    def __init__(self) -> None:
        self.ended: set[str] = set()
        """The paths of streams of which a life ended: deleted, expired, or made anew after that."""
        self.dropped: set[str] = set()
        """The paths of streams whose beginning the server dropped, because a snapshot has it."""
        self.snapshots = 0
        """How many were published."""
        self._entries: dict[str, tuple[str, bytes]] = {}
        self._twins: dict[str, str] = {}
        """By the offset with a check that is one higher, which is the same place: where a snapshot leads to."""

    def note(self, before: str, after: str, record: bytes) -> None:
        """Write down a record. It need not have become durable: nobody can be given its offset before it is."""
        self._entries[after] = (before, record)
        position, _, check = after.partition("_")
        self._twins[f"{position}_{int(check) + 1:016}"] = after

    def place(self, offset: str) -> str:
        """Return the offset as it is spelled in pages."""
        return self._twins.get(offset, offset)

    def is_after_snapshot(self, offset: str) -> bool:
        """Whether it is where a snapshot leads to."""
        return offset in self._twins

    def chain(self, offset: str) -> list[str]:
        """Return the offsets from the stream's beginning up to `offset`, without the beginning itself."""
        found, offset = [], self.place(offset)
        while (entry := self._entries.get(offset)) is not None:
            found.append(offset)
            offset = entry[0]
        return found[::-1]

    def frames_between(self, first: str, last: str) -> list[bytes] | None:
        """Return the payloads between two offsets; None if the history of `last` does not go through `first`."""
        found: list[bytes] = []
        first, last = self.place(first), self.place(last)
        while last != first:
            entry = self._entries.get(last)
            if entry is None:
                return None if first in self._entries else found[::-1]
            last, record = entry
            found += reversed(parse_frames(record).payloads)
        return found[::-1]

    def frames(self, offset: str) -> list[bytes]:
        """Return the payloads of everything that stands before `offset`."""
        return [payload for place in self.chain(offset) for payload in parse_frames(self._entries[place][1]).payloads]


class ObservedEngine:
    """A StorageEngine that tells the ledger what it decides."""

    def __init__(self, engine: StorageEngine, ledger: Ledger) -> None:
        self.engine = engine
        self.durable = engine.durable
        self._ledger = ledger

    async def transact(self, paths: Sequence[str], decide: Decide[R], *, producer: str | None = None) -> R:
        def decide_and_note(views: Sequence[StreamView]) -> Decision[R]:
            decision = decide(views)
            for path, view, change in zip(paths, views, decision.changes, strict=True):
                if change is not None and change.fresh and view.state is not None:
                    self._ledger.ended.add(path)
                if change is not None and view.state is not None and not change.fresh and change.state.earliest != view.state.earliest:
                    self._ledger.dropped.add(path)
                if change is not None and change.record is not None:
                    self._ledger.snapshots += path.endswith("/.index")
                    before = "" if change.fresh or view.state is None else str(view.state.tail)
                    self._ledger.note(before, change.state.tail, change.record)
            return decision

        return await self.engine.transact(paths, decide_and_note, producer=producer)

    async def read(self, path: str, after: Place | None, limit: int) -> Run:
        return await self.engine.read(path, after, limit)

    async def list(self, glob: str) -> list[str]:
        return await self.engine.list(glob)

    def count(self) -> int:
        return self.engine.count()

    def watch(self, watcher: Callable[[Collection[str]], None]) -> Callable[[], None]:
        return self.engine.watch(watcher)

    async def aclose(self) -> None:
        await self.engine.aclose()
