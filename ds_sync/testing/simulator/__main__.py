"""Run seeds: `python -m ds_sync.testing.simulator --seed 7` prints the trace of one, `--seeds 0:1000 --jobs 2` runs many."""

from __future__ import annotations

import sys
import time

import click

from ds_sync.testing.simulator.runs import run_named, run_seeds
from ds_sync.testing.simulator.subjects import SUBJECTS

KEPT = 10
"""Failing seeds whose traces are printed; more would bury the first."""


class _Range(click.ParamType[range]):
    name = "A:B"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> range:
        if isinstance(value, range):
            return value
        first, colon, end = str(value).rpartition(":")
        try:
            seeds = range(int(first) if colon and first else 0, int(end))
        except ValueError:
            self.fail(f"{value!r} is not a range of seeds: say 0:1000, or 1000", param, ctx)
        if not seeds:
            self.fail(f"{value!r} holds no seed", param, ctx)
        return seeds


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=int, help="Run one seed and print its trace.")
@click.option("--seeds", type=_Range(), default="0:200", show_default=True, help="Run these seeds; print the traces of those that fail.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--crdt", type=click.Choice(sorted(SUBJECTS)), default="text", show_default=True, help="What is edited.")
def main(seed: int | None, seeds: range, jobs: int, crdt: str) -> None:
    """Simulate replicas and a server under seeds. Exit code 1 if a law was broken."""
    if seed is not None:
        outcome = run_named(seed, crdt=crdt)
        click.echo(outcome.trace)
        for violation in outcome.violations:
            click.echo(f"seed {seed}: {violation}", err=True)
        sys.exit(1 if outcome.violations else 0)
    began = time.monotonic()
    failed, simulated = run_seeds(seeds, crdt=crdt, jobs=jobs)
    for outcome in failed[:KEPT]:
        click.echo(f"\n==== seed {outcome.seed}: {outcome.violations[0]}\n{outcome.trace}")
    for outcome in failed:
        click.echo(f"seed {outcome.seed}: {outcome.violations[0]}", err=True)
    seconds = time.monotonic() - began
    click.echo(f"{len(seeds)} seeds ({crdt}), {len(failed)} failed, {simulated / 3600:.1f} simulated hours in {seconds:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
