"""What a replica costs: `python tests/benchmarks/replica.py ROUNDS` prints JSON (needs the folder of recorded sessions, DS_SYNC_TRACES).

Alternating rounds in one run. A replica's edits are committed to a WAL without fsync (synchronous=NORMAL), its sealed batches with
fsync, the server's appends with fsync; bare pycrdt stores nothing. Each memory figure is a process of its own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pycrdt import Doc, Text

from ds_sync import Replica
from ds_sync.cli.replaying.traces import load_trace
from ds_sync.testing.server_process import ServerProcess

TRACES = Path(os.environ.get("DS_SYNC_TRACES", Path(__file__).parents[3] / "shared" / "data"))
SESSION = TRACES / "automerge-paper.json.gz"

SMALL_DOCUMENTS = 500

LARGE_EDITS = 10_000
"""Of 1,000 bytes each, appended one by one."""


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


async def join(file: Path, url: str, expected: str) -> float:
    """Return the seconds until a replica that knows nothing has everything."""
    started = time.perf_counter()
    async with Replica(file) as replica:
        await replica.connect(url)
        note = await replica.open("paper")
        async with asyncio.timeout(60):
            await note.synced()
        seconds = time.perf_counter() - started
        assert str(note.doc.get("text", type=Text)) == expected
        return seconds


async def write_large(file: Path, url: str | None) -> None:
    """Make a document of 10 MB; with a server it is sent there, else all of it waits in the outbox."""
    async with Replica(file, server=url) as replica:
        note = await replica.open("large")
        text = note.doc.get("text", type=Text)
        for number in range(LARGE_EDITS):
            text += f"{number:09} " + "x" * 989 + "\n"
        if url is not None:
            await asyncio.wait_for(note.synced(), 60)


async def open_large(file: str) -> None:
    started = time.perf_counter()
    async with Replica(file) as replica:
        note = await replica.open("large")
        length = len(note.doc.get("text", type=Text))
        seconds = time.perf_counter() - started
        assert length == LARGE_EDITS * 1000, length
        print(length, seconds)


def memory() -> int:
    """Return the bytes this process has in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def hold_open(file: str) -> None:
    async with Replica(file) as replica:
        note = await replica.open("paper")
        print(len(str(note.doc.get("text", type=Text))), memory())


async def hold_many(file: str) -> None:
    async with Replica(file) as replica:
        await replica.open("first")
        before = memory()
        for number in range(SMALL_DOCUMENTS):
            note = await replica.open(f"note-{number}")
            note.doc.get("text", type=Text).insert(0, "a short note")
        print(SMALL_DOCUMENTS, (memory() - before) / SMALL_DOCUMENTS)


def hold_bare(file: str) -> None:
    doc: Doc[Text] = Doc()
    doc.apply_update(Path(file).read_bytes())
    print(len(str(doc.get("text", type=Text))), memory())


def hold(what: str, file: Path) -> float:
    output = subprocess.run([sys.executable, __file__, what, str(file)], check=True, capture_output=True, text=True).stdout
    return float(output.split()[1])


def measure(rounds: int) -> dict[str, list[float]]:
    """Return every figure, one for each round; memory once."""
    trace = load_trace(SESSION, verify=False)
    patches = [patch for transaction in trace.in_bytes() for patch in transaction]
    figures: dict[str, list[float]] = {name: [] for name in ("typing", "backlog", "requests", "join")}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            bare = type_bare(patches)
            file = Path(folder, f"{number}.db")
            figures["typing"].append(asyncio.run(type_offline(file, patches)) / bare)
            with ServerProcess(Path(folder, f"server{number}.db")) as server:
                seconds, _, requests = asyncio.run(send_backlog(file, server.url, trace.end))
                figures["join"].append(asyncio.run(join(Path(folder, f"join{number}.db"), server.url, trace.end)))
            figures["backlog"].append(seconds)
            figures["requests"].append(requests)
        with ServerProcess() as server:
            asyncio.run(write_large(Path(folder, "sent.db"), server.url))
        asyncio.run(write_large(Path(folder, "unsent.db"), None))
        figures["opened"] = [hold("large", Path(folder, "sent.db")) for _ in range(rounds)]
        figures["opened-unsent"] = [hold("large", Path(folder, "unsent.db")) for _ in range(rounds)]
        doc: Doc[Text] = Doc()
        type_session(doc.get("text", type=Text), patches)
        update = Path(folder, "paper.update")
        update.write_bytes(doc.get_update())
        figures["memory"] = [hold("replica", file) / hold("bare", update)]
        figures["document"] = [hold("many", Path(folder, "many.db"))]
    return figures


if __name__ == "__main__":
    if sys.argv[1] == "replica":
        asyncio.run(hold_open(sys.argv[2]))
    elif sys.argv[1] == "many":
        asyncio.run(hold_many(sys.argv[2]))
    elif sys.argv[1] == "large":
        asyncio.run(open_large(sys.argv[2]))
    elif sys.argv[1] == "bare":
        hold_bare(sys.argv[2])
    else:
        print(json.dumps(measure(int(sys.argv[1]))))
