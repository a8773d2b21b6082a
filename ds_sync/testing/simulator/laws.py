"""What must hold, at every moment and at the end. Each law has a name; a run that breaks one says which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ds_sync.crdt import CrdtAdapter
from ds_sync.protocol.framing import parse_frames
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.replica.records import Batch, DocumentRecord, Phase
from ds_sync.testing.simulator.network import Network
from ds_sync.testing.simulator.subjects import Subject

if TYPE_CHECKING:
    from ds_sync.testing.simulator.device import Holding
    from ds_sync.testing.simulator.replica import SimulatedStore


class Laws:
    """The judge of one document of one run."""

    def __init__(self, subject: Subject, adapter: CrdtAdapter, network: Network, *, rows_as_they_are: bool) -> None:
        """`rows_as_they_are`: batches are merged from the outbox's rows; taken from the live document they may repeat what others made."""
        self.rows_as_they_are = rows_as_they_are
        self.subject = subject
        self.adapter = adapter
        """Not a replica's: what is checked is checked with plain documents."""
        self.network = network
        self.ledger = network.server.ledger
        self.trace = network.trace
        self.rewritten = False
        """The history on the server was set back, or deleted: healing and duplicates have a cause."""
        self.copied = False
        """A replica's file was copied: two devices use the numbers of one producer."""
        self.coincidence = False
        """Two people who delete the same character send the same bytes. Who sees the other's takes them for its own, and leaves a gap in
        its numbers behind, which the server notices.
        """
        self.healed = False
        self.deleted = False
        self.garbage: set[bytes] = set()
        """Frames of strangers that no adapter can read."""

    # While it runs

    def before(self, store: SimulatedStore, name: str, args: Sequence[Any], settled: Batch | None) -> DocumentRecord | None:
        """Return the record of the document that a call of the store will change, if the call is one to look at.

        `settled`: the batch that was seen in the stream.
        """
        if settled is not None and self.network.senders.get(settled.body, set()) - {store.process.name}:
            self.coincidence = True
        if name == "begin_heal" and _record(store, args[0]).phase is not Phase.HEAL:
            self.healed = True
            if not (self.rewritten or self.copied or self.coincidence):
                self.trace.accuse("no healing without a cause", f"{store.process.name} heals, and nobody touched the history")
        return _record(store, args[0]) if name in ("advance", "compact", "settle") else None

    def after(self, store: SimulatedStore, name: str, args: Sequence[Any], before: DocumentRecord) -> None:
        """Check what a call of the store has made of the file."""
        now = _record(store, args[0])
        if now.checkpoint != before.checkpoint:
            chain = self.ledger.chain(now.checkpoint)
            known = before.checkpoint != BEGINNING and self.ledger.chain(before.checkpoint)
            if known and before.checkpoint not in chain:
                jump = f"went on from {before.checkpoint} to {now.checkpoint}, of another history"
                self.trace.accuse("a divergence is noticed", f"{store.process.name} {jump}")
        self.check_checkpoint(store, now)

    def check_checkpoint(self, store: SimulatedStore, record: DocumentRecord) -> None:
        """The checkpoint is never ahead of the data in the file."""
        stored = self._stored(store, record)
        if self.adapter.apply(stored, self._good_frames(record.checkpoint)):
            self.trace.accuse(
                "the checkpoint is not ahead of the data", f"{store.process.name} lacks something that stands before {record.checkpoint}"
            )

    def check_edits(self, device: Holding, when: str) -> None:
        """Every edit that returned is in the document and in the file; the checkpoint is not ahead; what was sealed is still sealed."""
        if device.document is None:
            raise AssertionError("no document")
        store = device.store
        with store.looking():
            record = _record_of(device)
            self.check_checkpoint(store, record)
            if self.adapter.apply(self._stored(store, record), device.returned):
                self.trace.accuse("an edit that returned is in the file", f"{device.name} lost one {when}")
        sealed = device.sealed
        if sealed is not None and (record.producer.id, record.producer.seq) != (sealed.id, sealed.seq + 1):
            self.trace.accuse("what was sealed stays sealed", f"{device.name} is at {record.producer} {when}, after {sealed} was sealed")
        if self._lacks(device, device.returned):
            self.trace.accuse("an edit that returned is in the document", f"{device.name} lost one {when}")

    # At the end

    def check_end(self, devices: Sequence[Holding], tail: str | None, acknowledged: Sequence[bytes]) -> None:
        """`tail`: of the stream, if there is one. `acknowledged`: updates of others than the replicas, which the server has."""
        following = []
        for device in devices:
            self.check_edits(device, "in the end")
            if self._follows(device, tail):
                following.append(device)
        stream = [] if tail is None else self._good_frames(tail)
        plain = self._document(stream)
        must = [update for device in following for update in device.returned]
        if tail is not None and following and self.adapter.apply(self._document(stream), must):
            self.trace.accuse("an edit that returned is in the stream", "one is not")
        if not self.rewritten and self.adapter.apply(self._document(stream), acknowledged):
            self.trace.accuse("what was acknowledged is in the stream", "something is not")
        for device in following:
            doc = device.document and device.document.doc
            if self._lacks(device, must):
                self.trace.accuse("an edit that returned is in every replica", f"{device.name} lacks one")
            if self.adapter.apply(self._document([device.snapshot()]), stream):
                self.trace.accuse("a replica has what the stream has", f"{device.name} lacks something")
            if self.adapter.apply(self._document(stream), [device.snapshot()]):
                self.trace.accuse("the stream has what a replica has", f"it lacks something that {device.name} has")
            if self.subject.content(doc) != self.subject.content(plain):
                self.trace.accuse(
                    "replicas equal a plain document", f"{device.name}: {self.subject.content(doc)!r}, not {self.subject.content(plain)!r}"
                )
            with device.store.looking():
                stored = self._stored(device.store, _record_of(device))
            if self.subject.content(stored) != self.subject.content(doc):
                self.trace.accuse("the file holds the document", f"{device.name}: {self.subject.content(stored)!r} is stored")
            unreported = self._garbage_before(tail) - {bad.data for bad in device.document.quarantined()} if device.document else set()
            if unreported:
                self.trace.accuse("what can't be used is quarantined", f"{device.name} skipped {unreported} in silence")
        self._check_once(stream)

    def _follows(self, device: Holding, tail: str | None) -> bool:
        if device.document is None:
            raise AssertionError("no document")
        status = device.document.status
        if status.state in ("diverged", "deleted"):
            if not self.deleted:
                self.trace.accuse("nothing is reported without a cause", f"{device.name} says {status.state}")
            return False
        if status.state != "live" or status.unsaved or status.unsent or status.sent:
            self.trace.accuse("everything is synced in the end", f"{device.name}: {status}")
        with device.store.looking():
            record = _record_of(device)
        if record.checkpoint != tail:
            self.trace.accuse("a replica stands at the tail in the end", f"{device.name} is at {record.checkpoint}, the tail is {tail}")
        return True

    def _check_once(self, stream: Sequence[bytes]) -> None:
        """A payload stands as often as replicas wanted it there, and once more for each that arrived under a number given up."""
        counted = Counter(stream)
        for body, senders in self.network.senders.items():
            (payload,) = parse_frames(body).payloads
            if counted[payload] > len(senders) + self.network.late.get(body, 0):
                self.trace.accuse("each batch stands once", f"{payload!r} stands {counted[payload]} times")
        if self.rows_as_they_are and not (self.rewritten or self.healed or self.copied or self.network.late):
            edits = Counter(edit for payload in stream for edit in self.subject.count_edits(payload))
            for edit, times in edits.items():
                if times > 1:
                    self.trace.accuse("each edit stands once", f"{edit} stands {times} times")

    # Documents

    def _document(self, updates: Sequence[bytes]) -> Any:
        doc = self.adapter.new()
        self.adapter.apply(doc, updates)
        return doc

    def _garbage_before(self, tail: str | None) -> set[bytes]:
        return set() if tail is None else self.garbage.intersection(self.ledger.frames(tail))

    def _good_frames(self, offset: str) -> list[bytes]:
        return [payload for payload in self.ledger.frames(offset) if payload not in self.garbage]

    def _lacks(self, device: Holding, updates: Sequence[bytes]) -> bool:
        return self.adapter.apply(self._document([device.snapshot()]), updates)

    def _stored(self, store: SimulatedStore, record: DocumentRecord) -> Any:
        with store.looking():
            content = store.load(record.id)
        return self._document([*([content.snapshot] if content.snapshot is not None else []), *content.updates])


def _record_of(device: Holding) -> DocumentRecord:
    if device.document is None:
        raise AssertionError("no document")
    return _record(device.store, device.document._local.record.id)


def _record(store: SimulatedStore, document: int) -> DocumentRecord:
    with store.looking():
        return next(record for record in store.documents() if record.id == document)
