"""The examples of applications that the server is mounted in, as processes of uvicorn."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from ds_sync.cli.ports import pick_port

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = "a key"
READ_KEY = "a key to read"
APPLICATIONS = {"in_fastapi": "app:app", "in_django": "asgi:application"}


class Site:
    """An example, served by uvicorn."""

    def __init__(self, example: str, data: Path, *, pings: tuple[float, float] = (2, 5)) -> None:
        """`pings`: seconds between those to a WebSocket client, and for its answer."""
        self.port = pick_port()
        self.example = example
        self.data = data
        self.url = f"http://127.0.0.1:{self.port}"
        self.pings = ("--ws-ping-interval", str(pings[0]), "--ws-ping-timeout", str(pings[1]))
        self.start()

    def start(self) -> None:
        options = ("--port", str(self.port), "--timeout-graceful-shutdown", "1", "--log-level", "warning", *self.pings)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", APPLICATIONS[self.example], *options],
            cwd=EXAMPLES / self.example,
            env={
                **os.environ,
                "SYNC_DATA": str(self.data),
                "SYNC_KEY": KEY,
                "SYNC_READ_KEY": READ_KEY,
                "DJANGO_SETTINGS_MODULE": "settings",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(600):
            try:
                httpx.get(self.url)
                return
            except httpx.TransportError:
                assert self._process.poll() is None, self._process.communicate()
                time.sleep(0.05)
        raise AssertionError("the example did not start")

    def stop(self, number: int = signal.SIGTERM) -> str:
        """End it; return what it wrote to standard error."""
        self._process.send_signal(number)
        return self._process.communicate(timeout=20)[1]
