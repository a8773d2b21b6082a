"""Documents that are deleted, made anew and set back, and that somebody resolves: everybody has everything in the end."""

from __future__ import annotations

import random
from collections import Counter

from ds_sync.testing.simulator import run_seed
from ds_sync.testing.simulator.scenario import draw_divergences
from ds_sync.testing.simulator.subjects import YjsSubject


def test_seeds_with_divergences() -> None:
    counts = Counter[str]()
    for seed in range(100):
        outcome = run_seed(seed, scenario=draw_divergences(random.Random(seed)))
        assert outcome.violations == (), seed
        counts.update(outcome.counts)
    assert counts["resolve"] > 100
    assert counts["set back"] > 20


def test_seeds_with_divergences_of_yjs() -> None:
    outcomes = [run_seed(seed, subject=YjsSubject(), scenario=draw_divergences(random.Random(seed))) for seed in range(20)]
    assert [outcome.violations[0] for outcome in outcomes if outcome.violations] == []
    assert sum(outcome.counts["resolve"] for outcome in outcomes) > 20
