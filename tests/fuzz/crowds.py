"""Several connections at once: requests beside each other, in one go, half-closed at once, and more connections than are taken."""

from __future__ import annotations

import contextlib
import random
import re
import selectors
import socket
import time

import corpus
from findings import HANG_SECONDS, Finding
from mutator import mutate

BESIDE = b"\n@@BESIDE@@\n"
"""Between what goes over one connection and what goes over the next."""

HALF = b"@@HALF@@"
"""At the end: nothing more is sent, and that is said at once."""

FLOOD = b"@@FLOOD@@"
"""Before the connections of the input come as many that ask for nothing as the server takes, and some more."""

MAX_CONNECTIONS = 60
"""What the server takes at a time."""

QUIET_SECONDS = 0.05
"""After which the end of all requests is said."""

_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[^\r\n]*\r\n")


def make_crowd(rng: random.Random) -> bytes:
    """Return two to eight connections; a fifth of the requests is damaged."""
    connections = []
    for _ in range(rng.choice((2, 4, 8))):
        requests = b"".join(corpus.make_request(rng) for _ in range(rng.choice((1, 1, 2, 10))))
        if rng.random() < 0.2:
            requests = mutate(rng, requests, corpus.WORDS)
        connections.append(requests + (HALF if rng.random() < 0.3 else b""))
    return (FLOOD if rng.random() < 0.1 else b"") + BESIDE.join(connections)


def is_crowd(data: bytes) -> bool:
    """Whether an input is one of these."""
    return BESIDE in data


def exchange_all(port: int, data: bytes) -> list[int]:
    """Send all of it at once; return the statuses of the answers. Raises Finding if a connection is neither answered nor ended."""
    try:
        return _exchange_all(port, data)
    finally:
        if data.startswith(FLOOD):
            _wait_for_room(port)


def _exchange_all(port: int, data: bytes) -> list[int]:
    with contextlib.ExitStack() as idle, contextlib.ExitStack() as talking, selectors.DefaultSelector() as selector:
        if data.startswith(FLOOD):
            for _ in range(MAX_CONNECTIONS + 10):
                idle.enter_context(socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS))
        received: dict[socket.socket, bytes] = {}
        for part in data.removeprefix(FLOOD).split(BESIDE):
            connection = talking.enter_context(socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS))
            received[connection] = b""
            selector.register(connection, selectors.EVENT_READ)
            with contextlib.suppress(OSError):  # it may have hung up: its right
                connection.sendall(part.removesuffix(HALF))
                if part.endswith(HALF):
                    connection.shutdown(socket.SHUT_WR)
        _listen(selector, received, QUIET_SECONDS)
        for connection in received:
            with contextlib.suppress(OSError):  # it has ended
                connection.shutdown(socket.SHUT_WR)
        until = time.monotonic() + HANG_SECONDS
        while selector.get_map():
            if time.monotonic() > until:
                left = [received[key.fileobj] for key in selector.get_map().values() if isinstance(key.fileobj, socket.socket)]
                raise Finding(f"a hang: {len(left)} connections have no end after {HANG_SECONDS} s; received {left[0][:200]!r}")
            _listen(selector, received, 0.2)
        return [int(status) for answers in received.values() for status in _STATUS.findall(answers) if answers.startswith(b"HTTP/1.")]


def _wait_for_room(port: int) -> None:
    """Return when the server takes connections again, after those of a flood have ended."""
    until = time.monotonic() + HANG_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if connection.recv(1000).startswith(b"HTTP/1.1 200"):
                return
        time.sleep(0.01)
    raise Finding(f"{HANG_SECONDS} s after a flood of connections has ended, no more are taken")


def _listen(selector: selectors.BaseSelector, received: dict[socket.socket, bytes], seconds: float) -> None:
    """Read until nothing has come for so long, or all have ended. A stream of events is left once it has begun."""
    while selector.get_map() and (ready := selector.select(seconds)):
        for key, _ in ready:
            connection = key.fileobj
            if not isinstance(connection, socket.socket):
                raise AssertionError("only sockets are registered")
            try:
                part = connection.recv(1 << 18)
            except ConnectionError:
                part = b""
            received[connection] += part
            if not part or b"text/event-stream" in part:
                selector.unregister(connection)
