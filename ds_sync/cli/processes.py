"""Children of the command line: replicas and servers as real processes that can be killed and started again."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ds_sync.cli.ports import pick_port
from ds_sync.exceptions import DsSyncError

START_SECONDS = 30.0


class ChildError(DsSyncError):
    """A process of ours did not do its part."""


def run_module(module: str, *arguments: str) -> list[str]:
    """Return the command that is `python -m <module> <arguments>`."""
    return [sys.executable, "-m", module, *arguments]


class Child:
    """A command, run in `folder` or here, which writes JSON lines and may be given some."""

    def __init__(self, name: str, command: Sequence[str], folder: Path | None = None) -> None:
        self.name = name
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, encoding="utf-8"
        )
        self._killed = False
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def reports(self) -> list[dict[str, Any]]:
        """Return what it wrote since the last call. Raises ChildError if it ended with a failure, and not by `kill`."""
        failed = not self._killed and self._process.poll() not in (None, 0)
        found = []
        while True:
            try:
                found.append(json.loads(self._lines.get_nowait()))
            except queue.Empty:
                break
            except ValueError:
                continue  # a line cut by SIGKILL
        if failed and not found:
            raise ChildError(f"{self.name} failed: {self.complaint()}")
        return found

    def next_line(self, timeout: float = START_SECONDS) -> str:
        """Return its next line. Raises ChildError if none comes within `timeout` seconds, or ever."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise ChildError(f"{self.name} said nothing for {timeout:g} s: {self.complaint()}") from None
        if not line:
            raise ChildError(f"{self.name} ended: {self.complaint()}")
        return line

    def tell(self, request: dict[str, Any]) -> None:
        """Send one JSON line. Raises ChildError if the process is gone."""
        if self._process.stdin is None:
            raise AssertionError("stdin is a pipe")
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildError(f"{self.name} is gone: {self.complaint()}") from None

    def ask(self, request: dict[str, Any], timeout: float = START_SECONDS) -> dict[str, Any]:
        """Send one JSON line and return the one that answers it."""
        self.tell(request)
        answer: dict[str, Any] = json.loads(self.next_line(timeout))
        return answer

    def complaint(self) -> str:
        """Return the last line it wrote to standard error."""
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else "it gave no reason"

    def kill(self) -> None:
        """SIGKILL, and read to the end what it had written."""
        self._killed = True
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def close(self) -> None:
        """Kill it if it runs, and release its pipes."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # what it was never to read
                    continue

    def _read(self) -> None:
        if self._process.stdout is None:
            raise AssertionError("stdout is a pipe")
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")  # the end, for who waits


class Server:
    """Our own server on one file and one port, however often it is killed."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._port = pick_port()
        self._child: Child | None = None
        self.start()

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it on the port it had, and return when it serves."""
        child = Child("the server", run_module("ds_sync.cli.serve", "--port", str(self._port), "--data", str(self._data)))
        deadline = time.monotonic() + START_SECONDS
        line = ""
        while not line.startswith("ds-sync serving http://"):
            if time.monotonic() > deadline or not child.alive:
                complaint = child.complaint()
                child.close()
                raise ChildError(f"the server did not start: {complaint}")
            try:
                line = child.next_line(0.2)
            except ChildError:
                continue
        self._child = child

    def kill(self) -> None:
        """SIGKILL."""
        if self._child is not None:
            self._child.close()
            self._child = None
