from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the processes' scripts import each other as scripts do

ROUNDS_AT_ONCE = 10
"""Rounds on the same files, before all is compared and the next begin with new ones."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each seed, so that it can be run again alone: --kill-seed."""
    if {"seed", "rounds"} <= set(metafunc.fixturenames):
        seed, rounds = metafunc.config.getoption("--kill-seed"), metafunc.config.getoption("--rounds")
        if seed is not None:
            cases = [(seed, ROUNDS_AT_ONCE)]
        else:
            cases = [(number, min(ROUNDS_AT_ONCE, rounds - first)) for number, first in enumerate(range(0, rounds, ROUNDS_AT_ONCE))]
        metafunc.parametrize(("seed", "rounds"), cases, ids=[f"seed{number}" for number, _ in cases])
