"""A real server in a process of its own, for tests that speak HTTP to it or kill it."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from ds_sync.cli.ports import pick_port

START_SECONDS = 30.0


class ServerProcess:
    """`python -m ds_sync.cli.serve`, started by the constructor or `start`, ended by leaving the `with` block.

    `data` None keeps streams in memory. A server started again on the same `ServerProcess` keeps its port, so that clients
    find it where it was. Raises RuntimeError, with what the server wrote, if it does not come up.
    """

    def __init__(
        self, data: str | os.PathLike[str] | None = None, *, long_poll_timeout: float = 30.0, port: int = 0, options: tuple[str, ...] = ()
    ) -> None:
        self._data = None if data is None else Path(data)
        self._options = ("--long-poll-timeout", str(long_poll_timeout), *options)
        self._process: subprocess.Popen[str] | None = None
        self.port = port or pick_port()
        self.start()

    @property
    def url(self) -> str:
        """Where it serves, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process to kill."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it accepts requests."""
        if self._process is not None:
            raise RuntimeError("the server is running")
        storage = ("--memory",) if self._data is None else ("--data", str(self._data))
        command = [sys.executable, "-m", "ds_sync.cli.serve", "--port", str(self.port), *storage, *self._options]
        # A file, not a pipe: nobody reads along, and a full pipe would stop the server.
        with tempfile.TemporaryFile("w+") as errors:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
            line = self._first_line(self._process)
            if not line.startswith("ds-sync serving http://"):
                self._end("kill")
                errors.seek(0)
                raise RuntimeError(f"the server did not start: {line}{errors.read()}")

    def kill(self) -> None:
        """SIGKILL."""
        self._end("kill")

    def terminate(self) -> int:
        """SIGTERM; return the exit code."""
        return self._end("terminate")

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self.kill()

    def _end(self, how: str) -> int:
        if self._process is None:
            raise RuntimeError("the server is not running")
        process, self._process = self._process, None
        getattr(process, how)()
        process.communicate(timeout=START_SECONDS)
        return process.returncode

    @staticmethod
    def _first_line(process: subprocess.Popen[str]) -> str:
        if process.stdout is None:
            raise AssertionError("stdout is a pipe")
        deadline = time.monotonic() + START_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(deadline - time.monotonic()):
                return ""
        return process.stdout.readline()
