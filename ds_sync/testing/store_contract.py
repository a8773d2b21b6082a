"""The acceptance kit of the local store.

Derive from `LocalStoreContract`, give it an `open_store` fixture, and pytest runs the laws:

    class TestMyStore(LocalStoreContract):
        @pytest.fixture
        def open_store(self):
            return MyStore

`open_store(path)` opens the file at `path`, or makes it. A kill is played by copying the file and its write-ahead log while the store is
open: that is what the next process finds when this one dies at that moment.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from ds_sync.exceptions import ClosedError, StoreError
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.offsets import BEGINNING, Offset
from ds_sync.replica.records import Batch, DocumentKey, DocumentRecord, Phase, Quarantined
from ds_sync.replica.store import LocalStore

OpenStore: TypeAlias = Callable[[Path], LocalStore]

KEY = DocumentKey("bytes", "default", "notes/a")
OTHER = DocumentKey("bytes", "default", "notes/b")
FORMAT = "bytes-v1"
PRODUCER = "0123456789abcdef"
ANYTHING: Any = object()
"""A value that no file takes: what a call stores after it fails."""


def merge(*updates: bytes) -> bytes:
    """Return one update worth all of `updates`: here an update is a set of words."""
    return b" ".join(sorted({word for update in updates for word in update.split()}))


def find(store: LocalStore, key: DocumentKey = KEY) -> DocumentRecord:
    """Return the document's record, made if it is new."""
    return store.open_document(key, format=FORMAT, producer_id=PRODUCER)


def words(store: LocalStore, document: int) -> bytes:
    """Return everything that `load` gives, as one update."""
    content = store.load(document)
    return merge(content.snapshot or b"", *content.updates)


@dataclass(frozen=True)
class View:
    """All that a store says of a document."""

    record: DocumentRecord
    content: bytes
    rows: list[tuple[int, bytes]]
    last_row: int
    settled_through: int
    oldest: float | None
    quarantined: list[Quarantined]


def look(store: LocalStore, key: DocumentKey = KEY) -> View:
    """Return all that `store` says of a document."""
    record = find(store, key)
    return View(
        record=record,
        content=words(store, record.id),
        rows=list(store.outbox_rows(record.id, after=0, limit=1000)),
        last_row=store.last_row(record.id),
        settled_through=store.settled_through(record.id),
        oldest=store.oldest(record.id),
        quarantined=store.quarantined(record.id),
    )


def make_batch(store: LocalStore, rows: int, *, stamp: ProducerStamp | None = None, version: bytes | None = None) -> Batch:
    """Return a batch of the oldest `rows` rows, not sealed yet."""
    record = find(store)
    covered = list(store.outbox_rows(record.id, after=0, limit=rows))
    payload = merge(*(data for _, data in covered))
    return Batch(stamp or record.producer, covered[-1][0], len(covered), record.checkpoint, version, payload)


@dataclass
class Device:
    """A file, and the store that has it open."""

    open_store: OpenStore
    path: Path
    kills: int = 0
    store: LocalStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = self.open_store(self.path)

    def reopen(self) -> LocalStore:
        """Close, and open again."""
        self.store.close()
        self.store = self.open_store(self.path)
        return self.store

    def after_kill(self, key: DocumentKey = KEY) -> View:
        """Return what the next process sees if this one dies now."""
        self.kills += 1
        copy = self.path.with_name(f"killed-{self.kills}.db")
        for suffix in ("", "-wal"):
            if Path(f"{self.path}{suffix}").exists():
                shutil.copyfile(f"{self.path}{suffix}", f"{copy}{suffix}")
        store = self.open_store(copy)
        try:
            return look(store, key)
        finally:
            store.close()

    def require(self, *, key: DocumentKey = KEY) -> View:
        """Require that a kill changes nothing; return what there is."""
        view = look(self.store, key)
        assert self.after_kill(key) == view
        return view


class LocalStoreContract:
    """The laws, one test each."""

    @pytest.fixture
    def device(self, open_store: OpenStore, tmp_path: Path) -> Iterator[Device]:
        """A device with a new file."""
        device = Device(open_store, tmp_path / "replica.db")
        yield device
        device.store.close()

    def fill(self, device: Device, count: int, *, first: int = 1) -> int:
        """Enqueue `count` edits, w<first> and so on, made at 100.0 + their number; return the document's id."""
        document = find(device.store).id
        for number in range(first, first + count):
            device.store.enqueue(document, b"w%d" % number, 100.0 + number)
        return document

    def test_a_new_document_is_empty_and_takes_format_and_producer(self, device: Device) -> None:
        view = device.require()
        record = view.record
        assert (record.key, record.format, record.phase, record.producer) == (KEY, FORMAT, Phase.FOLLOW, ProducerStamp(PRODUCER, 0, 0))
        assert (record.checkpoint, record.partial, record.batch, record.outbox, record.durable) == (BEGINNING, b"", None, 0, 0)
        assert (record.server, record.incarnation, record.server_version) == (None, None, None)
        assert (view.content, view.rows, view.last_row, view.settled_through, view.oldest) == (b"", [], 0, 0, None)
        assert device.store.open_document(KEY, format="other-v1", producer_id="other") == record

    def test_what_enqueue_returned_from_survives_a_kill(self, device: Device) -> None:
        document = find(device.store).id
        made: list[tuple[int, bytes]] = []
        for number in range(1, 6):
            data = bytes([0, 255, number])
            device.store.enqueue(document, data, 100.0 + number)
            made.append((number, data))
            view = device.after_kill()
            assert (view.rows, view.record.outbox, view.oldest, view.last_row) == (made, number, 101.0, number)
            assert view.content == merge(*(data for _, data in made))

    def test_rows_come_oldest_first_within_limits(self, device: Device) -> None:
        document = self.fill(device, 12)
        assert list(device.store.outbox_rows(document, after=0, limit=2)) == [(1, b"w1"), (2, b"w2")]
        assert list(device.store.outbox_rows(document, after=9, limit=9)) == [(10, b"w10"), (11, b"w11"), (12, b"w12")]
        assert device.store.load(document).updates == [b"w%d" % number for number in range(1, 13)]

    def test_a_sealed_batch_never_changes_and_carries_its_stamp(self, device: Device) -> None:
        document = self.fill(device, 3)
        batch = make_batch(device.store, 2, stamp=ProducerStamp("mine", 0, 7), version=b"v1")
        device.store.seal(document, batch)
        assert device.require().record.producer == ProducerStamp("mine", 0, 8)
        self.fill(device, 2, first=4)
        device.store.advance(document, [b"theirs"], b"cut", Offset("1"), incarnation="life")
        device.store.compact(document, words(device.store, document), through=5)
        device.store.set_phase(document, Phase.BLOCKED)
        device.store.begin_heal(document, incarnation="other life")
        assert device.require().record.batch == batch
        device.reopen()
        record = device.require().record
        assert (record.batch, record.producer, record.outbox) == (batch, ProducerStamp("mine", 0, 8), 5)

    def test_seal_puts_the_new_batch_in_place_of_the_old_one(self, device: Device) -> None:
        document = self.fill(device, 3)
        device.store.seal(document, make_batch(device.store, 3))
        smaller = make_batch(device.store, 1, stamp=ProducerStamp("second", 0, 0))
        device.store.seal(document, replace(smaller, healing=True), phase=Phase.HEAL)
        view = device.require()
        assert (view.record.batch, view.record.phase) == (replace(smaller, healing=True), Phase.HEAL)
        assert (view.record.producer, view.record.outbox) == (ProducerStamp("second", 0, 1), 3)

    def test_a_seal_that_fails_leaves_the_old_batch(self, device: Device) -> None:
        document = self.fill(device, 3)
        device.store.seal(document, make_batch(device.store, 2))
        before = device.require()
        with pytest.raises(StoreError):
            device.store.seal(document, make_batch(device.store, 3, stamp=ProducerStamp("second", 0, 0)), phase=ANYTHING)
        assert device.require() == before

    def test_settle_removes_the_rows_of_the_batch_and_no_others(self, device: Device) -> None:
        document = self.fill(device, 5)
        batch = make_batch(device.store, 3, version=b"v3")
        device.store.seal(document, batch)
        device.store.settle(document, batch)
        view = device.require()
        assert view.rows == [(4, b"w4"), (5, b"w5")]
        assert (view.record.batch, view.record.durable, view.record.outbox, view.record.server_version) == (None, 3, 2, b"v3")
        assert (view.settled_through, view.last_row, view.oldest) == (3, 5, 104.0)
        assert view.content == merge(b"w1 w2 w3 w4 w5")
        batch = make_batch(device.store, 2)
        device.store.seal(document, batch)
        device.store.settle(document, batch)
        view = device.require()
        assert (view.rows, view.record.durable, view.record.server_version) == ([], 5, b"v3")
        assert view.content == merge(b"w1 w2 w3 w4 w5")

    def test_settle_keeps_what_a_healing_batch_says_beyond_its_rows(self, device: Device) -> None:
        document = self.fill(device, 1)
        batch = replace(make_batch(device.store, 1), payload=b"lacking w1", healing=True)
        device.store.seal(document, batch)
        device.store.settle(document, batch)
        assert device.require().content == merge(b"lacking w1")

    def test_advance_stores_all_of_it(self, device: Device) -> None:
        document = self.fill(device, 2)
        batch = make_batch(device.store, 1, version=b"v1")
        device.store.seal(document, batch)
        bad = [Quarantined(Offset("0"), 50.0, "nonsense", b"\xff\x00"), Quarantined(Offset("0"), 51.0, "more", b"")]
        device.store.advance(document, [b"x", b"", b"y"], b"cut", Offset("3"), incarnation="life", settled=batch, quarantined=bad)
        view = device.require()
        record = view.record
        assert (record.checkpoint, record.partial, record.incarnation, record.batch) == (Offset("3"), b"cut", "life", None)
        assert (record.durable, record.quarantined, view.quarantined) == (1, 2, bad)
        assert (view.rows, view.content) == ([(2, b"w2")], merge(b"w1 w2 x y"))
        device.store.advance(document, [], b"", Offset("4"))
        record = device.require().record
        assert (record.checkpoint, record.partial, record.incarnation) == (Offset("4"), b"", "life")

    @pytest.mark.parametrize("where", ["updates", "partial", "offset", "settled", "quarantined"])
    def test_an_advance_that_fails_changes_nothing(self, device: Device, where: str) -> None:
        """So the checkpoint is never ahead of the data, nor the data of the checkpoint."""
        document = self.fill(device, 2)
        batch = make_batch(device.store, 1)
        device.store.seal(document, batch)
        device.store.advance(document, [b"before"], b"cut", Offset("1"), incarnation="life")
        before = device.require()
        settled = replace(batch, version=ANYTHING) if where == "settled" else batch
        bad = [Quarantined(Offset("1"), 50.0, ANYTHING if where == "quarantined" else "bad", b"")]
        updates, partial = [ANYTHING] if where == "updates" else [b"x"], ANYTHING if where == "partial" else b""
        offset = ANYTHING if where == "offset" else Offset("2")
        with pytest.raises((StoreError, TypeError)):
            device.store.advance(document, updates, partial, offset, settled=settled, quarantined=bad)
        assert device.require() == before

    def test_compact_loses_nothing_and_keeps_the_outbox(self, device: Device) -> None:
        document = self.fill(device, 3)
        batch = make_batch(device.store, 1)
        device.store.seal(document, batch)
        device.store.advance(document, [b"x"], b"", Offset("1"))
        before = device.require()
        device.store.compact(document, before.content, through=device.store.last_row(document))
        assert device.store.load(document).updates == []
        assert device.store.load(document).loose == 0
        assert device.require() == before
        device.store.advance(document, [b"y"], b"", Offset("2"))
        self.fill(device, 1, first=4)
        assert device.require().content == merge(b"w1 w2 w3 w4 x y")
        assert device.store.load(document).updates == [b"y", b"w4"]
        device.store.settle(document, batch)
        view = device.require()
        assert (view.rows, view.content) == ([(2, b"w2"), (3, b"w3"), (4, b"w4")], merge(b"w1 w2 w3 w4 x y"))

    def test_an_edit_made_while_the_snapshot_was_taken_is_loaded_beside_it(self, device: Device) -> None:
        document = self.fill(device, 2)
        through, snapshot = device.store.last_row(document), words(device.store, document)
        self.fill(device, 1, first=3)
        device.store.compact(document, snapshot, through=through)
        assert device.require().content == merge(b"w1 w2 w3")

    def test_healing_forgets_the_stream_and_keeps_everything_else(self, device: Device) -> None:
        document = self.fill(device, 3)
        batch = make_batch(device.store, 2, version=b"v2")
        device.store.seal(document, batch)
        device.store.advance(document, [b"x"], b"", Offset("1"), incarnation="life", settled=batch)
        batch = make_batch(device.store, 1)
        device.store.seal(document, batch)
        device.store.advance(document, [], b"cut", Offset("2"))
        before = device.require()
        assert before.record.server_version == b"v2"
        device.store.begin_heal(document, incarnation="new life")
        forgotten = replace(before.record, phase=Phase.HEAL, checkpoint=BEGINNING, partial=b"", server_version=None, incarnation="new life")
        assert device.require() == replace(before, record=forgotten)

    def test_the_end_of_healing_settles_the_rows_the_stream_has(self, device: Device) -> None:
        document = self.fill(device, 3)
        device.store.seal(document, make_batch(device.store, 2))
        device.store.begin_heal(document, incarnation="life")
        device.store.advance(document, [b"w1 w2"], b"", Offset("1"))
        device.store.end_heal(document, 2, b"version")
        view = device.require()
        record = view.record
        assert (record.phase, record.batch, record.server_version, record.durable) == (Phase.FOLLOW, None, b"version", 2)
        assert (view.rows, view.content, view.settled_through) == ([(3, b"w3")], merge(b"w1 w2 w3"), 2)

    def test_what_is_set_apart_takes_everything_along_but_what_it_knew_of_the_server(self, device: Device) -> None:
        document = self.fill(device, 3)
        batch = make_batch(device.store, 1)
        device.store.seal(document, batch)
        device.store.settle(document, batch)
        device.store.seal(document, make_batch(device.store, 1, version=b"v"))
        device.store.advance(
            document, [b"x"], b"cut", Offset("1"), incarnation="life", quarantined=[Quarantined(BEGINNING, 1.0, "bad", b"z")]
        )
        device.store.compact(document, words(device.store, document), through=2)
        device.store.set_server(document, "http://127.0.0.1:4437")
        before, key = device.require(), replace(KEY, path="notes/a (copy)")
        device.store.set_apart(document, key.path, producer_id="fresh", phase=Phase.DELETED)
        forgotten = replace(
            before.record,
            key=key,
            phase=Phase.LOCAL,
            server=None,
            incarnation=None,
            checkpoint=BEGINNING,
            partial=b"",
            server_version=None,
            batch=None,
        )
        assert device.require(key=key) == replace(before, record=forgotten)
        view = device.require()
        record = view.record
        assert (record.phase, record.format, record.producer) == (Phase.DELETED, FORMAT, ProducerStamp("fresh", 0, 0))
        assert (record.checkpoint, record.outbox, record.durable, record.quarantined) == (BEGINNING, 0, 0, 0)
        assert (view.content, view.rows, view.last_row, view.quarantined) == (b"", [], 0, [])
        device.store.enqueue(document, b"w4", 104.0)
        assert device.require(key=key).rows[-1] == (4, b"w4")

    def test_no_row_id_is_given_twice(self, device: Device) -> None:
        """Or a batch from before the reopening would take later rows with it."""
        document = self.fill(device, 3)
        batch = make_batch(device.store, 3)
        device.store.seal(document, batch)
        device.store.settle(document, batch)
        store = device.reopen()
        document = self.fill(device, 1, first=4)
        view = device.require()
        assert (view.rows, view.last_row, view.settled_through, view.oldest) == ([(4, b"w4")], 4, 3, 104.0)
        store.end_heal(document, 4, b"")
        device.reopen()
        view = device.require()
        assert (view.rows, view.last_row, view.settled_through, view.oldest) == ([], 4, 4, None)

    def test_rows_of_a_batch_are_not_given_twice_after_a_kill(self, device: Device) -> None:
        document = self.fill(device, 2)
        device.store.seal(document, make_batch(device.store, 2))
        device.store.compact(document, merge(b"w1 w2"), through=2)
        device.reopen()
        self.fill(device, 1, first=3)
        view = device.require()
        assert view.rows == [(1, b"w1"), (2, b"w2"), (3, b"w3")]
        assert (view.record.batch and view.record.batch.through, view.content) == (2, merge(b"w1 w2 w3"))

    def test_phase_and_server_are_kept(self, device: Device) -> None:
        document = self.fill(device, 1)
        for phase in Phase:
            device.store.set_phase(document, phase)
            assert device.require().record.phase is phase
        device.store.set_server(document, "http://127.0.0.1:4437")
        assert device.require().record.server == "http://127.0.0.1:4437"

    def test_a_document_never_sees_another(self, device: Device) -> None:
        other = find(device.store, OTHER).id
        device.store.enqueue(other, b"theirs", 7.0)
        stamp = ProducerStamp("theirs", 0, 0)
        device.store.seal(other, Batch(stamp, 1, 1, BEGINNING, None, b"theirs"))
        device.store.advance(other, [b"remote"], b"cut", Offset("9"), quarantined=[Quarantined(Offset("8"), 1.0, "bad", b"bad")])
        before = device.require(key=OTHER)
        document = self.fill(device, 4)
        batch = make_batch(device.store, 2)
        device.store.seal(document, batch)
        device.store.advance(document, [b"x"], b"", Offset("1"), settled=batch)
        device.store.compact(document, merge(b"w1 w2 w3 w4 x"), through=4)
        device.store.begin_heal(document, incarnation=None)
        device.store.end_heal(document, 4, b"v")
        device.store.set_phase(document, Phase.DELETED)
        device.store.set_server(document, "http://elsewhere")
        assert device.require(key=OTHER) == before
        view = device.require()
        assert (view.content, view.rows, view.quarantined) == (merge(b"w1 w2 w3 w4 x"), [], [])
        assert (view.record.checkpoint, view.record.quarantined, view.record.durable) == (BEGINNING, 0, 4)
        assert [record.key for record in device.store.documents()] == [KEY, OTHER]

    @pytest.mark.parametrize("seed", range(3))
    def test_a_long_life_with_a_kill_after_each_call(self, device: Device, seed: int) -> None:
        """Content only grows, rows leave by their batch only, and what the file says does not depend on when the process dies."""
        rng, expected, waiting = random.Random(seed), b"", list[tuple[int, bytes]]()
        document, edits = find(device.store).id, 0
        for step in range(1, 31):
            batch = find(device.store).batch
            action = rng.choice(("edit", "edit", "edit", "receive", "seal", "settle", "see", "compact", "reopen"))
            if action == "edit":
                edits += 1
                device.store.enqueue(document, b"w%d" % edits, float(step))
                waiting.append((edits, b"w%d" % edits))
                expected = merge(expected, b"w%d" % edits)
            elif action == "seal" and waiting and batch is None:
                device.store.seal(document, make_batch(device.store, rng.randint(1, len(waiting))))
            elif action == "settle" and batch is not None:
                device.store.settle(document, batch)
                waiting = waiting[batch.edits :]
            elif action in ("receive", "see"):
                settled = batch if action == "see" else None
                device.store.advance(document, [b"r%d" % step], b"", Offset(f"{step:04}"), settled=settled)
                waiting = waiting[settled.edits if settled else 0 :]
                expected = merge(expected, b"r%d" % step)
            elif action == "compact":
                device.store.compact(document, words(device.store, document), through=device.store.last_row(document))
            elif action == "reopen":
                device.reopen()
            view = device.require()
            assert (view.content, view.rows, view.last_row, view.record.durable) == (expected, waiting, edits, edits - len(waiting))

    def test_used_after_close_is_an_error(self, device: Device) -> None:
        document = self.fill(device, 1)
        device.store.close()
        device.store.close()
        with pytest.raises(ClosedError):
            device.store.enqueue(document, b"late", 1.0)
        with pytest.raises(ClosedError):
            device.store.load(document)
        with pytest.raises(ClosedError):
            device.store.settle(document, Batch(ProducerStamp("p", 0, 0), 1, 1, BEGINNING, None, b""))
