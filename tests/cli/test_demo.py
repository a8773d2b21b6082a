from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from ds_sync.cli.demo import check

SESSION: dict[str, Any] = {"title": "List", "one": {"Ada": "- tent\n", "Ben": "- rods\n"}}
RIGHT = "List\n- rods\n- tent\n"


def test_it_finds_nothing_wrong_with_what_is_right() -> None:
    assert check(SESSION, {"Ada": RIGHT, "Ben": RIGHT}) == []


@pytest.mark.parametrize("bad", ["List\n- rods\n", RIGHT + "- tent\n", "List\n- rods\n- tnet\n", "List\n- rods\n- tent\nx"])
def test_it_finds_what_is_lost_twice_or_different(bad: str) -> None:
    assert check(SESSION, {"Ada": bad, "Ben": bad}) != []
    assert "the texts differ" in check(SESSION, {"Ada": RIGHT, "Ben": bad})


def test_who_was_not_there_is_not_missed() -> None:
    session = {"title": "List", "one": {"Ada": "- tent\n", "Ben": "- rods\n", "Cleo": "- kite\n"}}
    assert check(session, {"Ada": RIGHT, "Ben": RIGHT}) == []
    assert check(session, {"Ada": RIGHT, "Ben": RIGHT, "Cleo": RIGHT}) != []


def test_the_story_ends_well_without_node() -> None:
    command = [sys.executable, "-m", "ds_sync.cli.main", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "PATH": "", "COLUMNS": "200"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "Nobody joins them in JavaScript: there is no `node` on the PATH." in done.stdout
    assert "Both have the same text: all 181 characters" in done.stdout
    assert "each exactly once" in done.stdout
