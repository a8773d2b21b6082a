"""Snapshots of documents: where they lie, which one is the newest (YJS-PROTOCOL.md sections 5.1, 5.2 and 8).

A snapshot is a stream, `<document>/.snapshots/<offset>_snapshot`, whose records are one update; `<document>/.index` lists them, newest
last. Both carry the incarnation of their document: what a document that was deleted has left is nothing to the one that is made in its
place.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ds_sync.environment import Environment
from ds_sync.exceptions import GoneError, InvalidRequestError, NotFoundError
from ds_sync.protocol.decisions import AppendRequest, CreateRequest, decide_append, decide_create
from ds_sync.protocol.history import START, Place, parse_place, spell_place
from ds_sync.protocol.json_mode import JSON_MEDIA_TYPE, build_json_page
from ds_sync.protocol.offsets import Offset
from ds_sync.protocol.retention import Milestone
from ds_sync.protocol.state import Decision, StreamView, require_stream
from ds_sync.server.engines.base import Run, StorageEngine
from ds_sync.server.lives import Lives
from ds_sync.server.requests import DEFAULT_CONTENT_TYPE

SUFFIX: Final = "_snapshot"

PART_BYTES: Final = 256 * 1024
"""Of one record of a snapshot. Other appends go in between, and need not wait until 100 MB are hashed, written and fsynced."""

PAGE_BYTES: Final = 1024 * 1024
"""About how much is read at a time."""

REMEMBERED: Final = 10_000
"""Documents whose newest snapshot is known without reading."""

EVERYTHING: Final = 2**62
"""Bytes: more than there is."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A document as it was at one place of its log."""

    data: bytes
    place: Place

    @property
    def next_offset(self) -> Offset:
        """Where to read on: the place itself, spelled as the protocol's example counts (4782, then 4783)."""
        return spell_place(Place(self.place.position, self.place.check + 1))


def build_key(place: Place) -> str:
    """Return the last segment of a snapshot's URL."""
    return f"{spell_place(place)}{SUFFIX}"


def parse_key(key: str) -> Place:
    """Return where the snapshot was taken. Raises NotFoundError: nothing was ever taken there (YJS-PROTOCOL.md section 5.2)."""
    try:
        return parse_place(key.removesuffix(SUFFIX))
    except InvalidRequestError:
        raise NotFoundError("Snapshot not found", code="SNAPSHOT_NOT_FOUND") from None


class Snapshots:
    """The snapshots of all documents of one engine."""

    def __init__(self, engine: StorageEngine, environment: Environment) -> None:
        self._engine = engine
        self._environment = environment
        self._lives = Lives(engine, environment)
        self._newest: OrderedDict[str, tuple[str, Place, Milestone | None]] = OrderedDict()
        """By document: its life, how far its index was read, and what stands last there. An index has as many entries as there ever were
        snapshots, and every newcomer asks for the last one."""

    async def newest(self, root: str, incarnation: str) -> Milestone | None:
        """Return of what the newest snapshot of this life of the document was made; of the index it reads what it has not read before."""
        known = self._newest.pop(root, None)
        if known is None or known[0] != incarnation:
            known = (incarnation, START, None)
        try:
            run = await self._engine.read(_index(root), known[1], EVERYTHING)
        except GoneError:  # the index of another life has taken its place
            run = await self._engine.read(_index(root), START, EVERYTHING)
        if run.state is None or not run.state.listed or run.state.incarnation != incarnation:
            return None
        newest = _parse_entries(run.records[-1:])[-1] if run.records else known[2]
        self._newest[root] = (incarnation, run.end, newest)
        while len(self._newest) > REMEMBERED:
            self._newest.popitem(last=False)
        return newest

    async def milestones(self, root: str, incarnation: str) -> tuple[Milestone, ...]:
        """Return of what all snapshots of this life of the document were made, newest last; only that one is still there."""
        run = await self._engine.read(_index(root), START, EVERYTHING)
        if run.state is None or run.state.incarnation != incarnation or not run.records:
            return ()
        return _parse_entries(run.records)

    async def read(self, root: str, incarnation: str, key: str) -> Snapshot:
        """Return a snapshot. Raises NotFoundError (SNAPSHOT_NOT_FOUND)."""
        place, path, parts = parse_key(key), f"{root}/.snapshots/{key}", list[bytes]()
        after = START
        while True:
            try:
                run = await self._engine.read(path, after, PAGE_BYTES)
            except GoneError:
                run = Run(None, (), after)  # it was deleted, and another has its name
            state = run.state
            if state is None or not state.listed or state.incarnation != incarnation or not (parts or run.records):
                raise NotFoundError("Snapshot not found", code="SNAPSHOT_NOT_FOUND")
            parts += run.records
            if run.up_to_date:
                return Snapshot(b"".join(parts), place)
            after = run.end

    async def measure(self, root: str, key: str) -> int:
        """Return how many bytes a snapshot has; 0 if it is not there."""
        state = (await self._engine.read(f"{root}/.snapshots/{key}", None, 0)).state
        return state.position if state is not None and state.listed else 0

    async def store(self, root: str, incarnation: str, snapshot: Snapshot) -> str:
        """Store a snapshot that nobody is told of yet; return its key. What an earlier attempt left there makes room."""
        key = build_key(snapshot.place)
        path = f"{root}/.snapshots/{key}"
        await self._delete(path)
        now, data = self._environment.now(), snapshot.data
        request = CreateRequest(path, DEFAULT_CONTENT_TYPE, incarnation, body=data[:PART_BYTES])
        await self._engine.transact((path,), lambda views: decide_create(views[0], request, now))
        for begin in range(PART_BYTES, len(data), PART_BYTES):
            await self._append(AppendRequest(path, data[begin : begin + PART_BYTES], DEFAULT_CONTENT_TYPE, incarnation=incarnation), now)
        return key

    async def publish(self, root: str, incarnation: str, key: str, *, left_out: int = 0) -> None:
        """Make a stored snapshot the newest. Raises GoneError or NotFoundError if the document has ended or begun anew.

        `left_out`: how many updates are neither in it nor in what it was made from.
        """
        now = self._environment.now()
        paths = (f"{root}/.updates", _index(root))
        fields = {"snapshotOffset": key.removesuffix(SUFFIX), "createdAt": int(now * 1000)} | ({"leftOut": left_out} if left_out else {})
        entry = json.dumps(fields).encode()

        def decide(views: Sequence[StreamView]) -> Decision[None]:
            document = require_stream(views[0].state, now)
            if document.incarnation != incarnation:
                raise GoneError("the document was made anew", code="HISTORY_DIVERGED", incarnation=document.incarnation)
            index = views[1].state
            if index is not None and index.listed and index.incarnation == incarnation:
                (change,) = decide_append(views[1], AppendRequest(paths[1], entry, JSON_MEDIA_TYPE), now).changes
            else:
                request = CreateRequest(paths[1], JSON_MEDIA_TYPE, incarnation, body=entry)
                (change,) = decide_create(StreamView(None, {}), request, now).changes
            return Decision(None, (None, change))

        await self._engine.transact(paths, decide)

    async def delete(self, root: str, key: str) -> None:
        """Delete one snapshot, if it is there."""
        await self._delete(f"{root}/.snapshots/{key}")

    async def delete_all(self, root: str, *, but: str | None = None) -> None:
        """Delete all snapshots of a document that has ended, and the index; or all but one, and leave the index."""
        prefix = f"{root}/.snapshots/"
        for path in await self._engine.list(f"{prefix}*"):
            if path.startswith(prefix) and path != f"{prefix}{but}":  # a path may hold an asterisk of its own
                await self._delete(path)
        if but is None:
            await self._delete(_index(root))

    async def _append(self, part: AppendRequest, now: float) -> None:
        await self._engine.transact((part.path,), lambda views: decide_append(views[0], part, now))

    async def _delete(self, path: str) -> None:
        try:
            await self._lives.delete(path)
        except (NotFoundError, GoneError):
            return


def _parse_entries(records: Sequence[bytes]) -> tuple[Milestone, ...]:
    return tuple(
        Milestone(parse_key(entry["snapshotOffset"]), entry["createdAt"] / 1000, entry.get("leftOut", 0))
        for entry in json.loads(build_json_page(records))
    )


def _index(root: str) -> str:
    return f"{root}/.index"
