"""Replicas and a server on real files, killed at random moments and at exact ones: nothing is lost, nothing stands twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import Fleet, StrangeEndError
from verdict import Loss

pytestmark = pytest.mark.kills

NAMES = ("ada", "ben", "cai")


def play(folder: Path, seed: int, rounds: int, broken: str = "") -> None:
    with Fleet(folder, seed, broken=broken) as fleet:
        fleet.start_server()
        for name in NAMES:
            fleet.start_replica(name)
        for name in NAMES:
            fleet.wait_opened(name)
        try:
            for _ in range(rounds):
                fleet.play_round()
            fleet.check_end()
        except Exception as error:
            error.add_note(f"after {fleet.kills} kills; again: pytest tests/kills --kill-seed {seed}; files: {folder}")
            raise


def test_nothing_is_lost_and_nothing_stands_twice(tmp_path: Path, seed: int, rounds: int) -> None:
    play(tmp_path, seed, rounds)


@pytest.mark.parametrize("statement", [0, 1, 9], ids=["before", "inside", "after"])
@pytest.mark.parametrize("method", ["enqueue", "seal", "settle", "advance", "compact"])
def test_a_replica_dies_at_the_very_statement(tmp_path: Path, method: str, statement: int) -> None:
    with Fleet(tmp_path, 7) as fleet:
        fleet.start_server()
        fleet.start_replica("ada", die=[method, 1, statement])
        process = fleet.replicas["ada"]
        fleet.wait(lambda: process.dead, process)
        fleet.start_replica("ada", roam=False)
        fleet.wait_opened("ada")
        fleet.check_opened("ada")


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        ("buffer", "reopened"),
        ("checkpoint", "lost|differ|there again"),
        ("numbers", "stand in the stream twice"),
        ("commit", "the dead server"),
    ],
)
def test_what_is_broken_is_caught(tmp_path: Path, broken: str, finding: str) -> None:
    def play_until_caught() -> None:
        for seed in range(16):
            folder = tmp_path / str(seed)
            folder.mkdir()
            try:
                play(folder, seed, 10, broken)
            except StrangeEndError:
                continue  # what is broken may also end by itself; that is no finding of the checks

    with pytest.raises(Loss, match=finding):
        play_until_caught()
