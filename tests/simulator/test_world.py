import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ds_sync.testing.simulator import draw_backups, draw_power_cuts, run_seed
from ds_sync.testing.simulator.__main__ import main
from ds_sync.testing.simulator.kept import Kept, reduce
from ds_sync.testing.simulator.runs import run_seeds
from ds_sync.testing.simulator.scenario import KINDS
from ds_sync.testing.simulator.subjects import YjsSubject

KEPT = sorted(Path(__file__).with_name("kept").glob("*.json"))
"""Runs that once failed, whether it was ds-sync or a law that was wrong; `--seed N --reduce --keep FILE` writes one."""

SEEDS = 600
"""As many as two cores run in about 20 seconds. `make simulate SEEDS=100000` runs more."""


def test_seeds() -> None:
    summary = run_seeds(range(SEEDS), jobs=2)
    assert [f"seed {outcome.seed}: {outcome.violations[0]}" for outcome in summary.failed] == []
    assert summary.simulated > SEEDS * 20  # the seconds of the end alone
    assert [what for what, times in summary.counts.items() if not times] == []


def test_seeds_with_yjs() -> None:
    summary = run_seeds(range(80), crdt="yjs", jobs=2)
    assert [f"seed {outcome.seed}: {outcome.violations[0]}" for outcome in summary.failed] == []


def test_seeds_with_backups() -> None:
    broken = [run_seed(seed, scenario=draw_backups(random.Random(seed))).violations for seed in range(40)]
    assert [violations[0] for violations in broken if violations] == []


def test_seeds_with_power_cuts() -> None:
    outcomes = [run_seed(seed, scenario=draw_power_cuts(random.Random(seed))) for seed in range(60)]
    assert [outcome.violations[0] for outcome in outcomes if outcome.violations] == []
    assert sum(outcome.counts["power cut, commits lost"] for outcome in outcomes) > 60


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_seeds_of_one_kind_can_be_asked_for(kind: str) -> None:
    arguments = ["--seeds", "3:5", "--draw", kind, "--crdt", "yjs"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert f"2 seeds (yjs, {kind}), 0 failed" in result.output
    trace = CliRunner().invoke(main, ["--seed", "3", *arguments[2:]]).output
    assert trace == Kept.of_seed(3, "yjs", kind).run().trace + "\n"


def test_snapshots_need_documents_that_the_server_can_read() -> None:
    result = CliRunner().invoke(main, ["--draw", "snapshots"])
    assert (result.exit_code, "--crdt yjs" in result.output) == (2, True)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_kept_run(path: Path) -> None:
    assert Kept.load(path).run().violations == ()


def test_a_scenario_is_the_same_when_it_was_kept(tmp_path: Path) -> None:
    for seed in range(20):
        kept = Kept.of_seed(seed, "text")
        kept.save(tmp_path / "kept.json")
        assert Kept.load(tmp_path / "kept.json") == kept


def test_a_failing_run_is_reduced_to_what_it_takes() -> None:
    kept = next(kept for seed in range(100) if (kept := Kept.of_seed(seed, "text")).run().counts["copy"])
    reduced = reduce(kept, lambda outcome: outcome.counts["copy"] > 0)
    assert [step.event for step in reduced.scenario.steps] == ["copy"]
    assert (reduced.scenario.devices, reduced.scenario.documents) == (1, 1)


REPEATED = """
import gc, sys
from ds_sync.testing.simulator.__main__ import main
junk = [bytearray(1 + number * 37 % 600) for number in range(int(sys.argv.pop(1)))]
del junk[::3]
gc.set_threshold(int(sys.argv.pop(1)))
main()
"""
"""Runs seeds in a process whose memory lies in another order."""


@pytest.mark.parametrize(("crdt", "seed"), [("text", 17), ("text", 23), ("text", 1308), ("yjs", 17)])
def test_a_seed_runs_the_same_in_every_process(crdt: str, seed: int) -> None:
    traces = [
        subprocess.run(
            [sys.executable, "-c", REPEATED, junk, threshold, "--seed", str(seed), "--crdt", crdt],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed, junk, threshold in (("1", "0", "700"), ("2", "1500", "50"), ("3", "4000", "300"))
    ]
    assert traces[0] == traces[1] == traces[2]
    assert b"calms down" in traces[0]


def test_seeds_differ() -> None:
    assert run_seed(1).trace != run_seed(2).trace


def test_yjs_documents_are_edited() -> None:
    outcome = run_seed(5, subject=YjsSubject())
    assert outcome.violations == ()
    assert "writes '" in outcome.trace
