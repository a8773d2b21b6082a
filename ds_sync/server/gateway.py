"""The gateway port: how another protocol gets at the documents of this server.

A gateway is published as an entry point in the group `ds_sync.gateways`: one called `ws` is served at `/v1/ws/`. Its value is called once
with a `Doorway`, and returns the `Gateway`. What a gateway is given of a document is a `SharedDocument`: the stream of its updates, under
the rules an append over HTTP has, and its presence, the same that the document's URL gives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from ds_sync.environment import Environment
from ds_sync.exceptions import FramingError, GoneError, NotFoundError
from ds_sync.protocol.decisions import AppendRequest, CreateRequest, decide_append
from ds_sync.protocol.framing import build_frames, parse_frames
from ds_sync.protocol.history import START, Place
from ds_sync.protocol.state import require_stream
from ds_sync.server.admission import Access as Access
from ds_sync.server.admission import Admit, admit_everybody, build_visitor
from ds_sync.server.documents.routes import DocumentName, Documents, parse_document_name
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.lives import Lives
from ds_sync.server.requests import DEFAULT_CONTENT_TYPE
from ds_sync.server.responses import Receive as Receive
from ds_sync.server.responses import Scope as Scope
from ds_sync.server.responses import Send as Send
from ds_sync.server.streams import raw_path

PRESENCE_NAME: Final = "default"
"""The presence stream that gateways share with the clients on HTTP."""

MAX_FRAME: Final = 16 * 1024 * 1024
"""Bytes of one message. The HTTP server takes no larger frame."""

PUSH: Final = "ds_sync.push"
"""In the `extensions` of a connection's scope, if the server has it: a function that sends a binary message at once and returns True, or,
if the client has not taken what was sent before, does nothing and returns False. `send` waits for such a client."""

Unwatch: TypeAlias = Callable[[], None]


class Gateway(Protocol):
    """A protocol on WebSockets."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Talk with one client until it or we hang up. A failure ends this conversation, and no other."""
        ...

    def stop(self) -> None:
        """End all conversations soon, and tell clients to come back."""
        ...

    async def aclose(self) -> None:
        """Let go of everything."""
        ...


OpenGateway: TypeAlias = Callable[["Doorway"], Gateway]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in one life of a document."""

    incarnation: str | None
    """None: the document was not made yet."""
    place: Place


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a document's updates, durable, in order."""

    updates: tuple[bytes, ...]
    """Not checked: whoever writes to a stream decides what is in its frames."""
    mark: Mark
    """Where to read on."""
    up_to_date: bool


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody said of who is there."""

    presence: bytes
    """Not checked."""
    at: float
    """When: `environment.monotonic()`."""


class Doorway:
    """What a gateway is given: the documents, the world, the limits."""

    def __init__(
        self,
        engine: StorageEngine,
        environment: Environment,
        documents: Documents,
        *,
        max_frame: int = MAX_FRAME,
        page_bytes: int = 1024 * 1024,
        max_streams: int | None = None,
        admit: Admit = admit_everybody,
    ) -> None:
        self.environment = environment
        self.max_frame = max_frame
        """Bytes of one message of a client."""
        self.page_bytes = page_bytes
        """About how many bytes a `Part` holds, and an append should."""
        self._admit = admit
        self.engine = engine
        self.documents = documents
        self.lives = Lives(engine, environment, max_streams)
        self._bells: dict[str, list[Callable[[], None]]] = {}
        self._unwatch = (engine.watch(self._ring), documents.presence.watch(self._ring))

    def open(self, kind: str, scope: Scope) -> SharedDocument:
        """Return the document that a connection's path `/v1/<gateway>/<service>/<path>` means. Raises InvalidRequestError."""
        _, _, _, service, path = (raw_path(scope).split(b"/", 4) + [b""] * 4)[:5]
        name = parse_document_name(b"/".join((b"/v1", kind.encode(), service, b"docs", path)))
        if name is None:
            raise AssertionError("gateways ask for kinds of documents that there are")
        return SharedDocument(self, name)

    async def admit(self, scope: Scope, document: SharedDocument) -> Access:
        """Return what a client may do with a document; to be asked before it gets anything of it.

        Raises UnauthorizedError or ForbiddenError, and whatever the application's own function does: then it may do nothing.
        """
        access = await self._admit(build_visitor(scope, document.service, document.room))
        if not isinstance(access, Access):
            raise TypeError(f"admit returned {access!r}, which is no Access")
        return access

    def watch(self, path: str, callback: Callable[[], None]) -> Unwatch:
        """Have `callback` called after commits to `path`, updates or presence."""
        callbacks = self._bells.setdefault(path, [])
        callbacks.append(callback)

        def unwatch() -> None:
            callbacks.remove(callback)
            if not callbacks and self._bells.get(path) is callbacks:
                del self._bells[path]

        return unwatch

    def close(self) -> None:
        """Listen no more."""
        for unwatch in self._unwatch:
            unwatch()

    def _ring(self, paths: Collection[str]) -> None:
        for path in paths:
            for callback in tuple(self._bells.get(path, ())):
                callback()


class SharedDocument:
    """One document, for a gateway."""

    def __init__(self, doorway: Doorway, name: DocumentName) -> None:
        self._doorway = doorway
        self._engine = doorway.engine
        self._name = name
        self._presence_path = name.presence(PRESENCE_NAME)

    @property
    def path(self) -> str:
        """Of the stream of updates; what it goes by."""
        return self._name.updates

    @property
    def service(self) -> str:
        """Of the document."""
        return self._name.service

    @property
    def room(self) -> str:
        """The document's path within its service."""
        return self._name.path

    async def begin(self) -> Part:
        """Return the newest snapshot as one update, or nothing, and where to read on. Raises DsSyncError."""
        while True:
            state = (await self._engine.read(self.path, None, 0)).state
            if state is None or state.deleted:
                return Part((), Mark(None, START), up_to_date=True)
            require_stream(state, self._doorway.environment.now())
            try:
                snapshot = await self._doorway.documents.newest_snapshot(self._name, state.incarnation)
            except NotFoundError:
                continue  # a newer one has taken its place meanwhile
            place = START if snapshot is None else snapshot.place
            return Part(() if snapshot is None else (snapshot.data,), Mark(state.incarnation, place), state.place == place)

    async def read(self, mark: Mark) -> Part:
        """Return what follows `mark`. Raises NotFoundError and GoneError if that life of the document is over, DsSyncError."""
        run = await self._engine.read(self.path, mark.place, self._doorway.page_bytes)
        state = run.state
        if mark.incarnation is None and (state is None or state.deleted):
            return Part((), mark, up_to_date=True)
        state = require_stream(state, self._doorway.environment.now())
        if mark.incarnation not in (None, state.incarnation):
            raise GoneError("the document was made anew", code="HISTORY_DIVERGED", incarnation=state.incarnation)
        updates = parse_frames(b"".join(run.records)).payloads
        return Part(updates, Mark(state.incarnation, run.end), run.up_to_date)

    async def append(self, updates: Sequence[bytes], mark: Mark) -> Mark | None:
        """Append, durably, to the life of the document that `mark` belongs to; make the document if it was not made yet.

        Return the mark after them if they stand right after `mark`, None if somebody wrote in between: then all is to be read.
        Raises NotFoundError or GoneError if that life is over, StorageFullError and other refusals of an append, DsSyncError.
        """
        environment = self._doorway.environment
        incarnation = mark.incarnation
        if incarnation is None:
            fresh = f"{environment.random.getrandbits(128):032x}"
            made = await self._doorway.lives.create(CreateRequest(self.path, DEFAULT_CONTENT_TYPE, fresh))
            incarnation = made.state.incarnation
        body = build_frames(updates)
        request = AppendRequest(self.path, body, DEFAULT_CONTENT_TYPE, incarnation=incarnation)
        now = environment.now()
        state = (await self._engine.transact((self.path,), lambda views: decide_append(views[0], request, now))).state
        return Mark(incarnation, state.place) if state.position - len(body) == mark.place.position else None

    def watch(self, callback: Callable[[], None]) -> Unwatch:
        """Have `callback` called when there may be something to read. Returns what ends it."""
        return self._doorway.watch(self.path, callback)

    async def say(self, presence: bytes) -> None:
        """Tell all who share the document's presence; nothing is stored."""
        await self._doorway.documents.open_presence(self._presence_path)
        now = self._doorway.environment.now()
        request = AppendRequest(self._presence_path, build_frames([presence]), DEFAULT_CONTENT_TYPE)
        await self._doorway.documents.presence.transact((self._presence_path,), lambda views: decide_append(views[0], request, now))

    def hear(self, after: Place | None) -> tuple[tuple[Said, ...], Place | None]:
        """Return what was said after `after` (None: what is remembered of the last moments), and where to go on."""
        said, place = self._doorway.documents.presence.recall(self._presence_path, after)
        return tuple(Said(update, at) for at, record in said for update in _split(record)), place

    def watch_presence(self, callback: Callable[[], None]) -> Unwatch:
        """Have `callback` called when somebody said something. Returns what ends it."""
        return self._doorway.watch(self._presence_path, callback)


def _split(record: bytes) -> tuple[bytes, ...]:
    try:
        return parse_frames(record).payloads
    except FramingError:  # presence over HTTP is not checked: what is no run of frames says nothing
        return ()
