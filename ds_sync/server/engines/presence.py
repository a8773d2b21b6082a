"""Presence: streams in memory of which only the last moments are kept (YJS-PROTOCOL.md sections 5.5 and 5.6).

What a client says of itself is repeated every few seconds and is worth nothing after half a minute, so nothing here is ever on
disk, and each stream is bounded in bytes and in time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from ds_sync.exceptions import ClosedError
from ds_sync.protocol.history import START, Place
from ds_sync.protocol.state import Change, StreamState, StreamView
from ds_sync.server.engines.base import Decide, Run, Watcher, decide_at_once, diverged
from ds_sync.server.engines.globs import compile_glob

R = TypeVar("R")

KEPT_BYTES: Final = 256 * 1024
"""Of one stream. One update is kept whatever its size."""

KEPT_SECONDS: Final = 24.0
"""Clients repeat what they say of themselves every 15 to 18 s, so everybody who is there is in what is kept, with 6 s to spare. Who comes
late sees a client that has crashed until then, and for 6 s more at most (ds_sync/replica/presence.py): 30 in all."""

MAX_STREAMS: Final = 20_000
"""Of all documents. Beyond it, those that were written longest ago are forgotten."""


KEPT_IN_ALL: Final = 64 * 1024 * 1024
"""Bytes of all streams together. Beyond it what has expired is forgotten, then what was said to those written longest ago, until a quarter
is free. Nobody is refused: live readers have heard it already, and clients repeat what they say of themselves."""

RECORD_COST: Final = 240
"""Bytes that one update costs, besides its own: it could be a single byte."""


class _Ring:
    __slots__ = ("held", "places", "records", "state", "times")

    def __init__(self, state: StreamState) -> None:
        self.state = state
        self.records: list[bytes] = []
        self.times: list[float] = []
        self.places: list[Place] = [state.place]
        """Before each record, and the tail."""
        self.held = 0
        """Bytes."""

    def append(self, record: bytes, now: float) -> None:
        self.records.append(record)
        self.times.append(now)
        self.places.append(self.state.place)
        self.held += len(record)

    def drop_old(self, now: float) -> None:
        gone = bisect_right(self.times, now - KEPT_SECONDS)
        self.held -= sum(map(len, self.records[:gone]))
        while self.held > KEPT_BYTES and gone < len(self.records) - 1:
            self.held -= len(self.records[gone])
            gone += 1
        self._drop(gone)

    def drop_all(self) -> None:
        """Forget what was said; the tail stays, so that who has heard everything reads on."""
        self.held = 0
        self._drop(len(self.records))

    @property
    def cost(self) -> int:
        """Bytes of memory."""
        return self.held + RECORD_COST * len(self.records)

    def _drop(self, gone: int) -> None:
        if gone:
            del self.records[:gone], self.times[:gone], self.places[:gone]


class PresenceEngine:
    """A StorageEngine that forgets.

    Who reads on from what is forgotten is told so (GoneError). The beginning is the oldest that is kept.
    """

    durable = False

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._rings: OrderedDict[str, _Ring] = OrderedDict()
        """Those written last at the end."""
        self._cost = 0
        """Of all rings; what has expired since a ring was written to last still counts."""
        self._watchers: list[Watcher] = []
        self._closed = False

    async def transact(self, paths: Sequence[str], decide: Decide[R], *, producer: str | None = None) -> R:
        """Decide and apply in one turn of the event loop. Producers are not remembered: presence may come twice."""
        self._require_open()
        rings = [self._rings.get(path) for path in paths]
        views = [StreamView(None if ring is None else ring.state, {}) for ring in rings]
        return decide_at_once(paths, views, decide, self._apply, self._watchers)

    async def read(self, path: str, after: Place | None, limit: int) -> Run:
        """Read what is left."""
        self._require_open()
        ring = self._rings.get(path)
        if ring is None:
            return Run(None, (), after or START)
        if after is None:
            return Run(ring.state, (), ring.state.place)
        self._drop_old(ring, self._monotonic())
        places = ring.places
        first = 0 if after == START else bisect_left(places, after.position, key=lambda place: place.position)
        if first == len(places) or not (after == START or after.matches(places[first])):
            raise diverged(ring.state)
        end = bisect_right(places, places[first].position + limit, key=lambda place: place.position) - 1
        if end == first and limit > 0 and first < len(places) - 1:
            end = first + 1
        return Run(ring.state, tuple(ring.records[first:end]), places[end] if end > first or after == START else after)

    def recall(self, path: str, after: Place | None) -> tuple[Sequence[tuple[float, bytes]], Place | None]:
        """Return what was said after `after` (None, or a place that is forgotten: all that is left), and where to go on.

        Each comes with the time when it was said.
        """
        self._require_open()
        ring = self._rings.get(path)
        if ring is None:
            return (), None
        self._drop_old(ring, self._monotonic())
        places = ring.places
        first = 0 if after is None else bisect_left(places, after.position, key=lambda place: place.position)
        if after is None or first == len(places) or not after.matches(places[first]):
            first = 0
        return tuple(zip(ring.times[first:], ring.records[first:], strict=True)), places[-1]

    async def list(self, glob: str) -> list[str]:
        """Match against all paths."""
        self._require_open()
        matches = compile_glob(glob).fullmatch
        return sorted(path for path in self._rings if matches(path))

    def count(self) -> int:
        """How many rings there are."""
        return len(self._rings)

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` in the turn that changes something."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def forget(self, prefix: str) -> None:
        """Drop all streams whose path begins with `prefix`; who reads them is woken."""
        gone = [path for path in self._rings if path.startswith(prefix)]
        for path in gone:
            self._remove(path)
        for watcher in tuple(self._watchers):
            watcher(gone)

    async def aclose(self) -> None:
        """Forget everything."""
        self._closed = True
        self._rings.clear()
        self._cost = 0

    def _apply(self, path: str, change: Change) -> None:
        if change.state.deleted:
            self._remove(path)
            return
        if change.fresh:
            self._remove(path)
        ring = self._rings.get(path)
        if ring is None:
            ring = self._rings[path] = _Ring(change.state)
        ring.state = change.state
        self._rings.move_to_end(path)
        if change.record is not None:
            now = self._monotonic()
            self._cost -= ring.cost
            ring.append(change.record, now)
            self._cost += ring.cost
            self._drop_old(ring, now)
            if self._cost > KEPT_IN_ALL:
                self._make_room(now)
        while len(self._rings) > MAX_STREAMS:
            self._remove(next(iter(self._rings)))

    def _make_room(self, now: float) -> None:
        enough = KEPT_IN_ALL - KEPT_IN_ALL // 4
        for ring in self._rings.values():
            self._drop_old(ring, now)
        for ring in self._rings.values():
            if self._cost <= enough:
                return
            self._cost -= ring.cost
            ring.drop_all()

    def _drop_old(self, ring: _Ring, now: float) -> None:
        self._cost -= ring.cost
        ring.drop_old(now)
        self._cost += ring.cost

    def _remove(self, path: str) -> None:
        ring = self._rings.pop(path, None)
        if ring is not None:
            self._cost -= ring.cost

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError("the engine was closed")
