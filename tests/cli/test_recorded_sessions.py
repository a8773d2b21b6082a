"""Real editing sessions of real people, through crashes, to the exact end. DS_SYNC_TRACES names the folder that has them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("DS_SYNC_TRACES", Path(__file__).parents[3] / "shared" / "data"))

SECONDS = 240


def recorded(name: str) -> Path:
    path = FOLDER / f"{name}.json.gz"
    if not path.exists():
        pytest.skip(f"NOT TESTED: the recorded session {name} is not in {FOLDER}; DS_SYNC_TRACES names another folder")
    return path


@pytest.mark.parametrize(
    ("name", "edits", "kills"),
    [
        ("sveltecomponent", "19,749", 0),
        ("sveltecomponent", "19,749", 20),
        ("rustcode", "40,173", 20),
        ("automerge-paper", "259,778", 20),
    ],
)
def test_it_ends_exactly_as_recorded(name: str, edits: str, kills: int) -> None:
    command = [sys.executable, "-m", "ds_sync.cli.main", "replay", str(recorded(name)), "--kills", str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = [cell.strip() for cell in done.stdout.splitlines()[-2].strip("│").split("│")]
    assert (cells[0], cells[3], cells[-1]) == (edits, str(kills), "yes")


def test_two_friends_who_write_at_once_end_exactly_as_recorded() -> None:
    command = [sys.executable, "-m", "ds_sync.cli.main", "replay", str(recorded("friendsforever")), "--seed", "1", "--peers", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    table = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.stdout.splitlines() if line.startswith("│")]
    assert [cells[:2] + cells[-2:] for cells in table] == [
        ["peer 1", "12,124", "yes", "yes"],
        ["peer 2", "13,954", "yes", "yes"],
        ["peer 3", "0", "yes", "yes"],
        ["fresh reader", "0", "yes", "yes"],
    ]
