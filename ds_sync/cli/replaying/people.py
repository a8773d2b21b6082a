"""A session of several people, typed again: each a process with a replica, killed and cut off as a seed says."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ds_sync.cli.processes import Child, ChildError, Server, run_module
from ds_sync.cli.replaying.editors import find_order
from ds_sync.cli.replaying.relay import Relay, Relays
from ds_sync.cli.replaying.schedule import SERVER, Event
from ds_sync.cli.replaying.traces import SharedTrace

_COUNTERS = ("batches", "retries")
_PATIENCE_SECONDS = 150.0
"""Without any progress; a peer that waits in vain says so itself after a little less."""
_TICK_SECONDS = 0.01


@dataclass(slots=True)
class Peer:
    """One process, however often it is killed, and what it reported."""

    name: str
    file: Path
    people: list[int]
    """Who types there: nobody in a peer that reads."""
    child: Child | None = None
    relay: Relay | None = None
    typed: int = 0
    merged: float = 0.0
    """Of everybody's edits: the share."""
    kills: int = 0
    cuts: int = 0
    compared: int = 0
    counted_in_part: bool = False
    """Whether it was killed, and what it counted after its last report died with it."""
    done: bool = False
    exact: bool = False
    synced: bool = False
    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTERS, 0))
    last: dict[str, Any] = field(default_factory=dict)

    def take_report(self, report: dict[str, Any]) -> None:
        """Keep what it says."""
        self.last.update(report)
        self.typed = max(self.typed, report.get("typed", 0))
        self.merged = report.get("merged", self.merged)
        if report.get("done"):
            self.done, self.exact, self.synced = True, report["exact"], report["synced"]
            self.settle()

    def settle(self) -> None:
        """Add what the process counted in its life, as far as it was reported."""
        for name in _COUNTERS:
            self.totals[name] += int(self.last.get(name, 0))
        self.compared += int(self.last.get("compared", 0))
        self.last.clear()


class Meeting:
    """One replay: the peers, the server, and what happens to them."""

    def __init__(
        self, trace: SharedTrace, file: Path, folder: Path, *, url: str | None, crdt: str, peers: int, schedule: list[Event]
    ) -> None:
        """Start nothing yet. Raises TraceError if a plain document of the session does not end as recorded."""
        self.trace = trace
        self.file = file
        self.schedule = schedule
        self.seconds = 0.0
        self.server_kills = self.server_cuts = 0
        self.peers = [
            Peer(f"peer {number + 1}", folder / f"peer-{number + 1}.db", [p for p in range(trace.people) if p % peers == number])
            for number in range(peers)
        ]
        self.reader = Peer("fresh reader", folder / "fresh-reader.db", [])
        self._folder = folder
        self._url = url
        self._crdt = crdt
        self._last_first = find_order(trace)
        self._name = f"replay/{secrets.token_hex(8)}"
        self._server: Server | None = None
        self._relays: Relays | None = None
        self._next = 0
        """Of the schedule."""
        self._due: float | None = None
        """When that happens: its place is reached."""
        self._repairs: list[tuple[float, int, Callable[[], None]]] = []
        """What is down or cut off, and when it comes back."""

    def run(self) -> None:
        """Let everybody type, and then read, under bars of what each has merged. Raises ChildError if a process fails."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        started = time.monotonic()
        if self._url is None:
            self._server = Server(self._folder / "server.db")
            self._url = self._server.url
            if self.schedule:
                self._relays = Relays()
        columns = (TextColumn("{task.description:<12}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bars = {peer.name: progress.add_task(peer.name, total=1.0) for peer in (*self.peers, self.reader)}

            def show(peer: Peer) -> None:
                progress.update(bars[peer.name], completed=peer.merged)

            for peer in self.peers:
                if self._relays is not None:
                    peer.relay = self._relays.open(self._url)
                self._start(peer)
            self._watch(self.peers, show)
            self._start(self.reader)
            self._watch([self.reader], show)
        self.seconds = time.monotonic() - started

    @property
    def wrong(self) -> list[str]:
        """Who did not end as recorded."""
        return [peer.name for peer in (*self.peers, self.reader) if not (peer.exact and peer.synced)]

    def print_table(self) -> None:
        """Print what each peer did, and whether it has the recorded text."""
        from rich.console import Console
        from rich.table import Table

        everybody = (*self.peers, self.reader)
        title = f"{self.file.name}: {self.trace.people} who type, {self.seconds:.1f} s"
        title += f"\nserver: {self.server_kills} kills, {self.server_cuts} cuts" if self.schedule else ""
        title += "\n≥: at least, as far as the killed had reported" if any(peer.counted_in_part for peer in everybody) else ""
        table = Table(title=title, padding=(0, 0, 0, 1))
        for column in ("", "typed", "kills", "cuts", "batches", "retries", "compared", "synced", "exact"):
            table.add_column(column, justify="left" if not column else "right")
        for peer in everybody:
            least = "≥" if peer.counted_in_part else ""
            counted = [f"{least}{peer.totals[name]:,}" for name in _COUNTERS] + [f"{least}{peer.compared:,}"]
            verdicts = ["yes" if good else "NO" for good in (peer.synced, peer.exact)]
            table.add_row(peer.name, f"{peer.typed:,}", str(peer.kills), str(peer.cuts), *counted, *verdicts)
        Console().print(table)

    def close(self) -> None:
        """End what still runs."""
        for peer in (*self.peers, self.reader):
            if peer.child is not None:
                peer.child.close()
        if self._relays is not None:
            self._relays.close()
        if self._server is not None:
            self._server.kill()

    def _start(self, peer: Peer) -> None:
        url = peer.relay.url if peer.relay is not None else self._url or ""
        arguments = (str(peer.file), url, self._name, self._crdt, str(self.file), json.dumps(peer.people), json.dumps(self._last_first))
        peer.child = Child(peer.name, run_module("ds_sync.cli.replaying.person", *arguments))
        peer.child.tell({"until": self._limit()})

    def _watch(self, peers: list[Peer], show: Callable[[Peer], None]) -> None:
        moved, furthest = time.monotonic(), -1.0
        while not all(peer.done for peer in peers):
            for peer in peers:
                self._read(peer, show)
            at = sum(peer.typed + peer.merged for peer in peers) + self._next + len(self._repairs)
            if at != furthest:
                furthest, moved = at, time.monotonic()
            elif time.monotonic() - moved > _PATIENCE_SECONDS:
                raise ChildError(f"nothing moved for {_PATIENCE_SECONDS:g} s")
            self._repair()
            self._strike_if_due()
            time.sleep(_TICK_SECONDS)

    def _read(self, peer: Peer, show: Callable[[Peer], None]) -> None:
        if peer.child is None or peer.done:
            return
        ended = not peer.child.alive
        for report in peer.child.reports():
            peer.take_report(report)
        show(peer)
        if ended and not peer.done:
            raise ChildError(f"{peer.name} ended early: {peer.child.complaint()}")

    def _limit(self) -> int:
        """Return the transaction that nobody may type yet: the place of the event after the next, so that no event is outrun."""
        total = len(self.trace.transactions)
        if self._next >= len(self.schedule):
            return total
        return min(total - 1, int(self.schedule[self._next + 1].place * total) if self._next + 1 < len(self.schedule) else total)

    def _strike_if_due(self) -> None:
        if self._next >= len(self.schedule):
            return
        event, now = self.schedule[self._next], time.monotonic()
        if self._due is None:
            if sum(peer.typed for peer in self.peers) < int(event.place * len(self.trace.transactions)):
                return
            self._due = now + event.delay
        if now < self._due or any(whom == event.whom for _, whom, _ in self._repairs):
            return
        self._repairs.append((now + event.seconds, event.whom, self._strike(event)))
        self._next += 1
        self._due = None
        for peer in self.peers:
            if peer.child is not None:
                peer.child.tell({"until": self._limit()})

    def _repair(self) -> None:
        for repair in [repair for repair in self._repairs if repair[0] <= time.monotonic()]:
            self._repairs.remove(repair)
            repair[2]()

    def _strike(self, event: Event) -> Callable[[], None]:
        """Do it; return what mends it."""
        if not event.kill:
            return self._cut(self.peers if event.whom == SERVER else [self.peers[event.whom]], at_server=event.whom == SERVER)
        if event.whom == SERVER:
            if self._server is None:
                raise AssertionError("a server that is not ours is not in the schedule")
            self.server_kills += 1
            self._server.kill()
            return self._server.start
        peer = self.peers[event.whom]
        if peer.child is None:
            raise AssertionError("nobody is killed twice before being started again")
        peer.kills += 1
        peer.child.close()
        for report in peer.child.reports():
            peer.take_report(report)
        peer.settle()
        peer.counted_in_part = True
        peer.child = None
        return lambda: self._start(peer)

    def _cut(self, peers: list[Peer], *, at_server: bool) -> Callable[[], None]:
        self.server_cuts += at_server
        relays = [peer.relay for peer in peers if peer.relay is not None]
        for peer in peers:
            peer.cuts += not at_server
        for relay in relays:
            relay.cut()

        def mend() -> None:
            for relay in relays:
                relay.mend()

        return mend
