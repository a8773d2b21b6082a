"""Streams in memory: for tests, demonstrations and caches. Gone with the process."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import TypeVar

from ds_sync.exceptions import ClosedError
from ds_sync.protocol.decisions import Change, StreamState, StreamView
from ds_sync.protocol.history import START, Place
from ds_sync.protocol.producer import ProducerState
from ds_sync.server.engines.base import INTERNAL, Decide, Done, Records, Run, Watcher, decide_at_once, diverged, find_owners, require_kept
from ds_sync.server.engines.globs import compile_glob

R = TypeVar("R")


class MemoryEngine:
    """A StorageEngine that keeps everything in this process."""

    durable = False

    def __init__(self) -> None:
        self._views: dict[str, StreamView] = {}
        self._producers: dict[str, dict[str, ProducerState]] = {}
        self._records: dict[str, list[bytes]] = {}
        self._places: dict[str, list[Place]] = {}
        self._watchers: list[Watcher] = []
        self._count = 0
        self._closed = False

    async def transact(self, paths: Sequence[str], decide: Decide[R], *, producer: str | None = None) -> R:
        """Decide and apply in one turn of the event loop: nothing can come between."""
        return self._transact(paths, decide)

    def submit(self, path: str, decide: Decide[R], done: Done[R]) -> None:
        """Done at once."""
        try:
            result = self._transact((path,), decide)
        except Exception as error:
            done(None, error)
        else:
            done(result, None)

    def _transact(self, paths: Sequence[str], decide: Decide[R]) -> R:
        self._require_open()
        views = [self._views.get(path) or StreamView(None, {}) for path in paths]
        return decide_at_once(paths, views, decide, self._apply, self._watchers)

    async def read(self, path: str, after: Place | None, limit: int) -> Run:
        """Read from memory."""
        return self.read_now(path, after, limit)

    def state_of(self, path: str) -> StreamState | None:
        """Look it up."""
        view = self._views.get(path)
        return None if view is None else view.state

    def read_now(self, path: str, after: Place | None, limit: int) -> Run:
        """Read from memory."""
        self._require_open()
        view = self._views.get(path)
        state = None if view is None else view.state
        if state is None or state.deleted or state.kept:
            return Run(state, (), after or START)
        if after is None:
            return Run(state, (), state.place)
        require_kept(state, after)
        records: list[bytes] = []
        for owner, bound in find_owners(state, path, after, self._require_state):
            if bound <= after.position < state.position:
                continue
            found = self._read_own(owner, after, min(limit, bound - after.position))
            if found is None:
                raise diverged(state)
            part, end = found
            limit -= end.position - after.position
            if records and limit < 0:
                break  # only a page's first record may be above its limit
            records += part
            after = end
            if end.position < bound or bound == state.position or limit <= 0:
                break
        return Run(state, tuple(records), after)

    async def list(self, glob: str) -> list[str]:
        """Match against all paths."""
        self._require_open()
        matches = compile_glob(glob).fullmatch
        return sorted(path for path, view in self._views.items() if view.state is not None and view.state.listed and matches(path))

    def count(self) -> int:
        """Counted as they come and go."""
        return self._count

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` in the turn that commits."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    async def aclose(self) -> None:
        """Forget everything."""
        self._closed = True
        self._views.clear()
        self._count = 0
        self._records.clear()
        self._places.clear()

    def _require_state(self, path: str) -> StreamState:
        state = self._views[path].state
        if state is None:
            raise AssertionError("a source lives as long as its forks")
        return state

    def _read_own(self, path: str, after: Place, limit: int) -> Records | None:
        places = self._places[path]
        first = bisect_left(places, after.position, key=lambda place: place.position)
        if first == len(places) or not after.matches(places[first]):
            return None
        end = bisect_right(places, after.position + limit, key=lambda place: place.position) - 1
        if end == first and limit > 0 and first < len(places) - 1:
            end = first + 1
        return tuple(self._records[path][first:end]), places[end] if end > first else after

    def _apply(self, path: str, change: Change) -> None:
        if change.fresh:
            self._producers[path] = {}
            self._records[path] = []
            self._places[path] = [change.state.base]
        producers = self._producers[path]
        earliest = change.state.earliest
        if earliest is not None and change.state.origin is None:
            dropped = bisect_left(self._places[path], earliest.position, key=lambda place: place.position)
            del self._places[path][:dropped], self._records[path][:dropped]
        if change.producer is not None:
            producers[change.producer[0]] = change.producer[1]
        before = self._views.get(path)
        if not path.startswith(INTERNAL):
            self._count += change.state.listed - (before is not None and before.state is not None and before.state.listed)
        self._views[path] = StreamView(change.state, producers)
        if change.record is not None:
            self._records[path].append(change.record)
            self._places[path].append(change.state.place)

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError("the engine was closed")
