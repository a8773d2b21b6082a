"""What a server holds, for people: its documents and streams, with what is known of each. Asked for by the inspector.

Nothing here works on the event loop for long: logs are read in pages, updates are counted in a thread, and what a document says is found
out by a process of its own, one at a time.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from ds_sync.crdt import PresenceAdapter, Word, load_adapter
from ds_sync.environment import Environment
from ds_sync.exceptions import FramingError, GoneError, InvalidUpdateError, NotFoundError
from ds_sync.protocol.framing import build_frames, parse_frames
from ds_sync.protocol.history import START, Place
from ds_sync.protocol.state import FRAMED_SUFFIX, StreamState, require_stream
from ds_sync.server.documents.compaction import PAGE_BYTES, open_process
from ds_sync.server.documents.routes import KINDS, DocumentName, Documents
from ds_sync.server.documents.snapshots import EVERYTHING, SUFFIX, Snapshots, build_key
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.gateway import PRESENCE_NAME
from ds_sync.server.live import Waiters

COUNT_BYTES: Final = 16 * 1024 * 1024
"""Of logs, read for one answer in order to count updates. What is counted is remembered, so the next answer counts on."""

REMEMBERED: Final = 10_000
"""Streams whose last write, and documents whose number of updates, is remembered."""

RECORDS_BYTES: Final = 16 * 1024
"""Of a stream's records, in one answer."""

SHOWN_BYTES: Final = 4 * 1024
"""Of one record."""

CONTENT_SECONDS: Final = 30.0
"""After which a document is too large to be shown."""

Talkers = Callable[[str, str], int]
"""Of service and path: how many clients on WebSockets have the document open."""


class Survey:
    """Looks at the streams of one engine and the presence beside them."""

    def __init__(self, engine: StorageEngine, environment: Environment, documents: Documents, readers: Waiters, talkers: Talkers) -> None:
        self._engine = engine
        self._environment = environment
        self._presence = documents.presence
        self._documents = documents
        self._snapshots = Snapshots(engine, environment)
        self._readers = readers
        self._talkers = talkers
        self._written: OrderedDict[str, float] = OrderedDict()
        """By path: seconds since 1970; those written last at the end."""
        self._counted: OrderedDict[str, tuple[str, Place, int]] = OrderedDict()
        """By path: incarnation, up to where, how many updates."""
        self._words: dict[str, PresenceAdapter | None] = {}
        self._one_at_a_time = asyncio.Lock()
        self._unwatch = engine.watch(self._note)

    def close(self) -> None:
        """Look no more."""
        self._unwatch()

    async def find_documents(self, wanted: str, after: str, limit: int) -> dict[str, Any]:
        """Return up to `limit` documents after `after` whose path holds `wanted`, and `next`, to go on from. Raises DsSyncError."""
        paths = [path for kind in KINDS for path in await self._engine.list(f"{kind}/*/docs/**{FRAMED_SUFFIX}")]
        page, following = _select(paths, wanted, after, limit)
        budget = COUNT_BYTES
        rows = []
        for path in page:
            state = (await self._engine.read(path, None, 0)).state
            name = parse_updates_path(path)
            if state is None or not state.listed or name is None:
                continue  # it went meanwhile
            updates, spent = await self._count(path, state, budget)
            budget -= spent
            rows.append({**self._describe(path, state), **await self._describe_document(name, state), "updates": updates})
        return {"documents": rows, "next": following}

    async def find_streams(self, wanted: str, after: str, limit: int) -> dict[str, Any]:
        """Return up to `limit` streams after `after` whose path holds `wanted`, and `next`, to go on from. Raises DsSyncError."""
        page, following = _select(await self._engine.list("**"), wanted, after, limit)
        rows = []
        for path in page:
            state = (await self._engine.read(path, None, 0)).state
            if state is not None and state.listed:
                rows.append(self._describe(path, state))
        return {"streams": rows, "next": following}

    async def read_records(self, path: str, after: Place | None) -> dict[str, Any]:
        """Return some records after a place (None: from the first), and `next`, the offset to go on from. Raises DsSyncError."""
        if after is None:
            state = (await self._engine.read(path, None, 0)).state
            after = START if state is None or state.earliest is None else state.earliest
        run = await self._engine.read(path, after, RECORDS_BYTES)
        state = require_stream(run.state, self._environment.now())
        position = run.end.position - sum(map(len, run.records))
        rows = []
        for record in run.records:
            rows.append({"position": position, **_show(record)})
            position += len(record)
        return {"records": rows, "next": None if run.up_to_date else run.next_offset, **self._describe(path, state)}

    async def read_content(self, name: DocumentName) -> dict[str, Any]:
        """Return what a document says now, as `Compaction.content` does, and who is there. Raises DsSyncError, TimeoutError, OSError."""
        async with self._one_at_a_time, asyncio.timeout(CONTENT_SECONDS), open_process(name.kind) as worker:
            while True:
                state = require_stream((await self._engine.read(name.updates, None, 0)).state, self._environment.now())
                try:
                    snapshot = await self._documents.newest_snapshot(name, state.incarnation)
                    break
                except NotFoundError:
                    continue  # a newer one has taken its place meanwhile
            place = START if snapshot is None else snapshot.place
            if snapshot is not None:
                await worker.feed(build_frames([snapshot.data]))
            while True:
                run = await self._engine.read(name.updates, place, PAGE_BYTES)
                if run.records:
                    await worker.feed(b"".join(run.records))
                place = run.end
                if run.up_to_date:
                    break
            found: dict[str, Any] = json.loads(await worker.content())
        found["people"] = [{"client": word.client, "state": json.dumps(word.state)[:SHOWN_BYTES]} for word in await self._find_people(name)]
        return found

    def _note(self, paths: Collection[str]) -> None:
        now = self._environment.now()
        for path in paths:
            self._written[path] = now
            self._written.move_to_end(path)
        while len(self._written) > REMEMBERED:
            self._written.popitem(last=False)

    def _describe(self, path: str, state: StreamState) -> dict[str, Any]:
        return {
            "path": path,
            "bytes": state.position - (state.earliest or START).position,
            "tail": state.tail,
            "content_type": state.content_type,
            "incarnation": state.incarnation,
            "closed": state.closed,
            "forks": state.forks,
            "deadline": state.deadline,
            "readers": self._readers.count(path),
            "written": self._written.get(path),
        }

    async def _describe_document(self, name: DocumentName, state: StreamState) -> dict[str, Any]:
        newest = await self._snapshots.newest(name.root, state.incarnation)
        snapshot = None
        if newest is not None:
            key = build_key(newest.place)
            snapshot = {
                "offset": key.removesuffix(SUFFIX),
                "bytes": await self._snapshots.measure(name.root, key),
                "log_since": state.position - newest.place.position,
            }
        return {
            "kind": name.kind,
            "service": name.service,
            "name": name.path,
            "snapshot": snapshot,
            "sockets": self._talkers(name.service, name.path),
            "people": len(await self._find_people(name)),
        }

    async def _count(self, path: str, state: StreamState, budget: int) -> tuple[int | None, int]:
        """Return how many updates the log holds, None where that takes more than `budget` bytes of reading; and how many were read."""
        incarnation, place, count = self._counted.get(path, ("", START, 0))
        if incarnation != state.incarnation:
            place, count = state.earliest or START, 0
        spent = 0
        try:
            while place.position < state.position and spent < budget:
                run = await self._engine.read(path, place, PAGE_BYTES)
                if not run.records:
                    break
                count += await self._environment.run_in_thread(_count_frames, run.records)
                spent += run.end.position - place.position
                place = run.end
        except (GoneError, FramingError):
            return None, spent
        self._counted[path] = (state.incarnation, place, count)
        self._counted.move_to_end(path)
        while len(self._counted) > REMEMBERED:
            self._counted.popitem(last=False)
        return count if place.position >= state.position else None, spent

    async def _find_people(self, name: DocumentName) -> list[Word]:
        run = await self._presence.read(name.presence(PRESENCE_NAME), START, EVERYTHING)
        if not run.records:
            return []
        if name.kind not in self._words:
            adapter = await self._environment.run_in_thread(load_adapter, name.kind)
            self._words[name.kind] = getattr(adapter, "presence", None)
        words = self._words[name.kind]
        return [] if words is None else await self._environment.run_in_thread(_read_presence, words, run.records)


def parse_updates_path(path: str) -> DocumentName | None:
    """Return the document whose stream of updates is at `path`, None if that is no document's."""
    kind, _, rest = path.removesuffix(FRAMED_SUFFIX).partition("/")
    service, docs, document = rest.partition("/docs/")
    if not path.endswith(FRAMED_SUFFIX) or kind not in KINDS or "/" in service or not docs or not document:
        return None
    return DocumentName(kind, service, document)


def _select(paths: list[str], wanted: str, after: str, limit: int) -> tuple[list[str], str | None]:
    found = [path for path in paths if path > after and wanted in path]
    return found[:limit], found[limit - 1] if len(found) > limit else None


def _show(record: bytes) -> dict[str, Any]:
    part = record[:SHOWN_BYTES]
    try:
        # The cut may stand within a character: then that is left out.
        text = part.decode("utf-8") if len(part) == len(record) else part.decode("utf-8", "ignore")
        is_text = len(text.encode()) > len(part) - 4 and all(character.isprintable() or character in "\t\r\n" for character in text)
    except UnicodeDecodeError:
        is_text = False
    return {
        "bytes": len(record),
        "kind": "text" if is_text else "hex",
        "shown": text if is_text else part.hex(" "),
        "cut": len(part) < len(record),
    }


def _count_frames(records: Sequence[bytes]) -> int:
    return len(parse_frames(b"".join(records)).payloads)


def _read_presence(words: PresenceAdapter, records: Sequence[bytes]) -> list[Word]:
    """Return the newest word of each client that is there. What can't be read says nothing: it comes from strangers."""
    newest: dict[int, Word] = {}
    for record in records:
        try:
            said = [word for update in parse_frames(record).payloads for word in words.decode(update)]
        except (FramingError, InvalidUpdateError):
            continue
        for word in said:
            known = newest.get(word.client)
            if known is None or word.clock >= known.clock:
                newest[word.client] = word
    return [word for word in newest.values() if word.state is not None]
