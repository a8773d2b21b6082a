"""Replicas and a server on real files, killed at random moments and at exact ones: nothing is lost, nothing stands twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import Fleet, StrangeEndError
from verdict import Loss

pytestmark = pytest.mark.kills

NAMES = ("ada", "ben", "cai")


def play(folder: Path, seed: int, rounds: int, broken: str = "", *, trimming: bool = False) -> None:
    with Fleet(folder, seed, broken=broken, trimming=trimming) as fleet:
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


def test_nothing_is_lost_where_updates_are_dropped(tmp_path: Path, seed: int, rounds: int) -> None:
    """The server makes snapshots and drops updates all the time, and dies at any step of that."""
    play(tmp_path, seed, rounds, trimming=True)


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
    "point",
    [["step", 2], ["step", 4], ["step", 6], ["step", 20], ["step", 22], ["remove_before", 1, 0], ["remove_before", 1, 9]],
    ids=["stored", "named", "tidied", "named again", "tidied again", "before removing", "after removing"],
)
def test_the_server_dies_at_the_very_step(tmp_path: Path, point: list[str | int]) -> None:
    """Of making its first snapshot, or its third; or where updates that are dropped leave its file."""
    with Fleet(tmp_path, 7, trimming=True) as fleet:
        fleet.start_server(die=point)
        fleet.start_replica("ada")
        fleet.wait_opened("ada")
        process = fleet.server
        assert process is not None
        fleet.wait(lambda: process.dead, process)
        fleet.check_end()
        assert fleet.kills == 1
        assert fleet.dropped > 0 or point[0] != "remove_before"


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        ("buffer", "reopened"),
        ("checkpoint", "lost|differ|there again"),
        ("commit", "the dead server"),
        ("trim", "bytes were dropped"),
    ],
)
def test_what_is_broken_is_caught(tmp_path: Path, broken: str, finding: str) -> None:
    def play_until_caught() -> None:
        for seed in range(16):
            folder = tmp_path / str(seed)
            folder.mkdir()
            try:
                play(folder, seed, 10, broken, trimming=broken == "trim")
            except StrangeEndError:
                continue  # what is broken may also end by itself; that is no finding of the checks

    with pytest.raises(Loss, match=finding):
        play_until_caught()


def test_batches_without_numbers_are_caught(tmp_path: Path) -> None:
    """The server dies between a commit and its answer; not every answer is one to a batch."""

    def play_until_caught() -> None:
        for seed in range(40):
            folder = tmp_path / str(seed)
            folder.mkdir()
            with Fleet(folder, seed, broken="numbers") as fleet:
                fleet.start_server(die=["answer", 2 + seed % 6, 0])
                fleet.start_replica("ada")
                server = fleet.server
                assert server is not None
                fleet.wait(lambda server=server: server.dead, server)  # type: ignore[misc]
                fleet.check_end()

    with pytest.raises(Loss, match="stand in the stream twice"):
        play_until_caught()
