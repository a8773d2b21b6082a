"""What the SQLite engine keeps in memory: each stream's newest and durable state, where its unsettled records stand, and the
bytes of the most recent ones."""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from ds_sync.protocol.history import HASH_SIZE, Place, build_place
from ds_sync.protocol.producer import ProducerState
from ds_sync.protocol.state import StreamState, StreamView
from ds_sync.server.engines.base import Records
from ds_sync.server.engines.layout import parse_state

NOTHING: Final = StreamView(None, {})


class Stream:
    """One life of a path. A deletion begins another, which is a tombstone."""

    __slots__ = (
        "data",
        "durable",
        "first",
        "id",
        "newest",
        "path",
        "pending",
        "positions",
        "producers",
        "runnings",
        "settled",
        "unsettled",
    )

    def __init__(self, number: int, path: str) -> None:
        self.id = number
        self.path = path
        self.producers: dict[str, ProducerState] = {}
        self.newest = StreamView(None, self.producers)
        """What decisions see: commits under way included."""
        self.durable: StreamState | None = None
        """What readers see."""
        self.pending = 0
        """Changes under way."""
        self.settled = 0
        """The position up to which the table of places knows the records."""
        self.unsettled: list[tuple[int, bytes, int]] = []
        """(position, running hash, log row) after each record above `settled`."""
        self.positions: list[int] = []
        self.runnings: list[bytes] = []
        self.data: list[bytes] = []
        """The recent records, from `first` on; `positions` and `runnings` hold the place *before* each, and the tail."""
        self.first = 0


class RecentRecords:
    """The bytes of the records committed last, over all streams, up to a budget: so that a live tail is read from memory."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held = 0
        self._order: deque[Stream] = deque()

    def add(self, stream: Stream, before: tuple[int, bytes], record: bytes, after: tuple[int, bytes]) -> None:
        """Keep a record that was just committed."""
        if not stream.positions:
            stream.positions.append(before[0])
            stream.runnings.append(before[1])
        stream.positions.append(after[0])
        stream.runnings.append(after[1])
        stream.data.append(record)
        self._order.append(stream)
        self._held += len(record) + 200  # what an entry costs beside its bytes
        while self._held > self._budget:
            self._drop(self._order.popleft())

    def read(self, stream: Stream, after: Place, limit: int) -> Records | None:
        """Return records after `after`, or None if that is not a place among the recent ones."""
        positions = stream.positions
        if not positions or after.position < positions[stream.first]:
            return None
        start = bisect_left(positions, after.position, lo=stream.first)
        if start >= len(stream.data) or not after.matches(build_place(positions[start], stream.runnings[start])):
            return None
        end = bisect_right(positions, after.position + limit, lo=start) - 1
        if end == start and limit > 0:
            end += 1
        if end == start:
            return (), after
        return tuple(stream.data[start:end]), build_place(positions[end], stream.runnings[end])

    def _drop(self, stream: Stream) -> None:
        self._held -= len(stream.data[stream.first]) + 200
        stream.data[stream.first] = b""
        stream.first += 1
        if stream.first * 2 >= len(stream.data):
            for kept in (stream.positions, stream.runnings, stream.data):
                del kept[: stream.first]
            stream.first = 0
            if not stream.data:
                stream.positions.clear()
                stream.runnings.clear()


@dataclass(slots=True)
class Shelf:
    """All streams of a file."""

    newest: dict[str, Stream] = field(default_factory=dict)
    """By path, the life that decisions see."""
    durable: dict[str, Stream] = field(default_factory=dict)
    """By path, the life that readers see."""
    next_stream: int = 1
    next_log: int = 1
    last_log: int = 0
    """The last log row that was committed."""
    settled: int = 0
    """The last log row the lower tables know."""
    dirty: dict[int, Stream] = field(default_factory=dict)
    """Lives that changed since."""
    dirty_producers: dict[tuple[int, str], ProducerState] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
    """Lives that ended since; what they leave may be removed once it is settled."""
    removable: list[int] = field(default_factory=list)
    trimmable: dict[int, int] = field(default_factory=dict)
    """By life, the position up to which retention has dropped its records; what is settled of them may be removed."""


def load_shelf(connection: sqlite3.Connection) -> Shelf:
    """Read the lower tables, then what the log knows beyond them. Raises sqlite3.Error, KeyError or ValueError on damage."""
    shelf = Shelf()
    streams: dict[int, Stream] = {}
    producers: dict[int, dict[str, ProducerState]] = {}
    (shelf.settled,) = connection.execute("SELECT log FROM settled").fetchone()
    for number, position, running, text in connection.execute("SELECT id, position, running, state FROM stream"):
        path, state = parse_state(json.loads(text), position, running)
        stream = streams[number] = Stream(number, path)
        stream.durable, stream.settled = state, position
    for number, name, epoch, seq, digest in connection.execute("SELECT stream, id, epoch, seq, digest FROM producer"):
        producers.setdefault(number, {})[name] = ProducerState(epoch, seq, digest)
    last = shelf.settled
    log = "SELECT id, stream, position, running, change, data IS NOT NULL FROM log WHERE id > ? ORDER BY id"
    for last, number, position, running, text, has_data in connection.execute(log, (shelf.settled,)):
        change = {} if text is None else json.loads(text)
        if (fields := change.get("state")) is not None:
            path, state = parse_state(fields, position, running)
            stream = streams.setdefault(number, Stream(number, path))
        else:
            stream = streams[number]
            if stream.durable is None:
                raise ValueError(f"stream {number} begins without a state")
            state = replace(stream.durable, position=position, running=running)
        stream.durable = state
        if has_data:
            stream.unsettled.append((position, running, last))
        if (known := change.get("producer")) is not None:
            name, epoch, seq, digest = known
            made = ProducerState(epoch, seq, bytes.fromhex(digest))
            producers.setdefault(number, {})[name] = made
            shelf.dirty_producers[number, name] = made
        shelf.dirty[number] = stream
    for number in sorted(streams):
        stream = streams[number]
        stream.producers = producers.get(number, {})
        stream.newest = StreamView(stream.durable, stream.producers)
        earlier = shelf.durable.get(stream.path)
        if earlier is not None:
            shelf.ended.append(earlier.id)
        shelf.durable[stream.path] = stream
        if stream.durable is not None and stream.durable.earliest is not None:
            shelf.trimmable[number] = stream.durable.earliest.position
    shelf.newest = dict(shelf.durable)
    shelf.next_stream = max(streams, default=0) + 1
    shelf.last_log = last
    shelf.next_log = last + 1
    return shelf


def start_of(state: StreamState) -> tuple[int, bytes]:
    """Return position and running hash before a stream's first own record."""
    return (0, b"") if state.origin is None else (state.origin.position, state.origin.check.to_bytes(HASH_SIZE, "big"))
