"""The other end of the lines: an adapter in a process of its own, for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType
from typing import Any


class AdapterProcess:
    """`python -m ds_sync.testing.client_adapter`, started by the constructor, ended by leaving the `with` block.

    `command` starts another adapter instead.
    """

    def __init__(self, command: tuple[str, ...] | None = None) -> None:
        started = command or (sys.executable, "-m", "ds_sync.testing.client_adapter")
        self._process = subprocess.Popen(started, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, kind: str, /, **fields: Any) -> dict[str, Any]:
        """Send a command and return its answer."""
        self.send(kind, **fields)
        return self.receive()

    def send(self, kind: str, /, **fields: Any) -> None:
        """Send a command, and do not wait."""
        self.send_line(json.dumps({"type": kind, **fields}).encode())

    def send_line(self, line: bytes) -> None:
        """Send what may be no command at all."""
        if self._process.stdin is None:
            raise AssertionError("stdin is a pipe")
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Return the next answer. Raises RuntimeError if the adapter has ended."""
        if self._process.stdout is None:
            raise AssertionError("stdout is a pipe")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the adapter has ended")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise RuntimeError(f"not an answer: {line[:200]!r}")
        return answer

    def wait(self) -> int:
        """Wait for its end; return the exit code."""
        return self._process.wait(timeout=10)

    def __enter__(self) -> AdapterProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()
