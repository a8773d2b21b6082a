"""Many seeds on several processes, and what they came to."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ds_sync.testing.simulator.kept import Kept
from ds_sync.testing.simulator.network import FAULTS
from ds_sync.testing.simulator.scenario import EVENTS
from ds_sync.testing.simulator.world import Outcome

CHUNK: Final = 16
"""Seeds that a process is given at a time."""

LIFE: Final = 60
"""Chunks after which a process ends: a pycrdt document that is observed when its simulated process dies is never freed."""


@dataclass(slots=True)
class Summary:
    """What many runs came to."""

    failed: list[Outcome] = field(default_factory=list)
    simulated: float = 0.0
    """Seconds."""
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys((*EVENTS, *FAULTS), 0)))
    """How often what happened, with a 0 for everything that may happen and did not."""

    def add(self, outcome: Outcome) -> None:
        """Count one run in."""
        self.simulated += outcome.simulated
        self.counts.update(outcome.counts)
        if outcome.violations:
            self.failed.append(outcome)


def _run_briefly(seed: int, *, crdt: str, kind: str) -> Outcome:
    outcome = Kept.of_seed(seed, crdt, kind).run()
    return outcome if outcome.violations else replace(outcome, trace="")  # most of the time would go into handing traces over


def run_seeds(seeds: Sequence[int], *, crdt: str = "text", kind: str = "any", jobs: int = 1) -> Summary:
    """Run `seeds` on `jobs` processes. Failures are told as they come, on a terminal with a progress line below them (stderr)."""
    summary, began = Summary(), time.monotonic()
    columns = (
        *(TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]:.0f}/s")),
        *(TextColumn("{task.fields[failed]} failed"), TimeRemainingColumn()),
    )
    with (
        ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=LIFE) as pool,
        Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress,
    ):
        bar = progress.add_task("seeds", total=len(seeds), failed=0, rate=0.0)
        for outcome in pool.map(partial(_run_briefly, crdt=crdt, kind=kind), seeds, chunksize=max(1, min(CHUNK, len(seeds) // jobs))):
            summary.add(outcome)
            if outcome.violations:
                print(f"seed {outcome.seed} failed: {outcome.violations[0]}", file=sys.stderr, flush=True)
            rate = progress.tasks[bar].completed / (time.monotonic() - began)
            progress.update(bar, advance=1, failed=len(summary.failed), rate=rate)
    return summary
