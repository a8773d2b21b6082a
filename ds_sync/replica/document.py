"""What an application holds: the document, how it stands, and when it is synced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from ds_sync.client.stream import StreamClient
from ds_sync.exceptions import ClosedError, DsSyncError, SyncStoppedError
from ds_sync.replica.local import LocalDocument
from ds_sync.replica.presence import Presence
from ds_sync.replica.records import Phase, Quarantined
from ds_sync.replica.session import Counters, Session

STOPPED: Final = frozenset({"unauthorized", "forbidden", "diverged", "deleted", "local", "blocked", "closed"})
"""States in which nothing goes on until somebody acts (new credentials are also asked for from time to time)."""


Choice = Literal["both", "theirs"]
"""Of our copy of a document, and of what the server has now."""

OpenPresence = Callable[[LocalDocument], StreamClient]
"""Gives the stream on which a document's presence is heard and said."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a document stands. Every local edit is in exactly one of the first four counts."""

    unsaved: int
    """Edits in memory only, because the file could not be written (disk full); they are stored as soon as it can."""
    unsent: int
    """Edits in the file's outbox that no request carries yet."""
    sent: int
    """Edits in the batch that is on its way; whether the server has it is not known yet."""
    durable: int
    """Edits of this file that the server has acknowledged, ever."""
    oldest_unsent_age: float | None
    """Seconds since the oldest edit was made that is not durable; None if all are. Edits that are only in memory have no age."""
    state: str
    """offline, connecting, catching-up, live, retrying, verifying, healing: it goes on by itself. unauthorized, forbidden, diverged,
    deleted, local, blocked, closed: somebody has to act; `Document.resolve` ends diverged, deleted and local."""
    last_error: DsSyncError | None
    """What is the matter now, or None."""
    quarantined: int = 0
    """Things a server sent that could not be used; `Document.quarantined()` returns them."""
    batches: int = 0
    """Since the document was opened, as are the next three."""
    bytes_sent: int = 0
    retries: int = 0
    duplicates: int = 0
    """Answers 204: "have it already". They are not believed, but verified."""


class Document:
    """An open document. Make one with `Replica.open`."""

    def __init__(
        self,
        local: LocalDocument,
        close: Callable[[Document], None],
        resolve: Callable[[Document, Choice], Awaitable[Document | None]],
    ) -> None:
        self._local = local
        self._close = close
        self._resolve = resolve
        self.closing = False
        """Whether `close` was called."""
        self._closed = False
        self._ending = asyncio.Lock()
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._counters = Counters()
        self._presence: Presence | None = None
        self._open_presence: OpenPresence | None = None
        """While online."""
        self._presence_task: asyncio.Task[None] | None = None

    @property
    def doc(self) -> Any:
        """The CRDT document: with the Yjs adapter a plain `pycrdt.Doc`. Use it on the thread that opened it.

        The same object for as long as the document is open, unless `resolve("theirs")` replaces it.
        """
        return self._local.doc

    @property
    def local(self) -> LocalDocument:
        """The document's rows; for the replica."""
        return self._local

    @property
    def online(self) -> bool:
        """Whether a session is running: the replica was connected and the document is open."""
        return self._task is not None

    @property
    def path(self) -> str:
        """The document's name: `notes/today`."""
        return self._local.record.key.path

    @property
    def presence(self) -> Presence:
        """Who else has the document open, and what we say of ourselves. From the first use on, one more connection.

        Raises TypeError if the document's CRDT adapter knows no presence.
        """
        if self._presence is None:
            adapter = getattr(self._local.adapter, "presence", None)
            if adapter is None:
                raise TypeError(f"the adapter {self._local.adapter.name!r} knows no presence")
            self._presence = Presence(adapter, adapter.client(self._local.doc), self._local.environment)
            self._start_presence()
        return self._presence

    @property
    def status(self) -> Status:
        """How the document stands at this moment."""
        local, counters = self._local, self._counters
        record = local.record
        sealed = record.batch.edits if record.batch else 0
        oldest = local.store.oldest(record.id) if local.outbox and not self._closed else None
        return Status(
            unsaved=len(local.unsaved),
            unsent=local.outbox - sealed,
            sent=sealed,
            durable=record.durable,
            oldest_unsent_age=None if oldest is None else max(0.0, local.environment.now() - oldest),
            state=self._state(),
            last_error=local.store_error or (self._session.error if self._session else None),
            quarantined=record.quarantined,
            batches=counters.batches,
            bytes_sent=counters.bytes_sent,
            retries=counters.retries,
            duplicates=counters.duplicates,
        )

    def _state(self) -> str:
        if self._local.record.phase is Phase.LOCAL:
            return "local"
        if self._session is None:
            return "offline"
        if self._local.record.phase is Phase.FOLLOW or not self._session.arrived:
            return self._session.state
        if self._local.record.phase is Phase.HEAL:
            return self._session.state if self._session.state in STOPPED or self._session.error else "healing"
        return self._local.record.phase.value

    async def statuses(self) -> AsyncIterator[Status]:
        """Yield the status now, and again after each change, the newest only; ends when the document is closed."""
        last: Status | None = None
        while not self._closed:
            status = self.status
            if last is None or _without_age(status) != _without_age(last):
                last = status
                yield status
            else:
                await self._local.changed.wait()

    async def synced(self) -> None:
        """Wait until all edits made so far are durable on the server, and all that stood in the stream by now is here.

        Waits through being offline. Raises SyncStoppedError in a state that ends only when somebody acts, ClosedError after `close`.
        """
        local = self._local
        # Edits that could not be stored yet will take the next rows, before all others.
        wanted = local.store.last_row(local.record.id) + len(local.unsaved)
        asked: tuple[Session, int] | None = None
        while True:
            if self._closed:
                raise ClosedError(f"{self.path} is closed")
            session, state = self._session, self._state()
            if state in STOPPED and not (state == "closed" and not local.outbox and not local.unsaved):
                error = self.status.last_error
                raise SyncStoppedError(f"{self.path} can't sync: {state}" + (f" ({error})" if error else ""), state=state)
            if session is not None:
                if asked is None or asked[0] is not session:
                    asked = (session, session.request_proof())
                batch = local.record.batch
                ours = local.store.settled_through(local.record.id) >= wanted and not (batch and batch.healing)
                if ours and (session.proven >= asked[1] or state == "closed") and local.record.phase is Phase.FOLLOW:
                    return
            await local.changed.wait()

    async def resolve(self, choice: Choice) -> Document | None:
        """Decide what becomes of a document that is `diverged`, `deleted` or `local`; syncing then goes on. No network is needed.

        "both": what is here goes to the server, into whatever it has under this name by then or into a new document, and what it has
        comes here. "theirs": this document becomes what the server has, in a new `doc`; if it was deleted there, it is empty and
        `local`. What was here so far stays in the file as a local document called "<path> (copy of <date>)", which is returned, open.
        It holds the old `doc`, so that an editor bound to that loses nothing, and is sent nowhere until its own `resolve("both")`.
        A death of the process leaves all of it or nothing.

        Raises NotDivergedError in other states ("theirs" also for `local`), ValueError for another choice, StoreError, ClosedError.
        """
        return await self._resolve(self, choice)

    def merge(self, update: bytes) -> bool:
        """Take in an update that was made elsewhere, and send it like an edit; return whether it was news (if not, nothing is sent).

        In the file when this returns. Raises InvalidUpdateError, StoreError (it is in the document, and stored when that is possible
        again) and, inside an open transaction of the application, DocumentBusyError.
        """
        return self._local.merge(update)

    def newest_edit(self) -> int:
        """Return the number of the newest edit that is in the file; for peers (`ds_sync.peers`)."""
        return self._local.store.last_row(self._local.record.id)

    def settle(self, through: int, peer: str) -> None:
        """Count the edits up to this one as durable: a peer has shown that it has them; for peers. No effect while a server of ours is
        connected, or was ever: only that can say so then. Raises StoreError, DocumentBusyError.
        """
        if not self.online and not self._closed:
            self._local.settle_elsewhere(through, peer)

    def version(self) -> bytes:
        """Return a summary of what the document holds, for `missing`. Raises DocumentBusyError."""
        return self._local.adapter.version(self._local.doc)

    def missing(self, since: bytes | None = None) -> bytes:
        """Return one update with what a document at version `since` lacks; None: with everything. Raises DocumentBusyError."""
        return self._local.adapter.missing(self._local.doc, since)

    def quarantined(self) -> list[Quarantined]:
        """Return what a server sent that could not be used: kept, reported, skipped."""
        return self._local.store.quarantined(self._local.record.id)

    async def close(self) -> None:
        """Stop syncing this document and forget it in memory. What is not sent yet stays in the file."""
        self.closing = True
        async with self._ending:
            if not self._closed:
                await self.stop_session()
                self._closed = True
                self._local.close()
                self._close(self)
                self._local.changed.notify()
                if self._presence is not None:
                    self._presence.end()

    async def start_session(self, make: Callable[[LocalDocument, Counters], Session], open_presence: OpenPresence) -> None:
        """Go online with a new session, unless the document is local; the replica calls this."""
        while self._task is not None:
            await self.stop_session()
        if not self.closing and self._local.record.phase is not Phase.LOCAL:
            self._session = make(self._local, self._counters)
            self._task = asyncio.create_task(self._session.run(), name=f"ds-sync {self.path}")
            self._open_presence = open_presence
            self._start_presence()
            self._local.changed.notify()

    def _start_presence(self) -> None:
        if self._presence is not None and self._open_presence is not None and self._presence_task is None:
            running = self._presence.run(self._open_presence(self._local))
            self._presence_task = asyncio.create_task(running, name=f"ds-sync presence of {self.path}")

    def hold(self, local: LocalDocument) -> None:
        """Be `local` from now on; the replica calls this, while no session runs."""
        before, self._local = self._local, local
        self._counters = Counters()
        adapter = getattr(local.adapter, "presence", None)
        if self._presence is not None and adapter is not None:
            self._presence.become(adapter.client(local.doc))
        before.changed.notify()

    async def stop_session(self) -> None:
        """Go offline; the replica calls this."""
        self._open_presence = None
        present, self._presence_task = self._presence_task, None
        if present is not None:
            present.cancel()
            await asyncio.wait((present,))
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
            if self._task is task:
                self._task = self._session = None
                self._local.changed.notify()


def _without_age(status: Status) -> tuple[Any, ...]:
    return tuple(getattr(status, name) for name in status.__slots__ if name != "oldest_unsent_age")
