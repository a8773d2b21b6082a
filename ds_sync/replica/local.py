"""A document on this device: the live CRDT document, and its rows in the store, kept in step. Knows no network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ds_sync.crdt import CrdtAdapter
from ds_sync.environment import Environment
from ds_sync.exceptions import (
    CorruptFileError,
    DocumentBusyError,
    FormatMismatchError,
    InvalidUpdateError,
    StoreError,
)
from ds_sync.protocol.messages import Page, ProducerStamp
from ds_sync.protocol.offsets import BEGINNING, Offset
from ds_sync.replica.plan import choose_rows, read_run
from ds_sync.replica.records import Batch, DocumentKey, Phase, Quarantined, build_digest
from ds_sync.replica.signal import Signal
from ds_sync.replica.store import LocalStore

_log = logging.getLogger("ds_sync.replica")

MAX_EXPECTED: Final = 64
"""Batches that a document remembers until they are read back. When there are more, the oldest are forgotten: read back, they are stored a
second time, and if the server loses those alone, only a gap in our numbers shows it.
"""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Sizes and patience. The defaults suit a desktop program."""

    max_batch: int = 4 * 1024 * 1024
    """Bytes of one request, about; a single larger edit still goes out alone."""
    merge_rows: int = 256
    """Up to so many edits are merged as they are; more are taken from the live document, which is faster by far (merging is not linear)."""
    compact_after: int = 1024 * 1024
    """Bytes of log and outbox beyond the snapshot after which a new snapshot is made."""
    store_retry: float = 1.0
    """Seconds between attempts to store what could not be stored."""
    heal_jitter: float = 1.0
    """Seconds, at most, to wait before giving a server back what it lost: others may be doing it."""
    pause: float = 30.0
    """Seconds between attempts while the server refuses us (401, 403)."""


class LocalDocument:
    """A document and its rows. Everything here is synchronous: between two awaits of the session, memory and file agree."""

    def __init__(self, store: LocalStore, adapter: CrdtAdapter, key: DocumentKey, environment: Environment, tuning: Tuning) -> None:
        """Load the document. Raises FormatMismatchError, CorruptFileError, StoreError."""
        self.store = store
        self.adapter = adapter
        self.environment = environment
        self.tuning = tuning
        self.changed = Signal()
        self.record = store.open_document(key, format=adapter.format, producer_id=self._new_producer())
        if self.record.format != adapter.format:
            raise FormatMismatchError(
                f"{key.path} is kept as {self.record.format}; the adapter {adapter.name!r} reads {adapter.format}",
                found=self.record.format,
                expected=adapter.format,
            )
        if self.record.phase is Phase.HEAL:  # the scratch document died with the process: from the beginning again
            self.begin_heal(self.record.incarnation)
        self.outbox = self.record.outbox
        """Rows, the sealed ones included."""
        self.unsaved: list[bytes] = []
        """Edits that the store refused: in the document, and nowhere else."""
        self.store_error: StoreError | None = None
        self.doc: Any = adapter.new()
        self._stored_version: bytes | None = None
        """The document's version before a page that is in the document and could not be stored; None: there is none."""
        self._retry_planned = self._compaction_planned = self._closed = False
        content = store.load(self.record.id)
        # The snapshot by itself: it must not be blamed for what comes after.
        self._load([content.snapshot] if content.snapshot is not None else [])
        self._load(content.updates)
        self._loose = content.loose
        self._unobserve = adapter.observe(self.doc, self._receive_edit)

    def close(self) -> None:
        """Stop following the application's edits. The store stays open."""
        if not self._closed:
            self._closed = True
            self._unobserve()
            if self.unsaved and not self.store_unsaved():
                _log.error("%s: %d edits could not be stored and end with this process", self.record.key.path, len(self.unsaved))

    def _load(self, updates: Sequence[bytes]) -> None:
        record, bad = self.record, list[Quarantined]()
        self._apply(self.doc, updates, bad, record.checkpoint)
        for culprit in bad:
            try:
                self.adapter.merge([culprit.data])
            except InvalidUpdateError as error:
                raise CorruptFileError(f"{self.store.path}: what was stored of {record.key.path} is damaged: {error}") from error
        # What reads well and does not fit was sent so: it waited for what it contradicts, and was stored before that could be seen.
        known = {culprit.data for culprit in self.store.quarantined(record.id)} if bad else set[bytes]()
        new = [culprit for culprit in bad if culprit.data not in known]
        if new:
            self.store.advance(record.id, [], record.partial, record.checkpoint, quarantined=new)
            self.record = replace(record, quarantined=record.quarantined + len(new))

    def _new_producer(self) -> str:
        return f"{self.environment.random.getrandbits(128):032x}"

    # Edits of the application

    def _receive_edit(self, update: bytes) -> None:
        if self.unsaved:
            # Order does not matter to a CRDT, but what failed first has waited longest.
            self.unsaved.append(update)
            self._require_all_stored()
            return
        try:
            self.store.enqueue(self.record.id, update, self.environment.now())
        except StoreError as error:
            self.unsaved.append(update)
            self._note_store_failure(error)
            raise
        self.outbox += 1
        self._loose += len(update)
        if self._loose > self.tuning.compact_after and not self._compaction_planned:
            self._plan_compaction()
        self.changed.notify()

    def merge(self, update: bytes) -> bool:
        """Take in an update from elsewhere as an edit of ours; return whether it was news. Raises as `Document.merge` says."""
        if not self.adapter.apply(self.doc, [update]):
            return False
        self._receive_edit(update)
        return True

    def store_unsaved(self) -> bool:
        """Store the edits that are only in memory; return whether none is left."""
        try:
            while self.unsaved:
                self.store.enqueue(self.record.id, self.unsaved[0], self.environment.now())
                self._loose += len(self.unsaved.pop(0))
                self.outbox += 1
        except StoreError as error:
            self._note_store_failure(error)
            return False
        self.store_error = None
        self.changed.notify()
        return True

    def _note_store_failure(self, error: StoreError) -> None:
        self.store_error = error
        self.changed.notify()
        if not self._retry_planned and not self._closed:
            self._retry_planned = True
            self.changed.call_later(self.tuning.store_retry, self._retry_store)

    def _retry_store(self) -> None:
        self._retry_planned = False
        if self.unsaved and not self._closed:
            self.store_unsaved()

    # Batches

    def seal(self, *, max_bytes: int, max_rows: int | None = None) -> Batch:
        """Freeze the outbox, or its oldest rows as the limits allow, into the next batch.

        Raises StoreError, also if an edit is in memory only and still can't be stored, and DocumentBusyError.
        """
        return self._seal(self.record.producer, max_bytes=max_bytes, max_rows=max_rows)

    def reseal(self, batch: Batch) -> Batch:
        """Freeze a batch that was not seen anew, under a new producer id: nobody else uses that. Raises StoreError."""
        return self._keep_sealed(replace(batch, stamp=ProducerStamp(self._new_producer(), 0, 0), sealed_at=self.record.checkpoint))

    def seal_smaller(self, batch: Batch, *, max_bytes: int) -> Batch:
        """Freeze the oldest half of the batch's rows instead of it, under a new producer id. Raises as `seal` does."""
        return self._seal(ProducerStamp(self._new_producer(), 0, 0), max_bytes=max_bytes, max_rows=batch.edits // 2)

    def _seal(self, stamp: ProducerStamp, *, max_bytes: int, max_rows: int | None) -> Batch:
        self._require_all_stored()
        # Inside an open transaction the document's version is ahead of the outbox: it would say that the stream has what nobody sent.
        self.adapter.apply(self.doc, ())
        record, last = self.record, self.store.last_row(self.record.id)
        count = self.outbox if max_rows is None else min(self.outbox, max_rows)
        payload = version = None
        if count == self.outbox > self.tuning.merge_rows:
            payload = self.adapter.missing(self.doc, record.server_version)
            if len(payload) <= max_bytes:
                batch = Batch(stamp, last, count, record.checkpoint, self.adapter.version(self.doc), payload)
                return self._keep_sealed(batch)
        rows = list(self.store.outbox_rows(record.id, after=0, limit=min(count, 16 * self.tuning.merge_rows)))
        chosen = rows[: choose_rows([len(data) for _, data in rows], max_bytes=max_bytes, max_rows=len(rows))]
        payload = chosen[0][1] if len(chosen) == 1 else self.adapter.merge([data for _, data in chosen])
        if len(chosen) == self.outbox:
            version = self.adapter.version(self.doc)
        return self._keep_sealed(Batch(stamp, chosen[-1][0], len(chosen), record.checkpoint, version, payload))

    def _require_all_stored(self) -> None:
        """A batch, a version or a snapshot must not hold an edit that the outbox lacks: it would never be sent, or said to be."""
        if self.unsaved and not self.store_unsaved():
            raise self.store_error or AssertionError("a failure without an error")

    def _keep_sealed(self, batch: Batch, phase: Phase | None = None) -> Batch:
        self.store.seal(self.record.id, batch, phase=phase)
        self.record = replace(
            self.record, batch=batch, producer=replace(batch.stamp, seq=batch.stamp.seq + 1), phase=phase or self.record.phase
        )
        self.changed.notify()
        return batch

    def settle(self, batch: Batch) -> None:
        """The server said that it has `batch`, which is expected back from the stream from now on.

        Raises StoreError, and then nothing has changed.
        """
        digest = build_digest(batch.payload)
        expected = (*(other for other in self.record.expected if other != digest), digest)[-MAX_EXPECTED:]
        self.store.settle(self.record.id, batch, expected=expected)
        self.record = replace(self.record, expected=expected)
        self._forget_batch(batch)

    def settle_elsewhere(self, through: int, server: str) -> None:
        """A server of another kind has shown that it holds all rows up to `through`: they are not to be sent any more.

        Only of a document that no server of ours knows, and that `server` then counts as its server: one of ours that it is connected to
        later is another, and is given all that it lacks. Raises StoreError and DocumentBusyError.
        """
        record = self.record
        if record.server not in (None, server) or record.incarnation is not None or record.phase is not Phase.FOLLOW:
            return
        while self.outbox and (count := self.store.count_rows(record.id, through=through)):
            if self.record.server is None:
                self.set_server(server)
            batch = self.record.batch or self.seal(max_bytes=self.tuning.max_batch, max_rows=count)
            if batch.through > through:
                return
            self.store.settle(record.id, batch)  # nothing is expected back: there is no stream
            self._forget_batch(batch)

    def _forget_batch(self, batch: Batch) -> None:
        self.outbox -= batch.edits
        self._loose += len(batch.payload)
        self.record = replace(
            self.record, batch=None, durable=self.record.durable + batch.edits, server_version=batch.version or self.record.server_version
        )
        self.changed.notify()

    # What comes from the server

    def receive(self, page: Page, *, scratch: Any = None, whole: bool = False) -> Batch | None:
        """Apply and store a page and its offset; return the batch that was seen in it, if one was.

        `whole`: the page is worth nothing unless all of it can be used. If not, what is refused is put aside, and the checkpoint stays.

        Raises DocumentBusyError (nothing has happened: try again) and StoreError (the page is in the document, not in the file, and the
        checkpoint stays: receive it again).
        """
        record, run = self.record, read_run(self.record.partial, page.data)
        seen: Batch | None = None
        updates: list[bytes] = []
        echoes: set[bytes] = set()
        for payload in run.payloads:
            if record.batch is not None and payload == record.batch.payload:
                seen = record.batch
            elif record.expected and (digest := build_digest(payload)) in record.expected:
                echoes.add(digest)
            else:
                updates.append(payload)
        expected = tuple(digest for digest in record.expected if digest not in echoes)
        bad = [self._quarantine(record.checkpoint, run.reason, run.unreadable)] if run.unreadable else []
        unreadable, before = len(bad), self._stored_version
        self._stored_version = before if before is not None else self.adapter.version(self.doc)
        try:
            good = self._apply(self.doc, updates, bad, record.checkpoint)
        except DocumentBusyError:
            self._stored_version = before  # taken inside the transaction, and so ahead
            raise
        if len(bad) > unreadable:
            # What was refused may have come in in part, or be blamed for another: the file has what the document has, whatever that is.
            # An edit that is in memory only would be among it, in the log, and nothing would ever send it.
            self._require_all_stored()
            good.append(self.adapter.missing(self.doc, self._stored_version))
        if whole and bad:
            self.store.advance(record.id, good, record.partial, record.checkpoint, quarantined=bad)
            self._stored_version = None
            self.record = replace(record, quarantined=record.quarantined + len(bad))
            self.changed.notify()
            return None
        if scratch is not None:
            self._apply(scratch, run.payloads, [], record.checkpoint)
        # A page that says nothing new is not worth a commit: an idle stream says so every few seconds.
        place = (run.partial, page.next_offset, page.incarnation or record.incarnation)
        if run.payloads or run.unreadable or place != (record.partial, record.checkpoint, record.incarnation):
            self.store.advance(
                record.id,
                good,
                run.partial,
                page.next_offset,
                incarnation=page.incarnation,
                settled=seen,
                quarantined=bad,
                expected=expected if echoes else None,
            )
        self._stored_version = None
        self.record = replace(
            self.record,
            partial=run.partial,
            checkpoint=page.next_offset,
            incarnation=page.incarnation or record.incarnation,
            quarantined=record.quarantined + len(bad),
            expected=expected,
        )
        self._loose += sum(map(len, good))
        if seen is not None:
            self._forget_batch(seen)
        if self._loose > self.tuning.compact_after and not self._compaction_planned:
            self._plan_compaction()
        self.changed.notify()
        return seen

    def _apply(self, doc: Any, updates: Sequence[bytes], bad: list[Quarantined], offset: Offset) -> list[bytes]:
        good: list[bytes] = []
        rest = list(updates)
        while rest:
            try:
                self.adapter.apply(doc, rest)
                good += rest
                break
            except InvalidUpdateError as error:
                culprit = rest[error.index]
                good += rest[: error.index]
                rest = rest[error.index + 1 :]
                try:
                    # It may be blamed for one that waited for it, and could not be integrated: then that is gone now, and this is in.
                    self.adapter.apply(doc, [culprit])
                    good.append(culprit)
                except InvalidUpdateError as again:
                    bad.append(self._quarantine(offset, str(again), culprit))
        return good

    def _quarantine(self, offset: Offset, reason: str, data: bytes) -> Quarantined:
        _log.warning("%s: %d bytes after %s can't be used and are kept aside: %s", self.record.key.path, len(data), offset, reason)
        return Quarantined(offset, self.environment.now(), reason, data)

    # Healing

    def begin_heal(self, incarnation: str | None) -> None:
        """Read everything again, and then give back what the stream lacks. Raises StoreError."""
        self.store.begin_heal(self.record.id, incarnation=incarnation)
        self.record = replace(
            self.record,
            phase=Phase.HEAL,
            checkpoint=BEGINNING,
            partial=b"",
            server_version=None,
            incarnation=incarnation,
            expected=(),  # the stream is not the one that it was expected from
        )

    def end_heal(self, scratch: Any) -> Batch | None:
        """`scratch` holds all that the stream has: seal what it lacks, under a new producer id, or settle everything if it lacks nothing.

        Raises StoreError, also if an edit is in memory only and still can't be stored, and DocumentBusyError.
        """
        self._require_all_stored()
        last = self.store.last_row(self.record.id)
        theirs, mine = self.adapter.version(scratch), self.adapter.version(self.doc)
        lacking = self.adapter.missing(self.doc, theirs)
        if self.adapter.apply(scratch, [lacking]):
            stamp = ProducerStamp(self._new_producer(), 0, 0)
            return self._keep_sealed(Batch(stamp, last, self.outbox, self.record.checkpoint, mine, lacking, healing=True), Phase.FOLLOW)
        self.store.end_heal(self.record.id, last, mine)
        durable = self.record.durable + self.outbox
        self.outbox = 0
        self.record = replace(self.record, phase=Phase.FOLLOW, batch=None, server_version=mine, durable=durable)
        self.changed.notify()
        return None

    # Divergence

    def join_anew(self) -> None:
        """Take the stream for ours, whatever life is there: what it has comes here, and what it lacks goes there. Raises StoreError."""
        self.begin_heal(None)
        self.changed.notify()

    def set_apart(self, path: str, *, phase: Phase) -> LocalDocument:
        """Become the local document `path`; return an empty one of the old name, in `phase`. Edits of `doc` go on belonging to this one.

        Raises StoreError, and then nothing has changed, also if an edit is in memory only and still can't be stored.
        """
        self._require_all_stored()
        key = self.record.key
        self.store.set_apart(self.record.id, path, producer_id=self._new_producer(), phase=phase)
        self.record = replace(
            self.record,
            key=replace(key, path=path),
            phase=Phase.LOCAL,
            server=None,
            incarnation=None,
            checkpoint=BEGINNING,
            partial=b"",
            server_version=None,
            batch=None,
            expected=(),
        )
        self.changed.notify()
        return LocalDocument(self.store, self.adapter, key, self.environment, self.tuning)

    def set_phase(self, phase: Phase) -> None:
        """Record how the document stands. Raises StoreError."""
        self.store.set_phase(self.record.id, phase)
        self.record = replace(self.record, phase=phase)
        self.changed.notify()

    def set_server(self, server: str) -> None:
        """Record which server the checkpoint speaks of. Raises StoreError."""
        self.store.set_server(self.record.id, server)
        self.record = replace(self.record, server=server)

    # Compaction

    def _plan_compaction(self) -> None:
        self._compaction_planned = True
        self.changed.call_later(0.0, self._compact)

    def _compact(self) -> None:
        self._compaction_planned = False
        if self._closed:
            return
        try:
            self.compact()
        except DocumentBusyError:
            self._compaction_planned = True
            self.changed.call_later(self.tuning.store_retry, self._compact)
        except (StoreError, InvalidUpdateError) as error:
            _log.warning("%s: not compacted: %s", self.record.key.path, error)
            self._loose = 0  # until as much has come again

    def compact(self) -> None:
        """Fold log and outbox into a new snapshot.

        Raises DocumentBusyError, and StoreError, also if an edit is in memory only and still can't be stored.
        """
        self._require_all_stored()
        through = self.store.last_row(self.record.id)  # before the snapshot, which holds it all: edits may come from another thread
        snapshot = self.adapter.snapshot(self.doc)
        self.store.compact(self.record.id, snapshot, through=through)
        # The next one is due when as much again has come: compaction costs what the document's size is.
        self._loose = min(0, self.tuning.compact_after - len(snapshot))
