"""Snapshots, and updates dropped behind them, in simulated runs; and what is missed if a snapshot is not the document."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from ds_sync.protocol.framing import parse_frames
from ds_sync.server.documents import trimming
from ds_sync.server.documents.worker import Compaction
from ds_sync.testing.simulator import Outcome, draw_snapshots, run_seed
from ds_sync.testing.simulator.subjects import YjsSubject

SEEDS = 40


def run(seed: int) -> Outcome:
    return run_seed(seed, subject=YjsSubject(), scenario=draw_snapshots(random.Random(seed)))


def test_seeds_with_snapshots() -> None:
    counts = Counter[str]()
    for seed in range(SEEDS):
        outcome = run(seed)
        assert outcome.violations == (), seed
        counts.update(outcome.counts)
    assert counts["snapshot"] > 60
    assert counts["updates dropped"] > 5
    assert counts["death"] > 40


def test_a_snapshot_that_lacks_something_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def feed_but_the_last(self: Compaction, frames: bytes) -> None:
        self._apply(parse_frames(frames).payloads[:-1])

    monkeypatch.setattr(Compaction, "feed", feed_but_the_last)
    laws = {violation.law for seed in range(8) for violation in run(seed).violations}
    assert "the checkpoint is not ahead of the data" in laws


def test_updates_dropped_without_a_snapshot_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything goes, up to the tail: newcomers and those who heal don't get it back from the newest snapshot."""
    monkeypatch.setattr(trimming, "choose_trim", lambda milestones, state, *_: state.place if milestones else None)
    assert any(run(seed).violations for seed in range(20))
