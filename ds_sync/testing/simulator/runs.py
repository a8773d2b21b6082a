"""Many seeds on several processes."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ds_sync.testing.simulator.subjects import SUBJECTS
from ds_sync.testing.simulator.world import Outcome, run_seed


def run_named(seed: int, *, crdt: str) -> Outcome:
    """Run one seed on the subject called `crdt`."""
    return run_seed(seed, subject=SUBJECTS[crdt]())


def run_seeds(seeds: Sequence[int], *, crdt: str = "text", jobs: int = 1) -> tuple[list[Outcome], float]:
    """Run `seeds` on `jobs` processes, with a progress line on a terminal; return the outcomes that failed, and simulated seconds."""
    failed: list[Outcome] = []
    simulated = 0.0
    columns = (TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"), TimeRemainingColumn())
    with (
        ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool,
        Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress,
    ):
        bar = progress.add_task("seeds", total=len(seeds), failed=0)
        for outcome in pool.map(partial(run_named, crdt=crdt), seeds, chunksize=max(1, min(16, len(seeds) // jobs))):
            simulated += outcome.simulated
            if outcome.violations:
                failed.append(outcome)
            progress.update(bar, advance=1, failed=len(failed))
    return failed, simulated
