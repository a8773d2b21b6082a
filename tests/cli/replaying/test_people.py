from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ds_sync.cli.replaying import people as replay_people
from ds_sync.cli.replaying.command import replay

SEED, KILLS = 175, 3
"""What is drawn kills the server, one who types and the one who reads, and cuts off three of them and the server."""


def trace_file(folder: Path, end: str, transactions: list[dict[str, Any]]) -> Path:
    path = folder / "made.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"kind": "concurrent", "endContent": end, "txns": transactions}).encode()))
    return path


def three_people(folder: Path, rounds: int = 30) -> Path:
    """Ada, Ben and Cy each write on a line of their own, all at once; after each round they have seen what the others wrote in it."""
    transactions: list[dict[str, Any]] = [{"agent": 0, "parents": [], "patches": [[0, 0, "A\nB\nC\n"]]}]
    lines = ["A", "B", "C"]
    heads = [0]
    for number in range(rounds):
        before, new = list(lines), []
        for person in range(3):
            parents = heads
            start = sum(len(line) + 1 for line in before[:person])
            for step, character in enumerate(["é", "😀", "ab"] if number % 2 else ["x", "y"]):
                place = start + len(lines[person])
                patches: list[list[Any]] = [[place, 0, character]]
                lines[person] += character
                if step == 1 and number % 5 == 4:
                    patches = [[place - 1, 1, ""]]  # only a deletion
                    lines[person] = lines[person][:-2]
                transactions.append({"agent": person, "parents": parents, "patches": patches})
                parents = [len(transactions) - 1]
            new.append(parents[0])
        heads = new
    return trace_file(folder, "".join(f"{line}\n" for line in lines), transactions)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ds_sync.cli.main", "replay", *arguments], capture_output=True, text=True, timeout=120)


def rows(output: str) -> dict[str, list[str]]:
    """The table's cells, by who."""
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if line.startswith("│")]
    return {cells[0]: cells[1:] for cells in lines}


def test_three_people_at_once_through_kills_and_cuts(tmp_path: Path) -> None:
    done = run(str(three_people(tmp_path)), "--peers", "4", "--seed", str(SEED), "--kills", str(KILLS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"seed {SEED}: kills {KILLS}, cuts 4")
    assert "kill the server for" in done.stdout
    table = rows(done.stdout)
    typed = {who: cells[0] for who, cells in table.items()}
    assert typed == {"peer 1": "76", "peer 2": "75", "peer 3": "75", "peer 4": "0", "fresh reader": "0"}
    assert [cells[-2:] for cells in table.values()] == [["yes", "yes"]] * 5
    for peer in range(4):
        happened = [int(cell) for cell in table[f"peer {peer + 1}"][1:3]]
        assert happened == [done.stdout.count(f"{what} peer {peer + 1} for") for what in ("kill", "cut off")]


def test_fewer_peers_than_people(tmp_path: Path) -> None:
    done = run(str(three_people(tmp_path, rounds=8)), "--peers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    table = rows(done.stdout)
    assert {who: cells[0] for who, cells in table.items()} == {"peer 1": "41", "peer 2": "20", "fresh reader": "0"}
    assert [cells[-2:] for cells in table.values()] == [["yes", "yes"]] * 3


def test_one_person_is_typed_again_while_others_read(tmp_path: Path) -> None:
    path = tmp_path / "one.json.gz"
    transactions = [{"patches": [[6 + number, 0, "é"]]} for number in range(50)]
    path.write_bytes(
        gzip.compress(json.dumps({"startContent": "start ", "endContent": "start " + "é" * 50, "txns": transactions}).encode())
    )
    done = run(str(path), "--peers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {who: cells[0] for who, cells in rows(done.stdout).items()} == {"peer 1": "51", "peer 2": "0", "fresh reader": "0"}


def test_a_text_that_is_not_the_recorded_one_is_exit_1_and_says_whose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same_place = [
        {"agent": 0, "parents": [], "patches": [[0, 0, "[]"]]},
        {"agent": 0, "parents": [0], "patches": [[1, 0, "a"]]},
        {"agent": 1, "parents": [0], "patches": [[1, 0, "b"]]},
    ]
    path = trace_file(tmp_path, "[ab]", same_place)
    monkeypatch.setattr(replay_people, "find_order", lambda trace: True)  # the wrong one
    done: Result = CliRunner().invoke(replay, [str(path)])
    assert done.exit_code == 1
    assert "not the recorded one: peer 1, peer 2, fresh reader" in done.stderr
    assert {cells[-1] for cells in rows(done.stdout).values()} == {"NO"}
    assert {cells[-2] for cells in rows(done.stdout).values()} == {"yes"}


@pytest.mark.parametrize(
    ("end", "arguments", "complaint"),
    [
        ("b", [], "do not lead to its endContent"),
        ("a", ["--kills", "3"], "needs --seed"),
        ("a", ["--peers", "0"], "0 is not in the range"),
        ("a", ["--seed", "x"], "not a valid integer"),
    ],
)
def test_what_cannot_be_replayed_is_exit_2(tmp_path: Path, end: str, arguments: list[str], complaint: str) -> None:
    done = run(str(trace_file(tmp_path, end, [{"agent": 0, "parents": [], "patches": [[0, 0, "a"]]}])), *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_position_that_nobody_saw_is_one_line(tmp_path: Path) -> None:
    done = run(str(trace_file(tmp_path, "a", [{"agent": 0, "parents": [], "patches": [[5, 0, "a"]]}])))
    assert done.returncode == 2
    assert "transaction 0: an edit of 0 at position 5 in a text of 0 characters" in done.stderr
    assert done.stderr.count("\n") == 1
