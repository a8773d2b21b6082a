"""One peer of a session of several people: a process with a replica in which one or more of them type, or nobody.

Each edit is made in the person's own document (`replay_editors`) and given to the replica's as soon as that has merged what the trace
demands. How far a person came is what the replica's file has of their edits: each is one transaction there, and was stored before it
returned. So a process that was killed goes on where its file is.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pycrdt import Text

from ds_sync import Document, Replica
from ds_sync.cli.replaying.editors import Clocks, Editors, covers, read_clocks
from ds_sync.cli.replaying.process import counters, report_counters
from ds_sync.cli.replaying.traces import SharedTrace, load_shared_trace

_REPORT_SECONDS = 0.05
_PATIENCE_SECONDS = 120.0
"""For others' edits, and for the server, when nothing moves."""
_LOOK_SECONDS = 0.1
_TURN = 20
"""Transactions between two turns of the event loop, in which the replica sends and receives."""


class Peer:
    """The replica's document, and those who type into it."""

    def __init__(self, document: Document, trace: SharedTrace, people: list[int], *, last_first: bool) -> None:
        self._document = document
        self._trace = trace
        self._people = people
        self._editors = Editors(trace, last_first=last_first)
        self._text = document.doc.get("body", type=Text)
        self._total = sum(transaction.person in people for transaction in trace.transactions)
        self._typed = 0
        self._compared = 0
        self._differed = False
        self._looked = 0.0
        self._reported = 0.0
        self._until = 0
        self._moved = asyncio.Event()
        document.doc.observe(lambda event: self._moved.set())
        # A thread of its own, which dies with the process: nothing else can wait for a line on every platform.
        threading.Thread(target=self._read_leave, args=(asyncio.get_running_loop(),), daemon=True).start()

    async def run(self) -> None:
        """Type all of it, wait for all that others type, and say whether the text is the recorded one."""
        for number, transaction in enumerate(self._trace.transactions):
            update = self._editors.type(number)
            if number % _TURN == 0:
                await asyncio.sleep(0)
                self._report()
            if transaction.person not in self._people:
                continue
            client, seen = self._editors.clients[transaction.person], self._editors.clocks_seen(transaction)
            if read_clocks(self._document.doc).get(client, 0) <= seen.get(client, 0):  # else it was typed before a kill
                await self._wait(seen, number)
                self._document.doc.apply_update(update)
                self._compare(transaction.person)
            self._typed += 1
        await self._wait(self._editors.clocks_typed())
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await self._document.synced()
        status = self._document.status
        self._report(
            done=True,
            exact=str(self._text) == self._trace.end and not self._differed,
            synced=not (status.unsaved or status.unsent or status.sent),
        )

    async def _wait(self, wanted: Clocks, number: int = -1) -> None:
        """Until the replica has merged `wanted`, and transaction `number` may be typed. Raises TimeoutError if nothing moves."""
        moved, last = time.monotonic(), Clocks()
        while not covers(now := read_clocks(self._document.doc), wanted) or number >= self._until:
            if now != last or number >= self._until:
                last, moved = now, time.monotonic()
            if time.monotonic() - moved > _PATIENCE_SECONDS:
                raise TimeoutError(f"nothing came for {_PATIENCE_SECONDS:g} s; {wanted} is demanded, {now} is merged")
            self._moved.clear()
            self._report()
            try:
                async with asyncio.timeout(_REPORT_SECONDS):
                    await self._moved.wait()
            except TimeoutError:
                continue

    def _compare(self, person: int) -> None:
        """If the replica has merged exactly what the person sees, the texts must be equal, too: looked at from time to time."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS or read_clocks(self._document.doc) != self._editors.clocks_shown(person):
            return
        self._looked = now
        self._compared += 1
        self._differed = self._differed or str(self._text) != self._editors.text_of(person)

    def _report(self, **more: Any) -> None:
        """Write one line, but not more than one a moment: how far we are, and what the synchronisation cost."""
        now = time.monotonic()
        if more or now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            merged = sum(read_clocks(self._document.doc).values()) / max(1, self._editors.clocks_in_all)
            line = {"typed": self._typed, "merged": merged, "compared": self._compared, **counters(self._document.status), **more}
            print(json.dumps(line), flush=True)

    def _read_leave(self, loop: asyncio.AbstractEventLoop) -> None:
        for line in sys.stdin:
            self._until = json.loads(line)["until"]
            loop.call_soon_threadsafe(self._moved.set)


async def run(file: str, url: str, name: str, crdt: str, trace: SharedTrace, people: list[int], last_first: bool) -> None:
    """Take part in the session with the replica in `file`."""
    async with Replica(file, server=url) as replica:
        document = await replica.open(name, crdt=crdt)
        counting = asyncio.create_task(report_counters(document))
        await Peer(document, trace, people, last_first=last_first).run()
        counting.cancel()


if __name__ == "__main__":
    _file, _url, _name, _crdt, _trace, _people, _order = sys.argv[1:]
    asyncio.run(run(_file, _url, _name, _crdt, load_shared_trace(Path(_trace)), json.loads(_people), json.loads(_order)))
