"""The bars of the replica, measured: `python tests/benchmarks/bars.py` (needs the folder of editing traces; prints a table).

Alternating rounds in one run, medians. A replica's edits are committed to a WAL without fsync (synchronous=NORMAL), its sealed batches with
fsync, the server's appends with fsync; bare pycrdt stores nothing. Each memory figure is a process of its own.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pycrdt import Doc, Text

from ds_sync import Replica
from ds_sync.cli.traces import load_trace
from ds_sync.testing.server_process import ServerProcess

TRACES = Path(os.environ.get("DS_SYNC_TRACES", Path(__file__).parents[3] / "shared" / "data"))
ROUNDS = 3


def type_session(text: Text, patches: list[tuple[int, int, str]]) -> float:
    started = time.perf_counter()
    for position, deleted, inserted in patches:
        if deleted:
            del text[position : position + deleted]
        if inserted:
            text.insert(position, inserted)
    return time.perf_counter() - started


def type_bare(patches: list[tuple[int, int, str]]) -> float:
    doc: Doc[Text] = Doc()
    text = doc.get("text", type=Text)
    updates: list[bytes] = []
    subscription = doc.observe(lambda event: updates.append(event.update))
    seconds = type_session(text, patches)
    doc.unobserve(subscription)
    return seconds


async def type_offline(file: Path, patches: list[tuple[int, int, str]]) -> float:
    async with Replica(file) as replica:
        note = await replica.open("paper")
        return type_session(note.doc.get("text", type=Text), patches)


async def send_backlog(file: Path, url: str, expected: str) -> tuple[float, int, int]:
    async with Replica(file) as replica:
        note = await replica.open("paper")
        unsent = note.status.unsent
        started = time.perf_counter()
        await replica.connect(url)
        async with asyncio.timeout(60):
            async for status in note.statuses():
                if status.durable >= unsent:
                    break
        seconds = time.perf_counter() - started
        assert str(note.doc.get("text", type=Text)) == expected
        return seconds, unsent, note.status.batches


def memory() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def hold_open(file: str) -> None:
    async with Replica(file) as replica:
        note = await replica.open("paper")
        print(len(str(note.doc.get("text", type=Text))), memory())


def hold_bare(file: str) -> None:
    doc: Doc[Text] = Doc()
    doc.apply_update(Path(file).read_bytes())
    print(len(str(doc.get("text", type=Text))), memory())


def hold(what: str, file: Path) -> int:
    output = subprocess.run([sys.executable, __file__, what, str(file)], check=True, capture_output=True, text=True).stdout
    return int(output.split()[1])


def main() -> None:
    trace = load_trace(TRACES / "automerge-paper.json.gz", verify=False)
    patches = [patch for transaction in trace.in_bytes() for patch in transaction]
    bare: list[float] = []
    replica: list[float] = []
    backlog: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            bare.append(type_bare(patches))
            file = Path(folder, f"{number}.db")
            replica.append(asyncio.run(type_offline(file, patches)))
            with ServerProcess(Path(folder, f"server{number}.db")) as server:
                seconds, edits, requests = asyncio.run(send_backlog(file, server.url, trace.end))
            backlog.append(seconds)
        doc: Doc[Text] = Doc()
        type_session(doc.get("text", type=Text), patches)
        update = Path(folder, "paper.update")
        update.write_bytes(doc.get_update())
        bare_bytes, replica_bytes = hold("bare", update), hold("replica", file)
    ratios = [mine / theirs for mine, theirs in zip(replica, bare, strict=True)]
    print(f"typing {len(patches)} edits: bare pycrdt {statistics.median(bare):.2f} s, ", end="")
    print(f"offline replica {statistics.median(replica):.2f} s, ", end="")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); bar 2.5")
    print(f"backlog of {edits} edits acknowledged after {statistics.median(backlog):.3f} s in {requests} requests; bars 1 s, 5")
    print(f"memory with the document open: bare {bare_bytes / 1e6:.0f} MB, replica {replica_bytes / 1e6:.0f} MB, ", end="")
    print(f"ratio {replica_bytes / bare_bytes:.2f}; bar 3")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "replica":
        asyncio.run(hold_open(sys.argv[2]))
    elif len(sys.argv) == 3:
        hold_bare(sys.argv[2])
    else:
        main()
