"""A run that is kept with its scenario spelled out, so that it stays the same when seeds draw something else; and its reduction."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ds_sync.testing.simulator.scenario import KINDS, Scenario
from ds_sync.testing.simulator.subjects import SUBJECTS
from ds_sync.testing.simulator.world import Outcome, run_seed


@dataclass(frozen=True, slots=True)
class Kept:
    """What `run_seed` needs."""

    seed: int
    """For the network's, the devices' and the edits' own choices."""
    crdt: str
    scenario: Scenario

    @classmethod
    def of_seed(cls, seed: int, crdt: str, kind: str = "any") -> Kept:
        """Return what the seed draws today, of the KINDS."""
        return cls(seed, crdt, KINDS[kind](random.Random(f"{seed} scenario")))

    @classmethod
    def load(cls, path: Path) -> Kept:
        """Read what `save` wrote."""
        fields = json.loads(path.read_text())
        return cls(fields["seed"], fields["crdt"], Scenario.load(fields["scenario"]))

    def save(self, path: Path) -> None:
        """Write it down, as JSON."""
        path.write_text(json.dumps({"seed": self.seed, "crdt": self.crdt, "scenario": self.scenario.dump()}, indent=1) + "\n")

    def run(self) -> Outcome:
        """Live through it."""
        return run_seed(self.seed, subject=SUBJECTS[self.crdt](), scenario=self.scenario)


def reduce(kept: Kept, fails: Callable[[Outcome], bool]) -> Kept:
    """Take away from a failing run whatever it fails without. Runs it some hundred times."""
    reduced = True
    while reduced:
        reduced = False
        for smaller in _smaller(kept.scenario):
            found = replace(kept, scenario=smaller)
            if fails(found.run()):
                kept, reduced = found, True
                break
    return kept


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    steps = scenario.steps
    size = len(steps)
    while size > 1:
        size = (size + 1) // 2
        for at in range(0, len(steps), size):
            yield replace(scenario, steps=steps[:at] + steps[at + size :])
        if size == 1:
            break
    for count in range(1, scenario.documents):
        yield replace(scenario, documents=count)
    for count in range(1, scenario.devices):
        yield replace(scenario, devices=count)
    if scenario.weather != scenario.weather.calmed():
        yield replace(scenario, weather=scenario.weather.calmed())
