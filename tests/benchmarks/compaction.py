"""What a server's appends cost while it makes a snapshot of a document with a long log; used by rooms.py.

Two servers on copies of one file, in alternating rounds: one makes snapshots, and is told to by an update; the other makes none. The
appends that are timed go to other streams.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import httpx
from bench import FailedError, run_load
from pycrdt import Doc, Text
from room_wire import build_string
from rows import Bar, Line
from servers import OURS, Running

from ds_sync.testing.server_process import ServerProcess

WITHOUT = f"{OURS}, no compaction"

FSYNCS = {OURS: "before the answer", WITHOUT: "before the answer"}

LINES = tuple(
    Line(f"append {figure} while a document with a log of 100 MB is compacted", figure, "ms", 1000, higher=False, bars=bars)
    for figure, bars in (("p50", ()), ("p99", (Bar(2, WITHOUT),)))
)

DOCUMENT = "/v1/yjs/bench/docs/long"

UPDATE_CHARACTERS = 1_000

BODY_UPDATES = 1_000
"""Updates in one request."""

NEVER, SOON = ("--compact-after", "0"), ("--compact-after", "65536")


def fill(file: Path, size: int) -> None:
    """Make a server's file with a document whose log has so many bytes."""
    doc: Doc[Text] = Doc()
    text = doc.get("text", type=Text)
    frames: list[bytes] = []
    subscription = doc.observe(lambda event: frames.append(build_string(event.update)))
    with ServerProcess(file, options=NEVER) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        client.put(DOCUMENT, headers={"content-type": "application/octet-stream"}).raise_for_status()
        for number in range(size // UPDATE_CHARACTERS):
            text.insert(0, f"{number:0{UPDATE_CHARACTERS}d}")  # appending would look for the end each time
            if len(frames) == BODY_UPDATES:
                _append(client, b"".join(frames))
                frames.clear()
        server.terminate()
    doc.unobserve(subscription)


def measure_compaction(folder: Path, *, rounds: int, seconds: float, size: int) -> dict[str, list[dict[str, Any]]]:
    """Return the load generator's results, by whether the server compacted meanwhile. Raises FailedError if it was not still at it."""
    folder.mkdir(parents=True)
    fill(folder / "filled.db", size)
    results: dict[str, list[dict[str, Any]]] = {OURS: [], WITHOUT: []}
    for number in range(rounds):
        for name, options in ((OURS, SOON), (WITHOUT, NEVER)):
            file = folder / f"{number}-{options[1]}.db"
            shutil.copy(folder / "filled.db", file)
            with ServerProcess(file, options=options) as server, httpx.Client(base_url=server.url, timeout=60) as client:
                began = time.monotonic()
                _append(client, build_string(_write_once()))
                job = {"kind": "append", "connections": 8, "streams": 8, "seconds": seconds, "path": "/v1/stream/other"}
                results[name].append(run_load(Running(name, server.port, server.pid), job))
                if name == OURS:
                    if _is_compacted(client):
                        raise FailedError(f"the document was compacted within {seconds} s: its log is too short for this measurement")
                    while not _is_compacted(client):
                        if time.monotonic() - began > 120:
                            raise FailedError("the document was not compacted within 120 s")
                        time.sleep(0.2)
                    results[name][-1]["compaction"] = time.monotonic() - began
            file.unlink()
    return results


def _append(client: httpx.Client, frames: bytes) -> None:
    client.post(DOCUMENT, content=frames, headers={"content-type": "application/octet-stream"}).raise_for_status()


def _write_once() -> bytes:
    doc: Doc[Text] = Doc()
    text = doc.get("text", type=Text)
    text += "and one more"
    return doc.get_update()


def _is_compacted(client: httpx.Client) -> bool:
    answer = client.get(DOCUMENT, params={"offset": "snapshot"})
    if answer.status_code != 307:
        raise FailedError(f"the document was answered {answer.status_code}")
    return "snapshot" in answer.headers["location"].rpartition("_")[2]
