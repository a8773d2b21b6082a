"""The processes of `ds-sync replay`: one types a trace through its replica, one follows, one reads. They write JSON lines.

How far the typist came stands in the document, in the same transaction as the text: a kill can't make the two disagree.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from pycrdt import Map, Text

from ds_sync import Document, Replica
from ds_sync.cli.traces import Trace, load_trace

_REPORT_SECONDS = 0.1
_PATIENCE_SECONDS = 300.0
_TYPED_AT_ONCE = 100
"""Transactions between two turns of the event loop, in which the replica sends and receives."""


def typed(document: Document) -> int:
    """Return how many transactions of the trace are in the document; -1 before its start content."""
    return int(document.doc.get("replay", type=Map).get("typed", -1))


async def type_trace(document: Document, trace: Trace) -> None:
    """Type on from where the document is, and wait until the server has all of it."""
    text, progress = document.doc.get("body", type=Text), document.doc.get("replay", type=Map)
    if typed(document) < 0:
        with document.doc.transaction():
            text += trace.start
            progress["typed"] = 0
    done, reported = typed(document), 0.0
    for number, patches in enumerate(trace.in_bytes()):
        if number < done:
            continue
        with document.doc.transaction():
            for position, deleted, inserted in patches:
                if deleted:
                    del text[position : position + deleted]
                if inserted:
                    text.insert(position, inserted)
            progress["typed"] = number + 1
        if number % _TYPED_AT_ONCE == 0:
            await asyncio.sleep(0)
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                report(document)
    async with asyncio.timeout(_PATIENCE_SECONDS):
        await document.synced()


async def follow(document: Document, trace: Trace) -> None:
    """Wait until the whole session is here."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while typed(document) < len(trace.transactions):
            report(document)
            await asyncio.sleep(_REPORT_SECONDS)
        await document.synced()


def report(document: Document, **more: Any) -> None:
    """Write one line: where the document is, and what its synchronisation cost."""
    status = document.status
    counters = {name: getattr(status, name) for name in ("batches", "bytes_sent", "retries", "duplicates")}
    print(json.dumps({"typed": typed(document), **counters, **more}), flush=True)


async def run(role: str, file: str, url: str, name: str, crdt: str, trace: Trace) -> None:
    """Do `role` ("type" or "follow") with the replica in `file`, and say whether the text is the trace's end."""
    async with Replica(file, server=url) as replica:
        document = await replica.open(name, crdt=crdt)
        await (type_trace if role == "type" else follow)(document, trace)
        report(document, done=True, exact=str(document.doc.get("body", type=Text)) == trace.end)


if __name__ == "__main__":
    _role, _file, _url, _name, _crdt, _trace = sys.argv[1:]
    asyncio.run(run(_role, _file, _url, _name, _crdt, load_trace(Path(_trace), verify=False)))
