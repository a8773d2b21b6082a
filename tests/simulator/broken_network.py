"""ds-sync with one protection against networks and servers switched off: what each law of the simulator must notice."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ds_sync.client.stream import StreamClient
from ds_sync.exceptions import GoneError
from ds_sync.protocol.offsets import BEGINNING, NOW
from ds_sync.replica import local, plan, session
from ds_sync.replica.local import LocalDocument
from ds_sync.replica.plan import Doubt, Push, Tail
from ds_sync.replica.records import Phase
from ds_sync.replica.session import Session
from ds_sync.replica.store import LocalStore
from ds_sync.testing.simulator import draw_backups, network
from ds_sync.testing.simulator.network import Weather
from ds_sync.testing.simulator.scenario import Scenario, draw_divergences, draw_endings, draw_foreign, draw_scenario, draw_steps

Break = Callable[[pytest.MonkeyPatch], None]
Draw = Callable[[random.Random], Scenario]


def draw_refusals(random: random.Random) -> Scenario:
    """Return a scenario in which answers get lost and much is refused."""
    weather = Weather(latency=0.3, lose_answer=0.2, gateway=0.2, refuse=0.3)
    steps = draw_steps(random, 40, ("burst", "rest", "network", "partition", "kill server", *["spell"] * 4))
    return replace(draw_scenario(random), devices=1, documents=1, steps=steps, weather=weather)


def forget_the_cut_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    read_run = plan.read_run
    monkeypatch.setattr(local, "read_run", lambda partial, data: read_run(b"", data))


def keep_the_cut_frame_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    advance = LocalStore.advance

    def advance_without(self: LocalStore, document: int, updates: Any, partial: bytes, *args: Any, **options: Any) -> None:
        advance(self, document, updates, b"", *args, **options)

    monkeypatch.setattr(LocalStore, "advance", advance_without)


def believe_whoever_stores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    question = Session._question

    def believe(self: Session, *, smaller: bool) -> None:
        batch = self.local.record.batch
        if smaller or batch is None:
            question(self, smaller=smaller)
        else:
            self.local.settle(batch)
            self._settled(by_sight=False)

    monkeypatch.setattr(Session, "_question", believe)


def take_proof_for_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    next_push = plan.next_push

    def next_or_settled(**view: Any) -> Push:
        step = next_push(**view)
        return Push.RESEAL if step is Push.BLOCK and view["doubt"] is not None else step

    def settle(self: LocalDocument, batch: Any) -> Any:
        self.settle(batch)
        return batch

    monkeypatch.setattr(plan, "next_push", next_or_settled)
    monkeypatch.setattr(LocalDocument, "reseal", settle)


def do_not_look_after_413(monkeypatch: pytest.MonkeyPatch) -> None:
    question = Session._question

    def question_or_not(self: Session, *, smaller: bool) -> None:
        question(self, smaller=smaller)
        if smaller and self._doubt is not None:
            self._doubt = Doubt(0, self._doubt.turns, smaller=True)

    monkeypatch.setattr(Session, "_question", question_or_not)
    monkeypatch.setattr(
        network, "REFUSALS", (401, 413)
    )  # 413 when an earlier attempt was stored and nobody could read: among all, too rare


def ignore_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_delay", lambda error, backoff: backoff.next_delay(None))


def ignore_the_incarnation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "is_another_life", lambda found, record: False)
    judge = plan.judge_tail_failure
    monkeypatch.setattr(plan, "judge_tail_failure", lambda error, record: judge(error, replace(record, incarnation=None)))


def send_no_incarnation(monkeypatch: pytest.MonkeyPatch) -> None:
    append = StreamClient.append

    async def append_to_whatever_is_there(self: StreamClient, body: bytes, **options: Any) -> Any:
        return await append(self, body, **options | {"incarnation": None})

    monkeypatch.setattr(StreamClient, "append", append_to_whatever_is_there)


def heal_without_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    begin_heal = LocalDocument.begin_heal

    def begin_at_the_end(self: LocalDocument, incarnation: str | None) -> None:
        begin_heal(self, incarnation)
        self.store._connection.execute("UPDATE documents SET checkpoint = ? WHERE id = ?", (NOW, self.record.id))
        self.record = replace(self.record, checkpoint=NOW)

    monkeypatch.setattr(LocalDocument, "begin_heal", begin_at_the_end)


def skip_what_was_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    fail = Session._fail

    async def fail_or_skip(self: Session, error: Any, verdict: Tail) -> None:
        record = self.local.record
        if isinstance(error, GoneError) and record.checkpoint == BEGINNING:
            self.local.record = replace(record, checkpoint=NOW)
        else:
            await fail(self, error, verdict)

    monkeypatch.setattr(Session, "_fail", fail_or_skip)


def resolve_with_the_old_incarnation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalDocument, "join_anew", lambda self: self.begin_heal(self.record.incarnation))


def resolve_without_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def join_where_it_stands(self: LocalDocument) -> None:
        place = self.record.checkpoint
        self.begin_heal(None)
        self.set_phase(Phase.FOLLOW)
        self.store.advance(self.record.id, [], b"", place)
        self.record = replace(self.record, checkpoint=place)

    monkeypatch.setattr(LocalDocument, "join_anew", join_where_it_stands)


BREAKS: dict[str, tuple[Break, frozenset[str], Draw]] = {
    function.__name__: (function, frozenset(laws), draw)
    for function, laws, draw in (
        (forget_the_cut_frame, {"the checkpoint is not ahead of the data"}, draw_foreign),
        (keep_the_cut_frame_in_memory, {"the checkpoint is not ahead of the data"}, draw_foreign),
        (believe_whoever_stores_nothing, {"what has left the outbox is in the stream"}, draw_foreign),
        (take_proof_for_sight, {"what has left the outbox is in the stream"}, draw_foreign),
        (do_not_look_after_413, {"each edit stands once"}, draw_refusals),
        (ignore_retry_after, {"Retry-After is honoured"}, draw_refusals),
        (ignore_the_incarnation, {"another document is left alone"}, draw_endings),
        (send_no_incarnation, {"another document is left alone"}, draw_endings),
        (heal_without_reading, {"the checkpoint is not ahead of the data"}, draw_backups),
        (resolve_with_the_old_incarnation, {"what was resolved goes on"}, draw_divergences),
        (resolve_without_reading, {"an edit that returned is in the stream", "the stream has what a replica has"}, draw_divergences),
        (skip_what_was_trimmed, {"the checkpoint is not ahead of the data"}, draw_scenario),
    )
}
"""What is switched off, the laws of which one must be found broken, and the scenarios in which it is looked for."""
