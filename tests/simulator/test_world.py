import os
import random
import subprocess
import sys

import pytest

from ds_sync.testing.simulator import draw_backups, run_seed
from ds_sync.testing.simulator.runs import run_seeds
from ds_sync.testing.simulator.subjects import YjsSubject

NAMED = {
    94: "two people delete the same character: the same bytes stand twice, once for each",
    226: "a batch is settled by the sight of somebody else's equal bytes, and its number stays unused: healed, nothing lost",
    502: "the same, and the document is closed and opened while it heals",
    1724: "the server is set back to before the stream existed, and somebody makes another: reported as diverged",
    3242: "as 226, with the bytes of a program that is no replica",
    3996: "as 1724, with a replica that had not written yet",
}
"""Seeds that once failed, whether it was ds-sync or a law that was wrong."""


SEEDS = 1500
"""As many as two cores run in about 50 seconds. `make simulate SEEDS=100000` runs more."""


def test_seeds() -> None:
    failed, simulated = run_seeds(range(SEEDS), jobs=2)
    assert [f"seed {outcome.seed}: {outcome.violations[0]}" for outcome in failed] == []
    assert simulated > SEEDS * 200  # the seconds of the end alone


def test_seeds_with_yjs() -> None:
    failed, _ = run_seeds(range(80), crdt="yjs", jobs=2)
    assert [f"seed {outcome.seed}: {outcome.violations[0]}" for outcome in failed] == []


def test_seeds_with_backups() -> None:
    broken = [run_seed(seed, scenario=draw_backups(random.Random(seed))).violations for seed in range(40)]
    assert [violations[0] for violations in broken if violations] == []


@pytest.mark.parametrize("seed", NAMED, ids=str)
def test_a_named_seed(seed: int) -> None:
    assert run_seed(seed).violations == ()


@pytest.mark.parametrize("crdt", ["text", "yjs"])
def test_a_seed_runs_the_same_in_every_process(crdt: str) -> None:
    traces = [
        subprocess.run(
            [sys.executable, "-m", "ds_sync.testing.simulator", "--seed", "17", "--crdt", crdt],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert traces[0] == traces[1]
    assert b"calms down" in traces[0]


def test_seeds_differ() -> None:
    assert run_seed(1).trace != run_seed(2).trace


def test_yjs_documents_are_edited() -> None:
    outcome = run_seed(5, subject=YjsSubject())
    assert outcome.violations == ()
    assert "writes '" in outcome.trace
