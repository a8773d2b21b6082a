"""The processes of `ds-sync replay`: one types a trace through its replica, one follows, one reads. They write JSON lines.

How far the typist came is how many edits its replica's file holds: each was stored, one for one, before it returned. So a kill can't make
count and text disagree, and nothing but the recorded text is in the document.
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

from ds_sync import Document, Replica, Status
from ds_sync.cli.replaying.traces import Trace, load_trace

_REPORT_SECONDS = 0.1
_PATIENCE_SECONDS = 300.0
_WAIT_SECONDS = 0.01
_TYPED_AT_ONCE = 100
"""Transactions between two turns of the event loop, in which the replica sends and receives."""


def edits(document: Document) -> int:
    """Return how many edits this replica's file has ever taken in."""
    status = document.status
    return status.unsaved + status.unsent + status.sent + status.durable


class Leave:
    """How far the typist may go: whoever kills it on the way must not be outrun. Lines of standard input move it on."""

    def __init__(self) -> None:
        self.until = 0
        # A thread of its own, which dies with the process: nothing else can wait for a line on every platform.
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self.until = json.loads(line)["until"]


async def type_trace(document: Document, trace: Trace) -> None:
    """Type on from where the file is, and wait until the server has all of it."""
    leave = Leave()
    text = document.doc.get("body", type=Text)
    done, reported = edits(document), 0.0
    if trace.start:
        if not done:
            text += trace.start
        done = max(0, done - 1)
    for number, patches in enumerate(trace.in_bytes()):
        if not any(deleted or inserted for _, deleted, inserted in patches):
            done += number < done  # a transaction without an effect is no edit
        if number < done:
            continue
        while number >= leave.until:
            report(document, number)
            await asyncio.sleep(_WAIT_SECONDS)
        with document.doc.transaction():
            for position, deleted, inserted in patches:
                if deleted:
                    del text[position : position + deleted]
                if inserted:
                    text.insert(position, inserted)
        if number % _TYPED_AT_ONCE == 0:
            await asyncio.sleep(0)
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                report(document, number + 1)
    async with asyncio.timeout(_PATIENCE_SECONDS):
        await document.synced()


async def follow(document: Document, trace: Trace) -> None:
    """Wait until the whole session is here, and stays so when the server is asked once more."""
    text, total, size = document.doc.get("body", type=Text), len(trace.transactions), len(trace.end.encode())
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while True:
            if len(text) == size and str(text) == trace.end:
                await document.synced()
                if str(text) == trace.end:
                    return
            # How far along, as far as a follower can tell: by the text's length.
            report(document, min(total - 1, total * len(text) // max(1, size)))
            await asyncio.sleep(_REPORT_SECONDS)


def report(document: Document, typed: int, **more: Any) -> None:
    """Write one line: where the document is, and what its synchronisation cost."""
    print(json.dumps({"typed": typed, **counters(document.status), **more}), flush=True)


async def report_counters(document: Document) -> None:
    """Write a line whenever a counter has changed: whoever may be killed can't wait for the next report."""
    last: dict[str, int] = {}
    async for status in document.statuses():
        if (now := counters(status)) != last:
            last = now
            print(json.dumps(last), flush=True)


def counters(status: Status) -> dict[str, int]:
    """Return what the synchronisation has cost this process."""
    return {name: getattr(status, name) for name in ("batches", "bytes_sent", "retries", "duplicates")}


async def run(role: str, file: str, url: str, name: str, crdt: str, trace: Trace) -> None:
    """Do `role` ("type" or "follow") with the replica in `file`, and say whether the text is the trace's end."""
    async with Replica(file, server=url) as replica:
        document = await replica.open(name, crdt=crdt)
        counting = asyncio.create_task(report_counters(document))
        await (type_trace if role == "type" else follow)(document, trace)
        counting.cancel()
        report(document, len(trace.transactions), done=True, exact=str(document.doc.get("body", type=Text)) == trace.end)


if __name__ == "__main__":
    _role, _file, _url, _name, _crdt, _trace = sys.argv[1:]
    asyncio.run(run(_role, _file, _url, _name, _crdt, load_trace(Path(_trace), verify=False)))
