"""The servers that are measured: ours, and the reference server in both its modes; each in a process of its own."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ds_sync.testing.server_process import START_SECONDS, ServerProcess

HERE = Path(__file__).parent
INTEROP = HERE.parent / "interop"

LONG_POLL_SECONDS = 120.0
"""Longer than anything here waits."""

OURS = "ds-sync"
OURS_MEMORY = "ds-sync, memory"
FILES = "reference, files"
MEMORY = "reference, memory"

FSYNCS = {OURS: True, OURS_MEMORY: False, FILES: True, MEMORY: False}
"""Every server here, and whether it fsyncs an append before it answers it."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that serves."""

    name: str
    port: int
    pid: int

    def cpu(self) -> float:
        """Return the seconds of processor time it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Return the bytes it has in memory now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize()


@contextmanager
def serving(name: str, folder: Path, node: str | None) -> Iterator[Running]:
    """Run one of the servers of `FSYNCS`, with its data in `folder`, which is empty."""
    folder.mkdir(parents=True)
    if name in (OURS, OURS_MEMORY):
        data = folder / "streams.db" if name == OURS else None
        with ServerProcess(data, long_poll_timeout=LONG_POLL_SECONDS) as server:
            yield Running(name, server.port, server.pid)
        return
    if node is None:
        raise AssertionError("the reference server needs Node.js")
    where = str(folder) if name == FILES else ""
    command = [node, "reference-server.mjs", "0", where, str(round(LONG_POLL_SECONDS * 1000))]
    with _started(name, command, INTEROP) as running:
        yield running


@contextmanager
def serving_nothing() -> Iterator[Running]:
    """Run the server that answers everything and does nothing."""
    with _started("nothing", [sys.executable, str(HERE / "trivial_server.py")], HERE) as running:
        yield running


@contextmanager
def _started(name: str, command: list[str], folder: Path) -> Iterator[Running]:
    # A file, not a pipe: the reference server logs there, and nobody reads along.
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield Running(name, _wait_for_port(name, process, output), process.pid)
        finally:
            process.kill()
            process.wait()


def _wait_for_port(name: str, process: subprocess.Popen[bytes], output: IO[str]) -> int:
    deadline = time.monotonic() + START_SECONDS
    while True:
        output.seek(0)
        printed = output.read()
        if (url := re.search(r"^http://[^:\s]+:(\d+)$", printed, re.MULTILINE)) is not None:
            return int(url[1])
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not start: {printed}")
        time.sleep(0.02)
