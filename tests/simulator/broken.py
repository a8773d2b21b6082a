"""ds-sync with one protection switched off: what each law of the simulator must notice."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ds_sync.exceptions import StoreError
from ds_sync.protocol import decisions
from ds_sync.protocol.history import Place
from ds_sync.protocol.producer import ProducerState, decide_producer
from ds_sync.replica.local import LocalDocument
from ds_sync.replica.session import Session
from ds_sync.replica.store import LocalStore
from ds_sync.server.engines import sqlite
from ds_sync.testing.simulator import Scenario, draw_backups, draw_interruptions, draw_power_cuts, text
from ds_sync.testing.simulator.device import Device
from ds_sync.testing.simulator.loop import OWNER
from ds_sync.testing.simulator.network import Weather
from ds_sync.testing.simulator.replica import ReplicaProcess
from ds_sync.testing.simulator.scenario import draw_steps
from ds_sync.testing.simulator.text import TextAdapter, TextDoc, encode

Break = Callable[[pytest.MonkeyPatch], None]
Draw = Callable[[random.Random], Scenario] | None


def draw_deaths_and_backups(random: random.Random) -> Scenario:
    """Return a scenario in which processes end while the server is set back."""
    steps = draw_steps(random, 40, ("edit", "network", *["kill", "close", "power cut"] * 2, *["set back"] * 8))
    return replace(draw_backups(random), devices=2, steps=steps, weather=Weather(latency=0.3, truncate=0.2))


def believe_204(monkeypatch: pytest.MonkeyPatch) -> None:
    question = Session._question

    def believe(self: Session, *, smaller: bool) -> None:
        if smaller:
            question(self, smaller=smaller)
        elif (batch := self.local.record.batch) is not None:
            self.local.settle(batch)
            self._settled()

    monkeypatch.setattr(Session, "_question", believe)


def forget_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seal = LocalStore.seal

    def seal_without_number(self: LocalStore, document: int, batch: Any, **options: Any) -> None:
        seal(self, document, batch, **options)
        self._connection.execute("UPDATE documents SET producer_seq = ? WHERE id = ?", (batch.stamp.seq, document))

    monkeypatch.setattr(LocalStore, "seal", seal_without_number)


def seal_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def seal(self: LocalStore, document: int, batch: Any, **options: Any) -> None:
        """The session goes on with the batch; the file knows nothing of it."""

    monkeypatch.setattr(LocalStore, "seal", seal)


def ignore_the_check_in_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Place, "matches", lambda self, other: True)


def store_the_checkpoint_first(monkeypatch: pytest.MonkeyPatch) -> None:
    advance = LocalStore.advance

    def advance_twice(self: Any, document: int, updates: Any, *args: Any, **options: Any) -> None:
        advance(self, document, (), *args, **options)
        self.process.step("between the checkpoint and the data")
        advance(self, document, updates, *args)

    monkeypatch.setattr(LocalStore, "advance", advance_twice)


def forget_unsaved_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = LocalDocument._receive_edit

    def receive_and_forget(self: LocalDocument, update: bytes) -> None:
        try:
            receive(self, update)
        except StoreError:
            self.unsaved.clear()
            raise

    monkeypatch.setattr(LocalDocument, "_receive_edit", receive_and_forget)


def leave_waiting_updates_out_of_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TextAdapter, "snapshot", lambda self, doc: encode(doc.placed, doc.deleted))


def heal_by_version_only(monkeypatch: pytest.MonkeyPatch) -> None:
    end_heal = LocalDocument.end_heal

    def end_heal_if_versions_differ(self: LocalDocument, scratch: Any) -> Any:
        if self.adapter.version(scratch) == self.adapter.version(self.doc):
            self.adapter.apply(scratch, [self.adapter.snapshot(self.doc)])  # so that nothing seems to lack
        return end_heal(self, scratch)

    monkeypatch.setattr(LocalDocument, "end_heal", end_heal_if_versions_differ)


def keep_the_client_id(monkeypatch: pytest.MonkeyPatch) -> None:
    new, copy_to = TextAdapter.new, Device.copy_to

    def new_with_the_files_id(self: TextAdapter) -> TextDoc:
        doc, owner = new(self), OWNER.get()
        if isinstance(owner, ReplicaProcess):
            note = owner.path.with_name(owner.path.name + "-client")
            if not note.exists():
                note.write_text(str(doc.client))
            doc.client = int(note.read_text())
        return doc

    def copy_with_the_id(self: Device, other: Device) -> None:
        copy_to(self, other)
        note = self.path.with_name(self.path.name + "-client")
        other.path.with_name(other.path.name + "-client").write_text(note.read_text())

    monkeypatch.setattr(TextAdapter, "new", new_with_the_files_id)
    monkeypatch.setattr(Device, "copy_to", copy_with_the_id)


def empty_the_outbox_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    seal = LocalStore.seal

    def seal_and_empty(self: LocalStore, document: int, batch: Any, **options: Any) -> None:
        seal(self, document, batch, **options)
        self._connection.execute("DELETE FROM outbox WHERE document = ? AND id <= ?", (document, batch.through))

    monkeypatch.setattr(LocalStore, "seal", seal_and_empty)


def acknowledge_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    write_commit, held = sqlite.write_commit, dict[Any, Any]()

    def write_the_one_before(connection: Any, rows: Any) -> None:
        before = held.pop(connection, None)
        held[connection] = rows
        if before is not None:
            write_commit(connection, before)

    monkeypatch.setattr(sqlite, "write_commit", write_the_one_before)


def accept_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    def decide(known: ProducerState | None, stamp: Any, body: bytes, *, rescue: bool = False) -> ProducerState | None:
        found = decide_producer(known, stamp, body, rescue=rescue)
        return known if found is None else found

    monkeypatch.setattr(decisions, "decide_producer", decide)


def send_under_new_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    send = Session._send

    async def send_anew(self: Session, batch: Any) -> None:
        if self.counters.retries:
            batch = self.local.reseal(replace(batch))
        await send(self, batch)

    monkeypatch.setattr(Session, "_send", send_anew)


def seal_without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    transaction = LocalStore._transaction
    monkeypatch.setattr(LocalStore, "_transaction", lambda self, *, durable=False: transaction(self))


def ignore_power_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    init = LocalStore.__init__

    def init_without(self: LocalStore, path: Any, *, power_safe: bool = False) -> None:
        init(self, path)

    monkeypatch.setattr(LocalStore, "__init__", init_without)


def serve_without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = sqlite.open_file

    def open_with_normal(*args: Any) -> Any:
        connection = open_file(*args)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    monkeypatch.setattr(sqlite, "open_file", open_with_normal)


def skip_bad_updates_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    advance = LocalStore.advance

    def advance_without(self: LocalStore, *args: Any, **options: Any) -> None:
        advance(self, *args, **options | {"quarantined": ()})

    monkeypatch.setattr(LocalStore, "advance", advance_without)


def store_unsaved_edits_with_a_refused_page(monkeypatch: pytest.MonkeyPatch) -> None:
    receive, require = LocalDocument.receive, LocalDocument._require_all_stored

    def receive_with(self: LocalDocument, *args: Any, **options: Any) -> Any:
        monkeypatch.setattr(LocalDocument, "_require_all_stored", lambda self: None)
        try:
            return receive(self, *args, **options)
        finally:
            monkeypatch.setattr(LocalDocument, "_require_all_stored", require)

    monkeypatch.setattr(LocalDocument, "receive", receive_with)


def let_one_document_stop_all(monkeypatch: pytest.MonkeyPatch) -> None:
    send, stopped = Session._send, dict[LocalStore, int]()

    async def send_unless_another_is_stopped(self: Session, batch: Any) -> None:
        store, document = self.local.store, self.local.record.id
        if stopped.get(store, document) != document:
            await self._environment.sleep(1.0)
            return
        stopped.pop(store, None)
        await send(self, batch)
        if self._push is not None:
            stopped[store] = document

    monkeypatch.setattr(Session, "_send", send_unless_another_is_stopped)


def believe_answers_that_nobody_can_see_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_is_echo_lost", lambda self: False)


def expect_in_memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    settle = LocalStore.settle
    monkeypatch.setattr(LocalStore, "settle", lambda self, document, batch, **options: settle(self, document, batch))


def send_half_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_refuse_open_transaction", lambda doc: None)


BREAKS: dict[str, tuple[Break, frozenset[str], Draw]] = {
    function.__name__: (function, frozenset(laws), draw)
    for function, laws, draw in (
        (believe_204, {"an edit that returned is in the stream", "what has left the outbox is in the stream"}, None),
        (forget_numbers, {"one number, one body"}, None),
        (seal_in_memory, {"one number, one body"}, None),
        (ignore_the_check_in_offsets, {"a divergence is noticed"}, draw_backups),
        (store_the_checkpoint_first, {"the checkpoint is not ahead of the data"}, draw_interruptions),
        (forget_unsaved_edits, {"the stream has what a replica has"}, None),
        (leave_waiting_updates_out_of_snapshots, {"the checkpoint is not ahead of the data"}, None),
        (heal_by_version_only, {"the stream has what a replica has", "an edit that returned is in the stream"}, draw_backups),
        (keep_the_client_id, {"replicas equal a plain document"}, None),
        (empty_the_outbox_too_early, {"an edit that returned is in the file"}, None),
        (acknowledge_before_the_commit, {"no healing without a cause"}, None),
        (accept_repetitions, {"each batch stands once"}, None),
        (send_under_new_numbers, {"each batch stands once"}, None),
        (seal_without_fsync, {"what was sealed stays sealed", "one number, one body"}, draw_power_cuts),
        (ignore_power_safe, {"an edit that returned is in the file"}, draw_power_cuts),
        (serve_without_fsync, {"no healing without a cause"}, draw_power_cuts),
        (skip_bad_updates_in_silence, {"what can't be used is quarantined"}, draw_interruptions),
        (store_unsaved_edits_with_a_refused_page, {"the stream has what a replica has"}, draw_interruptions),
        (let_one_document_stop_all, {"everything is synced in the end"}, None),
        (
            believe_answers_that_nobody_can_see_any_more,
            {"an edit that returned is in the stream", "the stream has what a replica has"},
            draw_backups,
        ),
        (expect_in_memory_only, {"an edit that returned is in the stream", "the stream has what a replica has"}, draw_deaths_and_backups),
        (send_half_a_transaction, {"the stream has what a replica has", "an edit that returned is in the stream"}, draw_interruptions),
    )
}
"""What is switched off, the laws of which one must be found broken, and what is drawn to find it (None: what any seed draws). What needs
rare things to meet is not looked for in every kind of run.
"""
