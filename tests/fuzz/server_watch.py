"""Looks after a server process under fire: its memory, its log, and its end."""

from __future__ import annotations

import contextlib
import http.client
import os
from collections.abc import Mapping
from pathlib import Path

from findings import HANG_SECONDS, Finding

from ds_sync.testing.server_process import ServerProcess

GROWTH_LIMIT = 400 * 1024 * 1024
"""Bytes of memory a server may take in one life, what the fuzzer stored included."""


class ServerWatch:
    """From a start to an end."""

    def __init__(self, server: ServerProcess, growth: int = GROWTH_LIMIT) -> None:
        self._server = server
        self._growth = growth
        self._before = self.memory()

    def check(self) -> None:
        """Raise Finding if the server is dead, or has written an error."""
        if not Path(f"/proc/{self._server.pid}/fd/2").exists():
            raise Finding("the server is dead")
        log = self.log()
        if "ERROR" in log or "Traceback" in log:
            raise Finding(f"the server's log says: {log[-3000:]}")

    def end(self) -> None:
        """Raise Finding unless memory, log and the end by SIGTERM are in order."""
        try:
            grown = self.memory() - self._before
            if grown > self._growth:
                raise Finding(f"the server has grown by {grown / 1e6:.0f} MB")
            self.check()
        except (Finding, OSError):
            self._server.kill()
            raise
        code = self._server.terminate()
        if code:
            raise Finding(f"SIGTERM ended the server with {code}")

    def call(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer. Raises Finding if there is none."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=HANG_SECONDS)) as connection:
            try:
                connection.request(method, path, body, dict(headers))
                answer = connection.getresponse()
                return answer.status, answer.read()
            except OSError as error:
                raise Finding(f"the server is dead, or as good as: {error!r}; its log says: {self.log()[-2000:]}") from error

    def log(self) -> str:
        """Return what it has written, the last megabyte."""
        with open(f"/proc/{self._server.pid}/fd/2", "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return os.pread(file.fileno(), 1 << 20, max(0, size - (1 << 20))).decode(errors="replace")

    def memory(self) -> int:
        """Return the bytes it has in memory."""
        lines = Path(f"/proc/{self._server.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024
