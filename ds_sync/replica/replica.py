"""Replica: one device's copy of its documents, in one SQLite file; online and offline at any time."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from ds_sync.client.credentials import Credentials, Value
from ds_sync.client.stream import StreamClient
from ds_sync.client.transport import HttpTransport, Transport
from ds_sync.crdt import CrdtAdapter, load_adapter
from ds_sync.environment import Environment
from ds_sync.exceptions import ClosedError, DsSyncError, NotDivergedError, StoreError
from ds_sync.protocol.urls import redact_url, split_url
from ds_sync.replica.document import Choice, Document
from ds_sync.replica.local import LocalDocument, Tuning
from ds_sync.replica.records import DocumentKey, Phase
from ds_sync.replica.session import RETRY, Counters, Session
from ds_sync.replica.snapshots import PlainServers, SnapshotSource
from ds_sync.replica.store import LocalStore

_log = logging.getLogger("ds_sync.replica")

BACKGROUND: Final = 8
"""Documents that are synced at a time without being open."""

BACKGROUND_TURN: Final = 30.0
"""Seconds after which a document that can't be sent lets another have its turn."""

MAX_NAME: Final = 1024
"""Characters of a document's path."""


def check_name(name: str, what: str) -> str:
    """Return `name` if it can stand in a document's URL: segments between slashes, none empty, `.` or `..`. Raises ValueError."""
    segments = name.split("/")
    if len(name) > MAX_NAME or not all(segments) or {".", "..", ".updates"} & set(segments) or not name.isprintable():
        raise ValueError(f"not a {what} for a document: {name[:80]!r}")
    if what == "service" and len(segments) > 1:
        raise ValueError(f"a service is one segment, without a slash: {name[:80]!r}")
    return name


def _require_diverged(document: Document, choice: Choice) -> None:
    if document.closing:
        raise ClosedError(f"{document.path} is closed")
    phase = document.local.record.phase
    if phase not in (Phase.DIVERGED, Phase.DELETED) and not (phase is Phase.LOCAL and choice == "both"):
        state = document.status.state
        raise NotDivergedError(f"{document.path} is {state}: there is nothing to resolve by {choice!r}", state=state)


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """A document of the file, open or not."""

    path: str
    service: str
    crdt: str
    unsent: int
    """Edits that no server has acknowledged."""
    durable: int
    quarantined: int
    phase: str


class Replica:
    """A file of documents. Use it as an async context manager; it needs no network until `connect`.

    Edits are stored as they are made: nothing has to be saved, and nothing is lost when the program dies. One process at a time.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        server: str | None = None,
        service: str = "default",
        token: Value | None = None,
        headers: Mapping[str, Value] | None = None,
        power_safe: bool = False,
        transport: Transport | None = None,
        environment: Environment | None = None,
        tuning: Tuning | None = None,
        adapters: Mapping[str, CrdtAdapter] | None = None,
    ) -> None:
        """Name the file; it is opened, and `server` connected to, on entering the context.

        `server`: a base URL. `service`: the namespace of documents on the server. `token` (sent as a bearer token) and `headers` are
        values, or
        async callables that are asked again after a 401. `power_safe`: each edit is fsynced, so that even a power cut loses none.
        `adapters`: by the name that `open` is given, besides those that are installed.
        """
        self._path = path
        self._server = server
        self._service = check_name(service, "service")
        self._token = token
        self._headers = headers
        self._credentials = Credentials(token=token, headers=headers)
        self._power_safe = power_safe
        self._transport: Transport | None = transport
        self._owns_transport = transport is None
        self._environment = environment or Environment()
        self._tuning = tuning or Tuning()
        self._store: LocalStore | None = None
        self._adapters = dict(adapters or {})
        self._documents: dict[DocumentKey, Document] = {}
        self._online: str | None = None
        self._plain_servers: PlainServers = set()
        self._switching = asyncio.Lock()
        """Held while going online or offline."""
        self._background: set[DocumentKey] = set()
        self._drain: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Open the file. Raises FileInUseError, CorruptFileError, NewerFileError, StoreError."""
        self._store = self._open_store()
        if self._server is not None:
            try:
                await self.connect(self._server)
            except BaseException:
                await self.close()
                raise
        return self

    def _open_store(self) -> LocalStore:
        return LocalStore(self._path, power_safe=self._power_safe)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Go offline, close all documents and the file. What is not sent yet stays in the file."""
        async with self._switching:
            await self._go_offline()
            for document in list(self._documents.values()):
                await document.close()
            if self._transport is not None and self._owns_transport:
                await self._transport.aclose()
                self._transport = None
            if self._store is not None:
                self._store.close()
                self._store = None

    async def open(self, path: str, *, crdt: str = "yjs", service: str | None = None) -> Document:
        """Return the document called `path`, made if it is new; opened twice, it is the same object.

        `crdt` names an adapter. Raises ValueError for a name that makes no URL, UnknownAdapterError, FormatMismatchError,
        CorruptFileError, StoreError.
        """
        key = DocumentKey(crdt, check_name(service or self._service, "service"), check_name(path, "path"))
        while key in self._documents and self._documents[key].closing:
            await self._documents[key].close()
        document = self._open(key)
        self._background.discard(key)
        if self._online is not None and not document.online:
            await document.start_session(self._make_session, self._open_presence)
        return document

    def _open(self, key: DocumentKey) -> Document:
        if key in self._documents:
            return self._documents[key]
        store = self._require_store()
        if key.crdt not in self._adapters:  # looking through all installed packages takes as long as the rest of opening
            self._adapters[key.crdt] = load_adapter(key.crdt)
        local = LocalDocument(store, self._adapters[key.crdt], key, self._environment, self._tuning)
        return self._hold(local)

    def _hold(self, local: LocalDocument) -> Document:
        document = self._documents[local.record.key] = Document(local, self._forget, self._resolve)
        return document

    async def _resolve(self, document: Document, choice: Choice) -> Document | None:
        if choice not in ("both", "theirs"):
            raise ValueError(f"a document is resolved by 'both' or 'theirs', not by {choice!r}")
        async with self._switching:
            _require_diverged(document, choice)
            while document.online:
                await document.stop_session()
            copy = None
            try:
                _require_diverged(document, choice)  # it went on until now
                local = document.local
                if choice == "both":
                    local.join_anew()
                else:
                    phase = Phase.LOCAL if local.record.phase is Phase.DELETED else Phase.FOLLOW
                    fresh = local.set_apart(self._name_copy(local.record.key), phase=phase)
                    document.hold(fresh)
                    copy = self._hold(local)
            finally:
                if self._online is not None:
                    await document.start_session(self._make_session, self._open_presence)
            return copy

    def _name_copy(self, key: DocumentKey) -> str:
        taken = {record.key for record in self._require_store().documents()}
        day = datetime.fromtimestamp(self._environment.now(), UTC).date().isoformat()
        for number in count(1):
            mark = f" (copy of {day}{'' if number == 1 else f', {number}'})"
            path = key.path[: MAX_NAME - len(mark)] + mark
            if replace(key, path=path) not in taken:
                return path
        raise AssertionError("numbers do not end")

    async def connect(self, server: str | None = None, *, token: Value | None = None, headers: Mapping[str, Value] | None = None) -> None:
        """Go online with `server`, a base URL (or the one named before); returns at once, and keeps trying until `disconnect`.

        Documents that are not open, but have edits to send, are synced in the background. `token` and `headers`, if given, replace the old.
        Connecting again begins anew: after `unauthorized`, say, or `blocked`. Raises ValueError for what is no http(s) URL.
        """
        self._require_store()
        server = server or self._server
        if server is None:
            raise ValueError("there is no server to connect to")
        parts = split_url(server)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or parts.query or parts.fragment:
            raise ValueError(f"a server is an http:// or https:// URL, not {redact_url(server)!r}")
        async with self._switching:
            await self._go_offline()
            self._require_store()
            self._server = self._online = server.rstrip("/")
            self._plain_servers.clear()
            if token is not None or headers is not None:
                self._token = self._token if token is None else token
                self._headers = self._headers if headers is None else headers
                self._credentials = Credentials(token=self._token, headers=self._headers)
            for document in list(self._documents.values()):
                await document.start_session(self._make_session, self._open_presence)
            self._drain = asyncio.create_task(self._send_backlog(), name="ds-sync backlog")

    async def disconnect(self) -> None:
        """Go offline; documents stay open, and edits go to the outbox."""
        async with self._switching:
            await self._go_offline()

    async def _go_offline(self) -> None:
        self._online = None
        drain, self._drain = self._drain, None
        if drain is not None:
            drain.cancel()
            await asyncio.gather(drain, return_exceptions=True)
        for document in list(self._documents.values()):
            await document.stop_session()

    def documents(self) -> list[DocumentInfo]:
        """Return all documents of the file, open or not. Raises StoreError."""
        return [
            DocumentInfo(
                path=record.key.path,
                service=record.key.service,
                crdt=record.key.crdt,
                unsent=record.outbox,
                durable=record.durable,
                quarantined=record.quarantined,
                phase=record.phase.value,
            )
            for record in self._require_store().documents()
        ]

    async def _send_backlog(self) -> None:
        """Sync the documents that nobody has open and that have something to send."""
        store = self._require_store()
        while True:
            try:
                records = store.documents()
                break
            except StoreError as error:
                _log.warning("the documents to send can't be listed, tried again: %s", error)
                await self._environment.sleep(self._tuning.store_retry)
        owing = deque(
            record.key
            for record in records
            if record.phase is not Phase.LOCAL and (record.outbox or record.batch or record.expected or record.phase is Phase.HEAL)
        )

        async def work() -> None:
            while owing:
                key = owing.popleft()
                if key not in self._documents and not await self._send_in_background(key, patient=not owing):
                    owing.append(key)

        await asyncio.gather(*(work() for _ in range(BACKGROUND)))

    async def _send_in_background(self, key: DocumentKey, *, patient: bool) -> bool:
        """Return whether there is nothing more to do for the document; without `patient` it has BACKGROUND_TURN seconds."""
        try:
            document = self._open(key)
            self._background.add(key)
            await document.start_session(self._make_session, self._open_presence)
            async with asyncio.timeout(None if patient else BACKGROUND_TURN):
                await document.synced()
                if document.local.record.expected:
                    await document.synced()  # read back what was acknowledged: a closed document would not notice that it was lost
        except TimeoutError:
            return False
        except DsSyncError as error:
            _log.warning("%s: not sent in the background: %s", key.path, error)
        finally:
            if key in self._background:
                await self._documents[key].close()
        return True

    def _forget(self, document: Document) -> None:
        for key in [key for key, held in self._documents.items() if held is document]:
            del self._documents[key]
            self._background.discard(key)

    def _make_session(self, local: LocalDocument, counters: Counters) -> Session:
        stream = self._open_stream(f"/v1/stream{self._spell_path(local)}/.updates")
        server, crdt = self._require_server(), local.record.key.crdt
        snapshots = SnapshotSource(self._open_stream(f"/v1{self._spell_path(local)}"), server, crdt, self._plain_servers)
        return Session(local, stream, server, counters, snapshots)

    def _open_presence(self, local: LocalDocument) -> StreamClient:
        return self._open_stream(f"/v1{self._spell_path(local)}", {"awareness": "default"})

    def _spell_path(self, local: LocalDocument) -> str:
        key = local.record.key
        return "".join("/" + quote(part, safe="") for part in (key.crdt, key.service, "docs", *key.path.split("/")))

    def _open_stream(self, path: str, params: Mapping[str, str] | None = None) -> StreamClient:
        server = self._require_server()
        if self._transport is None:
            self._transport = HttpTransport()
        return StreamClient(
            server + path,
            transport=self._transport,
            credentials=self._credentials,
            params=params,
            environment=self._environment,
            retry=RETRY,
        )

    def _require_server(self) -> str:
        if self._online is None:
            raise AssertionError("a session without a server")
        return self._online

    def _require_store(self) -> LocalStore:
        if self._store is None:
            raise ClosedError("the replica is not open: use it as `async with Replica(...) as replica`")
        return self._store
