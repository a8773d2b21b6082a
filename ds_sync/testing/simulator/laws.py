"""What must hold, at every moment and at the end. Each law has a name; a run that breaks one says which.

Where a law is weaker than it sounds:

* **Nobody heals without a cause.** A cause is a history that was set back, deleted, expired or trimmed; a file that was copied; or a
  *coincidence*: two people delete the same character and so send the same bytes, one of them sees the other's and takes them for its own,
  and the number that its own bytes had is missing on the server. The same happens with a copy of its own that arrives late, under a
  number it has given up. That excuses one healing of that replica, while it still has that producer id, and nothing else.
* **Each batch stands once** for each replica that made it, and once more for each copy that arrived under a number given up before,
  or given up after it, by one who has seen the stream's end only as it was before.
  **Each edit stands once** is only asked of runs in which nothing was set back, healed, copied, or arrived like that.
* **Another document is left alone**, until somebody says that both are to be one (`resolving`). From then on nothing is excused: the
  replica is one of this document's, with all that was edited on it, and stops again only if the stream ends again (**what was resolved goes
  on**).
* **What can't be used is quarantined** by those who saw it: a snapshot leaves it out.
* **A stream that was trimmed** by somebody before the server, so that no snapshot stands in for what is gone, is not read from its
  beginning any more: who has to is blocked and says so, and what it has not sent yet stays in its file. Everybody else goes on.
* **A server that is not ours** proves nothing by its offsets. Once its stream was set back or made anew, a replica that has not read it
  from the beginning since may read on from the middle of another history (`_noticed`). Of that one only what is its own is asked: its
  edits are in its file and in its document. What it takes for stored may be lost on the server. All the others must be equal. Of a server
  that stores nothing, or closes the stream, every replica with something to send must report it.
* **Two halves of a frame** of two histories of such a server, where one ended a page and the other goes on in it, may happen to make an
  edit that nobody made, under the name of one that somebody did (`_spliced`). From then on replicas are not asked to show the same. All
  else holds: every edit has arrived, by its name, everywhere.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from ds_sync.crdt import CrdtAdapter
from ds_sync.exceptions import GoneError
from ds_sync.protocol.framing import build_frame, parse_frames
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.replica.document import Document
from ds_sync.replica.records import Batch, DocumentRecord, Phase
from ds_sync.testing.simulator.network import Network
from ds_sync.testing.simulator.replica import SimulatedStore
from ds_sync.testing.simulator.subjects import Subject


class Holding(Protocol):
    """One document on one device: what the laws ask of it."""

    name: str
    document: Document | None
    sealed: ProducerStamp | None

    @property
    def store(self) -> SimulatedStore: ...

    @property
    def returned(self) -> list[bytes]: ...

    def snapshot(self) -> bytes: ...


class Laws:
    """The judge of one document of one run."""

    def __init__(self, path: str, subject: Subject, adapter: CrdtAdapter, network: Network, *, rows_as_they_are: bool) -> None:
        """`path`: of the stream on the server. `rows_as_they_are`: batches are merged from the outbox's rows; taken from the live document
        they may repeat what others made.
        """
        self.path = path
        self.rows_as_they_are = rows_as_they_are
        self.subject = subject
        self.adapter = adapter
        """Not a replica's: what is checked is checked with plain documents."""
        self.network = network
        self.ledger = network.server.ledger
        self.trace = network.trace
        self.set_back_at = -1.0
        """When the server was set back to an older copy, or the stream deleted, last; in seconds."""
        self.restored = False
        """The server was set back to an older copy: a life that had ended may be there again."""
        self.made_anew = False
        """The server was set back to before the stream existed: whoever is first makes another document."""
        self.trimmed = False
        """The beginning of the stream is kept no longer."""
        self.copied = False
        """A replica's file was copied: two devices use the numbers of one producer."""
        self.healed = False
        self.garbage: set[bytes] = set()
        """Frames of strangers that no adapter can read."""
        self._coincidences: dict[str, str] = {}
        """By replica: the producer whose number may be missing on the server, because somebody else's equal bytes were seen."""
        self._resolving: set[str] = set()
        """Replicas of which somebody is resolving the document at the moment."""
        self._resolved_at: dict[str, float] = {}
        """When a replica's document was resolved, last; in seconds."""
        self._spliced = False
        """Somebody has read an edit that nobody made: half a frame of one history, and half of another's."""
        self._by_snapshot: set[str] = set()
        """Replicas that have not seen what stands before a snapshot, and so not what can't be used of it either."""

    @property
    def ended(self) -> bool:
        """Whether a life of the stream ended: deleted, expired, or younger than a backup. Being reported so has a cause."""
        return self.made_anew or self.path in self.ledger.ended

    @property
    def rewritten(self) -> bool:
        """Whether the history on the server was set back, or ended: healing and duplicates have a cause."""
        return self.set_back_at >= 0.0 or self.ended

    # While it runs

    @contextmanager
    def resolving(self, replica: str) -> Generator[None]:
        """Let a replica go over to another life of the stream, while somebody tells it to."""
        self._resolving.add(replica)
        try:
            yield
        finally:
            self._resolving.discard(replica)

    def note_resolved(self, replica: str) -> None:
        """Write down that a replica's document was resolved."""
        self._resolved_at[replica] = asyncio.get_running_loop().time()

    def before(self, store: SimulatedStore, name: str, args: Sequence[Any], options: Mapping[str, Any]) -> DocumentRecord | None:
        """Return the record of the document that a call of the store will change, if the call is one to look at."""
        replica = store.process.name
        settled: Batch | None = options.get("settled")  # the batch that was seen in the stream
        if settled is not None and (self.network.senders.get(settled.body, set()) - {replica} or self.network.late.get(settled.body)):
            self._coincidences[replica] = settled.stamp.id
        if name == "advance" and self.network.server.options.foreign is not None and self.rewritten:
            # What is made of the document when something was refused comes last, and was sent by nobody either.
            read = args[1][:-1] if options.get("quarantined") else args[1]
            if any(build_frame(update) not in self.network.senders for update in read):
                self.trace.count("a frame of two histories")
                self._spliced = True
        if name == "begin_heal":
            record = _record(store, args[0])
            if record.phase is not Phase.HEAL:
                self.healed = True
                excused = self._coincidences.pop(replica, None) == record.producer.id
                if not (self.rewritten or self.copied or self.trimmed or self.path in self.ledger.dropped or excused):
                    self.trace.accuse("no healing without a cause", f"{replica} heals, and nobody touched the history")
        return _record(store, args[0]) if name in ("advance", "begin_heal", "compact", "settle") else None

    def after(self, store: SimulatedStore, name: str, args: Sequence[Any], before: DocumentRecord) -> None:
        """Check what a call of the store has made of the file."""
        now = _record(store, args[0])
        if before.incarnation is not None and now.incarnation != before.incarnation and store.process.name not in self._resolving:
            self.trace.accuse("another document is left alone", f"{store.process.name} goes over to a stream that was made anew")
        if before.checkpoint == BEGINNING and self.ledger.is_after_snapshot(now.checkpoint):
            self._by_snapshot.add(store.process.name)
        if now.checkpoint not in (before.checkpoint, BEGINNING):
            new = self.ledger.frames_between(before.checkpoint, now.checkpoint)
            if new is None:
                jump = f"went on from {before.checkpoint} to {now.checkpoint}, of another history"
                self.trace.accuse("a divergence is noticed", f"{store.process.name} {jump}")
            elif name == "advance" and self.garbage.union(_newest(store, args[0])).issuperset(new):
                return  # what stands before that was looked at before: to load all of it at each page is most of the law's work
        self.check_checkpoint(store, now)

    def check_checkpoint(self, store: SimulatedStore, record: DocumentRecord) -> None:
        """The checkpoint is never ahead of the data in the file."""
        if not self._noticed(store):
            return
        with store.looking():
            kept = set(store.load(record.id).updates)
        missing = [update for update in self._good_frames(record.checkpoint) if update not in kept]  # bytes are compared fast
        if missing and self.adapter.apply(self._stored(store, record), missing):
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
        stream = [] if tail is None else self._good_frames(tail)
        reading: list[Holding] = []
        synced: list[Holding] = []
        stopped: set[str] = set()
        for device in devices:
            self.check_edits(device, "in the end")
            verdict = self._judge(device, tail)
            if verdict != "stopped" and self._noticed(device.store):
                reading.append(device)
                if verdict == "synced":
                    synced.append(device)
            elif verdict == "stopped" and not (self.restored or self.trimmed):
                stopped.add(device.store.process.name)
            if not self.rewritten:
                self._check_outbox(device, stream)
        must = [update for device in synced for update in device.returned]
        if tail is not None and synced and self.adapter.apply(self._document(stream), must):
            self.trace.accuse("an edit that returned is in the stream", "one is not")
        if not self.rewritten and self.adapter.apply(self._document(stream), acknowledged):
            self.trace.accuse("what was acknowledged is in the stream", "something is not")
        strangers = {
            payload for body, senders in self.network.senders.items() if senders <= stopped for payload in parse_frames(body).payloads
        }
        if strangers.intersection(stream):
            self.trace.accuse("another document is left alone", f"{strangers.intersection(stream)} of those that have stopped stands in it")
        for device in reading:
            self._check_reader(device, stream, must, self._garbage_before(tail))
        for device in synced:
            self._check_synced(device, stream)
        self._check_once(stream)

    def _check_reader(self, device: Holding, stream: Sequence[bytes], must: Sequence[bytes], garbage: set[bytes]) -> None:
        if self._lacks(device, stream):
            self.trace.accuse("a replica has what the stream has", f"{device.name} lacks something")
        if self._lacks(device, must):
            self.trace.accuse("an edit that returned is in every replica", f"{device.name} lacks one")
        if device.store.process.name in self._by_snapshot or (self._by_snapshot and self.copied):
            return
        unreported = garbage - {bad.data for bad in device.document.quarantined()} if device.document else set()
        if unreported:
            self.trace.accuse("what can't be used is quarantined", f"{device.name} skipped {unreported} in silence")

    def _check_synced(self, device: Holding, stream: Sequence[bytes]) -> None:
        doc, plain = device.document and device.document.doc, self._document(stream)
        mine, theirs = self.subject.content(doc), self.subject.content(plain)
        if mine != theirs and not self._spliced:
            self.trace.accuse("replicas equal a plain document", f"{device.name}: {mine!r}, not {theirs!r}")
        if self.adapter.apply(plain, [device.snapshot()]):
            self.trace.accuse("the stream has what a replica has", f"it lacks something that {device.name} has")
        with device.store.looking():
            stored = self.subject.content(self._stored(device.store, _record_of(device)))
        if stored != mine:
            self.trace.accuse("the file holds the document", f"{device.name}: {stored!r} is stored")

    def _noticed(self, store: SimulatedStore) -> bool:
        """Whether the replica must have noticed every other history: it always must, but where offsets prove nothing."""
        if self.network.server.options.foreign is None or not self.rewritten:
            return True
        # The time of the request, not of the commit: while a transaction is open, what was read waits.
        return self.network.read_at.get((store.process.name, self.path), -1.0) > self.set_back_at

    def _judge(self, device: Holding, tail: str | None) -> str:
        """Return whether the replica is synced, goes on reading only, or has stopped; whatever it reports must have a cause."""
        if device.document is None:
            raise AssertionError("no document")
        status, name = device.document.status, device.name
        if status.state in ("diverged", "deleted"):
            if not self.ended:
                self.trace.accuse("nothing is reported without a cause", f"{name} says {status.state}")
            if self._resolved_at.get(device.store.process.name, -1.0) > self.set_back_at:
                self.trace.accuse("what was resolved goes on", f"{name} says {status.state} again, and nothing has happened to the stream")
            return "stopped"
        if self.trimmed and status.state == "blocked" and isinstance(status.last_error, GoneError):
            return "stopped"
        with device.store.looking():
            record = _record_of(device)
        # Who has read the end of a stream does not ask for it again, and is not told that it was deleted later.
        if self.ledger.place(record.checkpoint) != tail and not (status.state == "closed" and tail is None):
            self.trace.accuse("a replica stands at the tail in the end", f"{name} is at {record.checkpoint}, the tail is {tail}")
        left = status.unsaved + status.unsent + status.sent + (record.batch is not None)  # a batch of healing may cover no edit
        if status.state in ("blocked", "closed"):
            if self._noticed(device.store) and not self._is_refused(record):
                self.trace.accuse("nothing is reported without a cause", f"{name}: {status}")
            return "reading" if left else "synced"
        if status.state != "live" or left:
            self.trace.accuse("everything is synced in the end", f"{name}: {status}")
        return "synced"

    def _is_refused(self, record: DocumentRecord) -> bool:
        """Whether the server takes no more from this replica, for good."""
        options, batch = self.network.server.options, record.batch
        if options.foreign is not None and (options.foreign.producers == "swallow" or self.network.server.is_closed(self.path)):
            return True
        limit = options.max_body if options.foreign is None else options.foreign.max_body
        return batch is not None and len(batch.body) > limit and (batch.edits == 1 or batch.healing)

    def _check_outbox(self, device: Holding, stream: Sequence[bytes]) -> None:
        """What has left the outbox is in the stream, whatever the replica reports: nothing is settled by belief."""
        with device.store.looking():
            waiting = [update for _, update in device.store.outbox_rows(_record_of(device).id, after=0, limit=1_000_000)]
        unsaved = device.document._local.unsaved if device.document else []
        if self.adapter.apply(self._document([*stream, *waiting, *unsaved]), device.returned):
            self.trace.accuse("what has left the outbox is in the stream", f"something of {device.name} is in neither")

    def _check_once(self, stream: Sequence[bytes]) -> None:
        """A payload stands as often as replicas wanted it there, and once more for each that arrived under a number given up.

        Batches taken from the live document repeat what was sent before: two of them may be equal, if both are deletions alone.
        """
        if self.network.server.options.foreign is not None and self.rewritten:
            return  # who reads on in another history does not see there what it has sent, and sends it again
        counted = Counter(stream)
        for body, senders in self.network.senders.items():
            (payload,) = parse_frames(body).payloads
            wanted = len(senders) if self.rows_as_they_are else max(len(senders), len(self.network.numbers.get(body, ())))
            if counted[payload] > wanted + self.network.late.get(body, 0):
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


def _newest(store: SimulatedStore, document: int) -> set[bytes]:
    """Return the updates that went into the log last."""
    rows = store._connection.execute("SELECT frames FROM log WHERE document = ? ORDER BY id DESC LIMIT 4", (document,)).fetchall()
    return {payload for (frames,) in rows for payload in parse_frames(frames).payloads}


def _record(store: SimulatedStore, document: int) -> DocumentRecord:
    with store.looking():
        return store.record(document)
