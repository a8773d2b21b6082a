"""Raw bytes on a socket to a real `ds-sync serve`."""

from __future__ import annotations

import collections
import contextlib
import random
import re
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

import corpus
import crowds
import leases
from findings import HANG_SECONDS, Finding
from mutator import mutate
from server_watch import ServerWatch

from ds_sync.testing.server_process import ServerProcess

ALLOWED_5XX = {501, 503, 505, 507}
"""501 and 505 are for a transfer coding or a version of HTTP that is not known: they say what the client did."""

LIFE = 4000
"""Inputs after which the server is ended by SIGTERM and started again."""

ANSWER_SECONDS = 0.04
"""Without an answer for so long, an input is taken for the beginning of a request: its end is said, and the server has to let go."""

KNOWN: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "plain": ("application/octet-stream", lambda text: text),
    "json": ("application/json", lambda text: b'["%s"]' % text),
    "docs/d/.updates": ("application/octet-stream", lambda text: b"\x28" + text),
}
"""Streams that must stay as they are: what they hold, and a body with 40 characters of text."""

_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[^\r\n]*\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.IGNORECASE)


class HttpTarget:
    """A server of its own process, and streams beside the fuzzed ones that must stay as they are."""

    share = 3.0

    def __init__(self, engine: str) -> None:
        self.name = f"http-{engine}"
        self.statuses: collections.Counter[int] = collections.Counter()
        self._engine = engine
        self._count = 0
        self._known: dict[str, list[bytes]] = {}

    def open(self, folder: Path) -> None:
        self._data = folder / "server.db" if self._engine == "sqlite" else None
        self._leases = leases.Leases()
        self._start()

    def make(self, rng: random.Random) -> bytes:
        if rng.random() < 0.002:
            return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + mutate(rng, b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" * 3)
        if rng.random() < 0.04:
            return crowds.make_crowd(rng)
        if rng.random() < 0.15:
            data = leases.make_request(rng)
            return mutate(rng, data, corpus.WORDS, most=2) if rng.random() < 0.5 else data
        data = corpus.make_request(rng)
        if rng.random() < 0.2:
            data += corpus.make_request(rng)
        return mutate(rng, data, corpus.WORDS) if rng.random() < 0.5 else data

    def check(self, data: bytes) -> None:
        self._count += 1
        data = self._leases.fill(data, self._call)
        for status in (crowds.exchange_all if crowds.is_crowd(data) else exchange)(self._server.port, data):
            self.statuses[status] += 1
            if status >= 500 and status not in ALLOWED_5XX:
                raise Finding(f"{status}; the log says: {self._watch.log()[-2000:]}")
        if self._count % 50 == 0:
            self._look_after()
        if self._count % LIFE == 0:
            self._end()
            self._start()

    def close(self) -> None:
        self._leases.close()
        self._end()

    def _start(self) -> None:
        options = ("--max-body", str(1024 * 1024), "--max-connections", str(crowds.MAX_CONNECTIONS), "--allow-http-webhooks")
        self._server = ServerProcess(self._data, long_poll_timeout=0.3, options=options)
        self._watch = ServerWatch(self._server)
        if self._data is None:
            self._known = {}
        self._prefix = f"/v1/stream/intact-{secrets.token_hex(4)}"
        for name, (kind, _) in KNOWN.items():
            self._call("PUT", f"{self._prefix}/{name}", {"Content-Type": kind}, expected=201)
            self._known[f"{self._prefix}/{name}"] = []
        self._prepare()
        self._seq = 0

    def _end(self) -> None:
        """Require all that is known, a log without errors, and an orderly end."""
        self._look_after()
        for path, bodies in self._known.items():
            status, content = self._call("GET", f"{path}?offset=-1")
            stored = b"[" + b",".join(body[1:-1] for body in bodies) + b"]" if path.endswith("/json") else b"".join(bodies)
            if (status, content) != (200, stored):
                raise Finding(f"{path} has {len(content)} bytes that are not the {len(stored)} stored ones (status {status})")
        self._watch.end()

    def _look_after(self) -> None:
        """Append to the known streams, and require that the server is well."""
        for name, (kind, build) in KNOWN.items():
            body = build(secrets.token_hex(20).encode())
            producer = {"Producer-Id": "keeper", "Producer-Epoch": "0", "Producer-Seq": str(self._seq)}
            self._call("POST", f"{self._prefix}/{name}", {"Content-Type": kind, **producer}, body, expected=200)
            self._known[f"{self._prefix}/{name}"].append(body)
        self._seq += 1
        if self._count % 100 == 0:
            self._prepare()

    def _prepare(self) -> None:
        for method, path, headers, body in corpus.SETUP:
            self._call("DELETE", path)
            self._call(method, path, headers, body)
        self._leases.prepare(self._call)

    def _call(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"", *, expected: int | None = None
    ) -> tuple[int, bytes]:
        status, content = self._watch.call(method, path, headers or {}, body)
        if expected is not None and status != expected:
            raise Finding(f"{method} {path} was answered {status} and not {expected}: {content[:300]!r}")
        return status, content


def exchange(port: int, data: bytes) -> list[int]:
    """Send `data`; return the statuses of the answers. Raises Finding if the server neither answers nor hangs up."""
    until = time.monotonic() + HANG_SECONDS
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS) as connection:
        received = b""
        try:
            connection.sendall(data)
            connection.settimeout(0.7 if b"long-poll" in data else ANSWER_SECONDS)
            try:
                part = connection.recv(1 << 20)
            except TimeoutError:
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(HANG_SECONDS)
                part = connection.recv(1 << 20)
            while part:
                received += part
                if time.monotonic() > until:
                    raise Finding("a hang: the answer does not end")
                if _is_whole(received, head=data.startswith(b"HEAD")):
                    return _statuses(received + _read_more(connection, data))
                connection.settimeout(HANG_SECONDS)
                part = connection.recv(1 << 20)
        except TimeoutError:
            raise Finding(f"a hang: neither an answer nor a hang-up after {HANG_SECONDS} s; received {received[:200]!r}") from None
        except ConnectionError:
            pass  # its right
    return _statuses(received)


def _read_more(connection: socket.socket, data: bytes) -> bytes:
    """Return what comes at once after a whole answer, if there was more than one request."""
    more = b""
    if data.count(b" HTTP/1.1\r\n") > 1:
        connection.settimeout(ANSWER_SECONDS)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while len(more) < 1 << 20 and (part := connection.recv(1 << 16)):
                more += part
    return more


def _statuses(received: bytes) -> list[int]:
    return [int(status) for status in _STATUS.findall(received)] if received.startswith(b"HTTP/1.") else []


def _is_whole(received: bytes, *, head: bool) -> bool:
    """Whether the first answer is there; of one without an end (SSE, HTTP/2), its beginning."""
    at, found = received.find(b"\r\n\r\n"), None
    if not received.startswith(b"HTTP/1."):
        return True
    if at < 0:
        return False
    if received[9:12] in (b"100", b"101"):
        return True
    found = _LENGTH.search(received[: at + 2])
    return found is None or head or len(received) >= at + 4 + int(found[1])
