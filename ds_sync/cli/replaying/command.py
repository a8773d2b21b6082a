"""`ds-sync replay`: a recorded editing session, typed through replicas in processes of their own, killed on the way."""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from ds_sync.cli.processes import Child, ChildError, Server, run_module
from ds_sync.cli.replaying.people import Meeting
from ds_sync.cli.replaying.schedule import Event, draw_schedule
from ds_sync.cli.replaying.traces import SharedTrace, Trace, load_trace, read_trace

_COUNTERS = ("batches", "bytes_sent", "retries", "duplicates")
_PATIENCE_SECONDS = 300.0
"""Without any progress."""
_KILLS, _CUTS = 6, 4
"""In a session of several people with a seed, if nothing else is said."""


@click.command()
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--server", metavar="URL", help="A server that runs already; without it one is started.")
@click.option("--crdt", default="yjs", show_default=True, type=click.Choice(["yjs"]), help="The kind of document.")
@click.option(
    "--kills", metavar="N", type=click.IntRange(0, 10_000), help="How often to end a process by SIGKILL; 0 if not given, with --seed 6."
)
@click.option("--peers", metavar="N", type=click.IntRange(1, 50), help="How many replicas; one for each who types if not given.")
@click.option("--seed", metavar="S", type=int, help="Kill and cut off replicas and server at moments drawn from S.")
def replay(trace: Path, server: str | None, crdt: str, kills: int | None, peers: int | None, seed: int | None) -> None:
    """Type TRACE.json.gz again through replicas in processes of their own; exit 0 if every text ends exactly as recorded.

    A session of one person is typed by one replica while another follows. In a session of several, or with --peers or --seed, each
    person has a replica, and has merged what the trace says before typing on; with more peers than people the rest read.
    """
    if server is not None and not server.startswith(("http://", "https://")):
        raise click.UsageError(f"--server must be an http:// or https:// URL, not {server!r}")
    recorded = read_trace(trace)
    if isinstance(recorded, SharedTrace) or peers is not None or seed is not None:
        if kills and seed is None:
            raise click.UsageError("--kills in a session of several people needs --seed, which says when")
        shared = recorded if isinstance(recorded, SharedTrace) else recorded.as_shared()
        wrong = _replay_people(shared, trace, server, crdt, kills, peers or shared.people, seed)
    else:
        wrong = _replay_one(load_trace(trace), trace, server, crdt, kills or 0)
    if wrong:
        click.echo(f"ds-sync replay: the text is not the recorded one: {', '.join(wrong)}", err=True)
        sys.exit(1)


def _replay_one(trace: Trace, file: Path, server: str | None, crdt: str, kills: int) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="ds-sync-replay-") as folder:
        session = Session(trace, file, Path(folder), server, crdt, kills)
        try:
            session.run()
        finally:
            session.close()
    session.print_table()
    return [role for role, exact in session.exact.items() if not exact]


def _replay_people(
    trace: SharedTrace, file: Path, server: str | None, crdt: str, kills: int | None, peers: int, seed: int | None
) -> list[str]:
    schedule: list[Event] = []
    cuts = 0
    if seed is not None:
        kills, cuts = _KILLS if kills is None else kills, 0 if server else _CUTS  # a server that is not ours is reached directly
        schedule = draw_schedule(seed, peers=peers, typing=min(peers, trace.people), kills=kills, cuts=cuts, server=server is None)
    with tempfile.TemporaryDirectory(prefix="ds-sync-replay-") as folder:
        meeting = Meeting(trace, file, Path(folder), url=server, crdt=crdt, peers=peers, schedule=schedule)
        if seed is not None:
            click.echo(f"seed {seed}: kills {kills}, cuts {cuts}; at which share of the session, what:")
        for event in schedule:
            click.echo(event)
        try:
            meeting.run()
        finally:
            meeting.close()
    meeting.print_table()
    return meeting.wrong


@dataclass
class Session:
    """One replay: the processes, what they reported, and who is killed next."""

    trace: Trace
    file: Path
    folder: Path
    url: str | None
    crdt: str
    kills: int
    killed: int = 0
    counted_in_part: bool = False
    """Whether a process was killed that kept count."""
    seconds: float = 0.0
    exact: dict[str, bool] = field(default_factory=lambda: {"typist": False, "follower": False, "fresh reader": False})
    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTERS, 0))
    _last: dict[str, dict[str, Any]] = field(default_factory=dict)
    _furthest: dict[str, int] = field(default_factory=dict)
    _children: dict[str, Child] = field(default_factory=dict)
    _server: Server | None = None
    _name: str = field(default_factory=lambda: f"replay/{secrets.token_hex(8)}")

    def run(self) -> None:
        """Type, follow, kill, and read at the end. Raises ChildError if a process fails or nothing moves any more."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        if self.url is None:
            self._server = Server(self.folder / "server.db")
            self.url = self._server.url
        started = time.monotonic()
        total = len(self.trace.transactions)
        columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bars = {role: progress.add_task(role, total=total) for role in self.exact}
            self._start("typist")
            self._start("follower")
            self._watch(("typist", "follower"), lambda role, count: progress.update(bars[role], completed=count))
            self._start("fresh reader")
            self._watch(("fresh reader",), lambda role, count: progress.update(bars[role], completed=count))
        self.seconds = time.monotonic() - started

    def print_table(self) -> None:
        """Print what it took."""
        from rich.console import Console
        from rich.table import Table

        # What a process counted after its last report died with it.
        least = "≥" if self.counted_in_part else ""
        title = f"{self.file.name}\n≥: at least, as far as the killed had reported" if least else self.file.name
        table = Table(title=title, padding=(0, 0, 0, 1))
        values: dict[str, int | str] = {
            "edits": self.trace.edits,
            "batches": f"{least}{self.totals['batches']:,}",
            "bytes": f"{least}{self.totals['bytes_sent']:,}",
            "kills": self.killed,
            "retries": f"{least}{self.totals['retries']:,}",
            "duplicates": f"{least}{self.totals['duplicates']:,}",
            "seconds": f"{self.seconds:.1f}",
            "exact": "yes" if all(self.exact.values()) else "NO",
        }
        for name in values:
            table.add_column(name, justify="right")
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in values.values()))
        Console().print(table)

    def close(self) -> None:
        """End what still runs."""
        for child in self._children.values():
            child.close()
        if self._server is not None:
            self._server.kill()

    def _start(self, role: str) -> None:
        if self.url is None:
            raise AssertionError("the server is known by now")
        task = "type" if role == "typist" else "follow"
        file = self.folder / f"{role.replace(' ', '-')}.db"
        arguments = (task, str(file), self.url, self._name, self.crdt, str(self.file))
        self._children[role] = Child(f"the {role}", run_module("ds_sync.cli.replaying.process", *arguments))
        if role == "typist":
            self._give_leave()

    def _watch(self, roles: tuple[str, ...], show: Any) -> None:
        done: set[str] = set()
        furthest = -1
        moved = time.monotonic()
        while len(done) < len(roles):
            for role in roles:
                if role not in done and self._read(role, show):
                    done.add(role)
            at = sum(self._furthest.get(role, 0) for role in roles)
            if at > furthest:
                furthest, moved = at, time.monotonic()
            elif time.monotonic() - moved > _PATIENCE_SECONDS:
                raise ChildError(f"nothing moved for {_PATIENCE_SECONDS:g} s")
            if "typist" in roles:
                self._kill_if_due(done)
            time.sleep(0.02)

    def _read(self, role: str, show: Any) -> bool:
        """Take what `role` reported; whether it is done."""
        child = self._children[role]
        ended = not child.alive
        for report in child.reports():
            last = self._last.setdefault(role, {})
            last.update(report)
            if "typed" in report:
                self._furthest[role] = max(self._furthest.get(role, 0), report["typed"])
                show(role, report["typed"])
            if report.get("done"):
                self.exact[role] = report["exact"]
                self._settle(role)
                return True
        if ended:
            raise ChildError(f"the {role} ended early: {child.complaint()}")
        return False

    def _settle(self, role: str) -> None:
        """Add what a process counted in its life, as far as it was reported."""
        for name in _COUNTERS:
            self.totals[name] += int(self._last.get(role, {}).get(name, 0))
        self._last.pop(role, None)

    def _place(self, kill: int) -> int:
        """Return at which transaction kill number `kill` (from 1) is due: N places, evenly spread."""
        return len(self.trace.transactions) * kill // (self.kills + 1)

    def _give_leave(self) -> None:
        """Let the typist go on to the place after the next kill's, and to the end when there is none to come."""
        total = len(self.trace.transactions)
        until = total if self.killed >= self.kills else min(self._place(self.killed + 2), total - 1)
        self._children["typist"].tell({"until": until})

    def _kill_if_due(self, done: set[str]) -> None:
        """Kill the next in turn when the typist has passed the next of N places."""
        if self.killed >= self.kills or self._last.get("typist", {}).get("typed", 0) < self._place(self.killed + 1):
            return
        victims = [role for role in ("typist", "follower", "server") if role not in done and (role != "server" or self._server)]
        victim = victims[self.killed % len(victims)]
        self.killed += 1
        if victim == "server" and self._server is not None:
            self._server.kill()
            self._server.start()
        else:
            self._children[victim].close()
            self.counted_in_part = True
            for report in self._children[victim].reports():
                self._last.setdefault(victim, {}).update(report)
            self._settle(victim)
            self._start(victim)
        if victim != "typist":
            self._give_leave()
