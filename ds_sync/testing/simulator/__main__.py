"""Run seeds: `python -m ds_sync.testing.simulator --seed 7` prints the trace of one, `--seeds 0:1000 --jobs 2` runs many."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from ds_sync.testing.simulator.kept import Kept, reduce
from ds_sync.testing.simulator.runs import Summary, run_seeds
from ds_sync.testing.simulator.scenario import KINDS
from ds_sync.testing.simulator.subjects import SUBJECTS
from ds_sync.testing.simulator.world import Outcome

COMMAND = "python -m ds_sync.testing.simulator"

KEPT = 10
"""Failing seeds that are told how to rerun; all were told as they came."""


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
@click.option("--replay", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Run what --keep wrote and print its trace.")
@click.option("--reduce", "reducing", is_flag=True, help="Of a failing run, leave only the steps that it takes.")
@click.option("--keep", type=click.Path(dir_okay=False, path_type=Path), help="Write the run of --seed down, for --replay.")
@click.option("--seeds", type=_Range(), default="0:200", show_default=True, help="Run these seeds; say how to rerun those that fail.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--crdt", type=click.Choice(sorted(SUBJECTS)), default="text", show_default=True, help="What is edited.")
@click.option("--draw", type=click.Choice(sorted(KINDS)), default="any", show_default=True, help="What the seeds are to be about.")
def main(seed: int | None, replay: Path | None, reducing: bool, keep: Path | None, seeds: range, jobs: int, crdt: str, draw: str) -> None:
    """Simulate replicas and a server under seeds. Exit code 1 if a law was broken."""
    if draw == "snapshots" and crdt != "yjs":
        raise click.UsageError("snapshots are of documents that the server can read: --crdt yjs")
    if seed is not None or replay is not None:
        kept = Kept.load(replay) if replay is not None else Kept.of_seed(seed or 0, crdt, draw)
        sys.exit(_run_one(kept, reducing=reducing, keep=keep))
    began = time.monotonic()
    summary = run_seeds(seeds, crdt=crdt, kind=draw, jobs=jobs)
    _report(summary, len(seeds), crdt, draw, time.monotonic() - began)
    sys.exit(1 if summary.failed else 0)


def _run_one(kept: Kept, *, reducing: bool, keep: Path | None) -> int:
    outcome = kept.run()
    if reducing and outcome.violations:
        law = outcome.violations[0].law
        kept = reduce(kept, lambda found: bool(found.violations) and found.violations[0].law == law)
        outcome = kept.run()
    if keep is not None:
        kept.save(keep)
    click.echo(outcome.trace)
    for violation in outcome.violations:
        click.echo(f"seed {outcome.seed}: {violation}", err=True)
    return 1 if outcome.violations else 0


def _report(summary: Summary, count: int, crdt: str, draw: str, seconds: float) -> None:
    click.echo("How often what happened:")
    width = max(map(len, summary.counts))
    for what, times in sorted(summary.counts.items()):
        click.echo(f"  {what:<{width}} {times:>9,}{'' if times else '  never: nothing was tested here'}")
    took = f"{summary.simulated / 3600:.1f} simulated hours in {seconds:.0f} s, {count / seconds:.0f} seeds/s"
    click.echo(f"{count} seeds ({crdt}, {draw}), {len(summary.failed)} failed; {took}")
    for outcome in summary.failed[:KEPT]:
        click.echo(f"{_rerun(outcome, crdt, draw)}   # {outcome.violations[0]}", err=True)


def _rerun(outcome: Outcome, crdt: str, draw: str) -> str:
    options = ("" if crdt == "text" else f" --crdt {crdt}") + ("" if draw == "any" else f" --draw {draw}")
    return f"{COMMAND} --seed {outcome.seed}{options}"


if __name__ == "__main__":
    main()
