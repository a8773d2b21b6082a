"""Lines for the client adapter (`python -m ds_sync.testing.client_adapter`): one answer each, in time, from a process that lives."""

from __future__ import annotations

import collections
import json
import random
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from findings import Finding
from mutator import mutate

from ds_sync.testing.server_process import ServerProcess

ADAPTER: tuple[str, ...] = (sys.executable, "-m", "ds_sync.testing.client_adapter")

LINE_SECONDS = 30.0
"""What the suite waits for an answer."""

LIFE = 150
"""Lines after which the adapter is told to shut down."""

PATH = "/v1/stream/fuzz/adapter"

COMMANDS: list[dict[str, Any]] = [
    {"type": "create", "path": PATH, "contentType": "text/plain"},
    {"type": "create", "path": PATH, "contentType": "application/json", "ttlSeconds": 60, "data": "[1]"},
    {"type": "create", "path": PATH, "expiresAt": "2999-01-01T00:00:00Z", "closed": False, "headers": {"x": "y"}},
    {"type": "connect", "path": PATH},
    {"type": "append", "path": PATH, "data": "hello", "seq": 1},
    {"type": "append", "path": PATH, "data": "aGVsbG8=", "binary": True},
    {"type": "read", "path": PATH, "offset": "-1", "maxChunks": 2},
    {"type": "read", "path": PATH, "live": "long-poll", "timeoutMs": 20, "waitForUpToDate": True},
    {"type": "read", "path": PATH, "live": "sse", "timeoutMs": 20, "offset": "now"},
    {"type": "read", "path": PATH, "live": "auto", "timeoutMs": 20},
    {"type": "head", "path": PATH},
    {"type": "delete", "path": PATH},
    {"type": "close", "path": PATH, "data": "end"},
    {"type": "idempotent-append", "path": PATH, "producerId": "p", "epoch": 0, "data": "x"},
    {
        "type": "idempotent-append-batch",
        "path": PATH,
        "producerId": "q",
        "epoch": 0,
        "autoClaim": True,
        "maxInFlight": 2,
        "items": ["a", "b"],
    },
    {"type": "idempotent-close", "path": PATH, "producerId": "p", "epoch": 0, "data": "x"},
    {"type": "idempotent-detach", "path": PATH, "producerId": "p", "epoch": 0},
    {"type": "set-dynamic-header", "name": "x-a", "valueType": "counter"},
    {"type": "set-dynamic-param", "name": "a", "valueType": "token", "initialValue": "t"},
    {"type": "clear-dynamic"},
    {"type": "validate", "target": {"target": "retry-options", "maxRetries": 3, "initialDelayMs": 10, "maxDelayMs": 20, "multiplier": 2.0}},
    {"type": "validate", "target": {"target": "idempotent-producer", "epoch": 0, "maxBatchBytes": 10, "maxBatchItems": 1}},
    {"type": "nonsense"},
]

VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        1e308,
        float("nan"),
        float("inf"),
        2**53,
        2**64,
        10**400,
        "",
        "\ud800",
        "é😀",
        "\r\n",
        "\x00",
        "x" * 5000,
    ),
    *([], [1], [[]], {}, {"a": {}}, {"\r\n": "\r\n"}, {"x": 1}, [None], PATH, "http://[::1", "//example.invalid/x", "?", "#", "-1", "now"),
]


def make_line(rng: random.Random) -> bytes:
    """Return a command with a wrong value, without a value, or damaged; sometimes a whole one."""
    command = dict(rng.choice(COMMANDS))
    kind = rng.randrange(5)
    if kind == 0:
        command[rng.choice([*command, "headers", "seq", "offset", "timeoutMs", "maxChunks"])] = rng.choice(VALUES)
    elif kind == 1:
        command.pop(rng.choice(list(command)))
    elif kind == 2 and isinstance(command.get("target"), dict):
        command["target"] = {**command["target"], rng.choice(list(command["target"])): rng.choice(VALUES)}
    line = json.dumps(command, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return mutate(rng, line, [b'"type":', b'"read"', b"null", b"{}", b"[]"], most=3) if kind == 3 else line


class AdapterTarget:
    """The adapter in a process of its own, and a server for it to ask."""

    name = "adapter"
    share = 1.0

    def open(self, folder: Path) -> None:
        self._server = ServerProcess(long_poll_timeout=0.2)
        self._adapter: subprocess.Popen[bytes] | None = None
        self._count = 0
        self.statuses: collections.Counter[str] = collections.Counter()

    def make(self, rng: random.Random) -> bytes:
        return make_line(rng)

    def check(self, data: bytes) -> None:
        line = data.replace(b"\n", b" ").replace(b"\r", b" ")
        adapter = self._adapter or self._start()
        self._count += 1
        if line.strip():
            self._ask(adapter, line)
        # The line may have been a shutdown, and then the end is right.
        if b"shutdown" not in line and adapter.poll() is not None:
            self._adapter = None
            raise Finding(f"the adapter has ended with {adapter.returncode}")
        if self._count % LIFE == 0 or b"shutdown" in line:
            self._shut_down()

    def close(self) -> None:
        try:
            if self._adapter is not None:
                self._shut_down()
        finally:
            self._kill()
            self._server.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        self._adapter = subprocess.Popen(ADAPTER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._ask(self._adapter, json.dumps({"type": "init", "serverUrl": self._server.url}).encode())
        return self._adapter

    def _shut_down(self) -> None:
        """Require that it ends by itself."""
        adapter = self._adapter
        if adapter is None:
            raise AssertionError("there is one")
        try:
            if adapter.poll() is None:
                self._ask(adapter, b'{"type":"shutdown"}')
            code = adapter.wait(timeout=LINE_SECONDS)
        except subprocess.TimeoutExpired:
            raise Finding(f"a hang: the adapter was told to shut down {LINE_SECONDS} s ago") from None
        finally:
            self._kill()
        if code:
            raise Finding(f"the adapter ended with {code}")

    def _kill(self) -> None:
        if self._adapter is not None:
            self._adapter.kill()
            self._adapter.communicate()
            self._adapter = None

    def _ask(self, adapter: subprocess.Popen[bytes], line: bytes) -> None:
        """Send a line; require one answer."""
        if adapter.stdin is None or adapter.stdout is None:
            raise AssertionError("both are pipes")
        try:
            adapter.stdin.write(line + b"\n")
        except BrokenPipeError:
            raise self._ended(adapter) from None
        answer, until = b"", time.monotonic() + LINE_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(adapter.stdout, selectors.EVENT_READ)
            while not answer.endswith(b"\n"):
                if not selector.select(max(0.0, until - time.monotonic())):
                    self._kill()
                    raise Finding(f"a hang: no answer within {LINE_SECONDS} s")
                part = adapter.stdout.read(1 << 16)
                if not part:
                    raise self._ended(adapter)
                answer += part
        value = json.loads(answer)
        if answer.count(b"\n") != 1 or not isinstance(value, dict) or not isinstance(value.get("success"), bool):
            raise Finding(f"not one answer: {answer[:300]!r}")
        self.statuses[str(value.get("errorCode", "success"))] += 1
        if value["success"] is False and not value.get("errorCode"):
            raise Finding(f"an error without a code: {answer[:300]!r}")
        if value.get("errorCode") == "INTERNAL_ERROR":
            raise Finding(f"an error that nobody expected: {answer[:300]!r}")

    def _ended(self, adapter: subprocess.Popen[bytes]) -> Finding:
        found = Finding(f"the adapter has ended with {adapter.wait(timeout=LINE_SECONDS)}")
        self._kill()
        return found
