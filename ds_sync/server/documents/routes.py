"""Documents over HTTP: `/v1/<crdt>/<service>/docs/<path>` (the Durable Streams Yjs Protocol, YJS-PROTOCOL.md).

A document is an ordinary stream of updates, `<crdt>/<service>/docs/<path>/.updates`, with snapshots beside it and presence in memory.
What differs from a stream: a client can't close it, and a producer that starts again under an old number is told to claim
the next epoch instead of being answered "duplicate", so that its edits are not lost.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from ds_sync.environment import Environment
from ds_sync.exceptions import InvalidRequestError, NotFoundError
from ds_sync.protocol import headers as names
from ds_sync.protocol.decisions import CLOSE_REFUSED, CreateRequest, decide_create
from ds_sync.protocol.expiry import Expiry
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.protocol.state import StreamState, require_stream
from ds_sync.server.documents.compaction import Compactor, OpenWorker
from ds_sync.server.documents.snapshots import SUFFIX, Snapshot, Snapshots, build_key, parse_key
from ds_sync.server.documents.trimming import Trimmer
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.presence import PresenceEngine
from ds_sync.server.live import SharedPages, Waiters
from ds_sync.server.lives import Lives
from ds_sync.server.requests import DEFAULT_CONTENT_TYPE, only_value, parse_query, parse_stream_path
from ds_sync.server.responses import COMMON_HEADERS, METHODS, HeaderList, Receive, Scope, Send, answer
from ds_sync.server.streams import Limits, Streams, raw_path

KINDS: Final = ("yjs",)
"""The first segment of a document's URL: the name of the CRDT adapter that makes its snapshots."""

SNAPSHOT: Final = "snapshot"
"""The offset that stands for "where should I begin" (YJS-PROTOCOL.md section 6)."""

PRESENCE_MARK: Final = "/.awareness/"
"""In the path of a presence stream below /v1/stream/, where it can be read, too."""

PRESENCE_TTL: Final = 3600
"""Seconds after the last word at which a presence stream is gone (YJS-PROTOCOL.md section 11)."""

PRESENCE_LIMIT: Final = 64 * 1024
"""Bytes of one presence update."""

Call = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class DocumentName:
    """Which document."""

    kind: str
    service: str
    path: str

    @property
    def root(self) -> str:
        """What the paths of its streams begin with."""
        return f"{self.kind}/{self.service}/docs/{self.path}"

    @property
    def updates(self) -> str:
        """The path of the stream of updates."""
        return f"{self.root}/.updates"

    def presence(self, name: str) -> str:
        """The path of a presence stream."""
        return f"{self.root}{PRESENCE_MARK}{name}"


def parse_document_name(raw: bytes) -> DocumentName | None:
    """Return the document of a raw URL path, None if the path is none of ours. Raises InvalidRequestError.

    Double slashes count as one, as the protocol wants; segments that begin with a dot are kept for what belongs to a document.
    """
    version, _, rest = raw.removeprefix(b"/").partition(b"/")
    kind, _, rest = rest.partition(b"/")
    if version != b"v1" or kind.decode("latin-1") not in KINDS:
        return None
    service, _, tail = rest.partition(b"/")
    if not tail.startswith(b"docs/"):
        raise InvalidRequestError("a document's URL is /v1/<crdt>/<service>/docs/<path>")
    # One decoding for all of it, so that no encoded slash or dot slips through.
    with _protocol_codes():
        segments = [segment for segment in parse_stream_path(tail.removeprefix(b"docs/")).split("/") if segment]
        owner = parse_stream_path(service)
    if not segments or "/" in owner or any(segment.startswith(".") for segment in (owner, *segments)):
        raise InvalidRequestError("Invalid document path")
    return DocumentName(kind.decode(), owner, "/".join(segments))


def parse_presence_path(path: str) -> tuple[DocumentName, str] | None:
    """Return the document and the name of the presence stream that `path` (below /v1/stream/) is, or None."""
    root, mark, name = path.rpartition(PRESENCE_MARK)
    kind, _, rest = root.partition("/")
    service, docs, document = rest.partition("/docs/")
    if not mark or not docs or kind not in KINDS or not document or name == ".index":
        return None
    return DocumentName(kind, service, document), name


class Documents:
    """The requests on documents, over the streams of one engine."""

    def __init__(
        self,
        engine: StorageEngine,
        streams: Streams,
        environment: Environment,
        limits: Limits,
        compact_after: int | None,
        open_worker: OpenWorker | None = None,
    ) -> None:
        self._engine = engine
        self._streams = streams
        self._environment = environment
        self._lives = Lives(engine, environment, limits.max_streams)
        self._snapshots = Snapshots(engine, environment)
        keep = limits.keep_updates
        trimmer = None if keep is None else Trimmer(engine, self._snapshots, environment, streams.reads, keep)
        self._compactor: Compactor | None = None
        if compact_after is not None:
            self._compactor = Compactor(engine, self._snapshots, environment, compact_after, open_worker, trimmer)
        self.presence = PresenceEngine(environment.monotonic)
        """All documents' presence streams."""
        self._waiters = Waiters()
        self.presence.watch(self._waiters.wake)
        small = replace(limits, max_body=min(limits.max_body, PRESENCE_LIMIT))
        self._presence_streams = Streams(self.presence, environment, small, self._waiters)
        self._presence_streams.pages = SharedPages(0)  # none: what is at the beginning changes by time alone, and no offset tells

    async def serve(self, name: DocumentName, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request on a document's URL."""
        with _protocol_codes():
            await self._serve(name, scope, receive, send)

    async def _serve(self, name: DocumentName, scope: Scope, receive: Receive, send: Send) -> None:
        query = parse_query(scope["query_string"])
        if (presence := only_value(query, "awareness")) is not None:
            await self.serve_presence(name, presence, scope, receive, send)
            return
        calls: dict[str, Call] = {
            "GET": lambda *call: self._get(name, *call),
            "HEAD": lambda *call: self._head(name, *call),
            "POST": lambda *call: self._streams.post(name.updates, *call, document=True),
            "PUT": lambda scope, *call: self._streams.put(name.updates, _without_type(scope), *call),
            "DELETE": lambda *call: self._delete(name, *call),
        }
        call = calls.get(scope["method"])
        if call is None:
            await _refuse_method(send)
            return
        try:
            await call(scope, receive, send)
        except NotFoundError as error:
            raise _as_missing_document(error) from error

    async def serve_presence(self, name: DocumentName, presence: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request on one of a document's presence streams."""
        calls: dict[str, Call] = {
            "GET": lambda *call: self._read_presence(path, *call),
            "HEAD": lambda *call: self._presence_streams.head(path, *call),
            "POST": lambda *call: self._say_presence(path, *call),
            "PUT": lambda *call: self._put_presence(path, *call),
            "DELETE": lambda *call: self._presence_streams.delete(path, *call),
        }
        call = calls.get(scope["method"])
        if call is None:
            await _refuse_method(send)
            return
        if not presence or presence == ".index" or "/" in presence or not presence.isprintable() or len(presence) > 256:
            raise InvalidRequestError("Invalid awareness name")
        path = name.presence(presence)
        try:
            await self._require(name)
        except NotFoundError as error:
            self.presence.forget(name.root + PRESENCE_MARK)
            raise _as_missing_document(error) from error
        if presence == "default" and scope["method"] in ("HEAD", "DELETE"):
            await self.open_presence(path)  # made with its document
        await call(scope, receive, send)

    def stop(self) -> None:
        """End the live readers of presence."""
        self._waiters.stop()

    async def aclose(self) -> None:
        """Stop making snapshots, and forget all presence."""
        self.stop()
        if self._compactor is not None:
            await self._compactor.aclose()
        await self.presence.aclose()

    async def newest_snapshot(self, name: DocumentName, incarnation: str) -> Snapshot | None:
        """Return the newest snapshot of this life of the document, if it has one. Raises NotFoundError if it went meanwhile."""
        self._expect_company(name)
        newest = await self._snapshots.newest(name.root, incarnation)
        if newest is None:
            return None
        found = await self._snapshots.read(name.root, incarnation, build_key(newest.place))
        self._streams.reads.note(name.updates, found.place.position)
        return found

    def _expect_company(self, name: DocumentName) -> None:
        # After a restart nobody knows which documents have long tails; who joins one is seldom the last.
        if self._compactor is not None:
            self._compactor.consider(name.root)

    async def _require(self, name: DocumentName) -> StreamState:
        return require_stream((await self._engine.read(name.updates, None, 0)).state, self._environment.now())

    async def _get(self, name: DocumentName, scope: Scope, receive: Receive, send: Send) -> None:
        query = parse_query(scope["query_string"])
        offset = only_value(query, names.QUERY_OFFSET)
        if offset == SNAPSHOT:
            await self._discover(name, scope, send)
        elif offset is not None and offset.endswith(SUFFIX):
            await self._read_snapshot(name, offset, scope, send)
        else:
            await self._streams.get(name.updates, _spell_live(scope, names.LIVE_LONG_POLL), receive, send)

    async def _head(self, name: DocumentName, scope: Scope, receive: Receive, send: Send) -> None:
        offset = only_value(parse_query(scope["query_string"]), names.QUERY_OFFSET)
        if offset is not None and (offset == SNAPSHOT or offset.endswith(SUFFIX)):
            await self._get(name, scope, receive, send)
        else:
            await self._streams.head(name.updates, scope, receive, send)

    async def _discover(self, name: DocumentName, scope: Scope, send: Send) -> None:
        state = await self._require(name)
        self._expect_company(name)
        newest = await self._snapshots.newest(name.root, state.incarnation)
        target = BEGINNING if newest is None else build_key(newest.place)
        fields: HeaderList = [
            (b"location", raw_path(scope) + b"?offset=" + target.encode()),
            (b"cache-control", b"private, max-age=5"),
        ]
        await answer(send, 307, fields)

    async def _read_snapshot(self, name: DocumentName, key: str, scope: Scope, send: Send) -> None:
        state = await self._require(name)
        newest = await self._snapshots.newest(name.root, state.incarnation)
        if parse_key(key) != (None if newest is None else newest.place):  # it may be half stored, and was not verified
            raise NotFoundError("Snapshot not found", code="SNAPSHOT_NOT_FOUND")
        found = await self._snapshots.read(name.root, state.incarnation, key)
        self._streams.reads.note(name.updates, found.place.position)  # the reader goes on from there
        fields: HeaderList = [
            (b"content-type", DEFAULT_CONTENT_TYPE.encode()),
            (b"stream-next-offset", found.next_offset.encode()),
            (b"stream-incarnation", state.incarnation.encode()),
            (b"cache-control", b"private, max-age=5"),
        ]
        if scope["method"] == "HEAD":
            fields.append((b"content-length", b"%d" % len(found.data)))
            await send({"type": "http.response.start", "status": 200, "headers": COMMON_HEADERS + fields})
            await send({"type": "http.response.body", "body": b""})
        else:
            await answer(send, 200, fields, found.data)

    async def _delete(self, name: DocumentName, scope: Scope, receive: Receive, send: Send) -> None:
        # The document first: what is left of the others after a crash belongs to a life that has ended, and is never read again.
        ended = await self._lives.delete(name.updates)
        self.presence.forget(name.root + PRESENCE_MARK)
        await self._snapshots.delete_all(name.root)
        await answer(send, 204, [(b"stream-incarnation", ended.incarnation.encode())])

    async def _read_presence(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        await self.open_presence(path)
        await self._presence_streams.get(path, _spell_live(scope, names.LIVE_SSE), receive, send)

    async def _say_presence(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        await self.open_presence(path)
        await self._presence_streams.post(path, scope, receive, send, document=True)

    async def _put_presence(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        created = await self.open_presence(path)
        await answer(send, 201 if created else 200, [(b"content-type", DEFAULT_CONTENT_TYPE.encode())])

    async def open_presence(self, path: str) -> bool:
        """Make a presence stream unless it is there; return whether it was made."""
        now = self._environment.now()
        fresh = f"{self._environment.random.getrandbits(128):032x}"
        request = CreateRequest(path, DEFAULT_CONTENT_TYPE, fresh, expiry=Expiry(ttl=PRESENCE_TTL))
        outcome = await self.presence.transact((path,), lambda views: decide_create(views[0], request, now))
        return outcome.created


def _spell_live(scope: Scope, transport: str) -> Scope:
    # Older clients say live=true and leave the choice to the server.
    query: bytes = scope["query_string"]
    if b"live=true" not in query.split(b"&"):
        return scope
    parts = [b"live=" + transport.encode() if part == b"live=true" else part for part in query.split(b"&")]
    return {**scope, "query_string": b"&".join(parts)}


def _without_type(scope: Scope) -> Scope:
    # A document is made of frames whatever its creator says: as another type nobody could write to it.
    return {**scope, "headers": [field for field in scope["headers"] if field[0].lower() != b"content-type"]}


def _as_missing_document(error: NotFoundError) -> NotFoundError:
    if error.code in ("SNAPSHOT_NOT_FOUND", "DOCUMENT_NOT_FOUND"):
        return error
    return NotFoundError("Document does not exist", code="DOCUMENT_NOT_FOUND", incarnation=error.incarnation)


@contextmanager
def _protocol_codes() -> Iterator[None]:
    """The protocol of documents has one code for all that is malformed (YJS-PROTOCOL.md section 10); that of streams has many."""
    try:
        yield
    except InvalidRequestError as error:
        if error.code == CLOSE_REFUSED:
            raise
        raise InvalidRequestError(str(error)) from error


async def _refuse_method(send: Send) -> None:
    body = json.dumps({"error": {"code": "INVALID_REQUEST", "message": "Method not allowed"}}).encode()
    await answer(send, 405, [(b"allow", METHODS), (b"content-type", b"application/json")], body)
