"""Every law bites: with one protection switched off, the simulator finds the law broken within a few seeds."""

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest

from ds_sync.testing.simulator import run_seed

SEEDS = 250
"""At most; without the break none of them fails (the other tests here)."""


def load_breaks(name: str) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location(f"simulator_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    breaks: dict[str, Any] = module.BREAKS
    return breaks


BREAKS = load_breaks("broken") | load_breaks("broken_network")


@pytest.mark.parametrize("name", BREAKS)
def test_a_protection_that_is_switched_off_is_missed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    switch_off, laws, draw = BREAKS[name]
    switch_off(monkeypatch)
    for seed in range(SEEDS):
        scenario = None if draw is None else draw(random.Random(seed))
        if laws & {violation.law for violation in run_seed(seed, scenario=scenario).violations}:
            return
    pytest.fail(f"{SEEDS} seeds passed")
