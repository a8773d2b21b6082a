"""Receivers of webhooks that answer with whatever they like; others must get theirs all the same."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import socket
import threading
import time
from pathlib import Path

from findings import HANG_SECONDS, Finding
from mutator import mutate
from server_watch import ServerWatch

from ds_sync.testing.server_process import ServerProcess

LIFE = 1500
"""Inputs after which the server is ended and started again."""

ENDLESS = b"@@ENDLESS@@"
"""What comes after it is repeated until the server hangs up, or for HOLD_SECONDS."""

SLOWLY = b"@@SLOWLY@@"
"""What comes after it comes byte by byte."""

HOLD = b"@@HOLD@@"
"""The connection stays open afterwards."""

HOLD_SECONDS = 0.3

HOSTS = [f"127.0.0.{number}" for number in range(10, 18)]
"""Of the malicious receivers: one host has a limited number of deliveries at a time, so they take turns."""

HEALTHY = "127.0.0.2"

GROWTH_LIMIT = 150 * 1024 * 1024

OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS = [
    *(OK + b'content-length: 13\r\n\r\n{"done":true}', OK + b"content-length: 2\r\n\r\n{}", b"HTTP/1.1 204 No Content\r\n\r\n"),
    *(OK + b'transfer-encoding: chunked\r\n\r\nd\r\n{"done":true}\r\n0\r\n\r\n', b'HTTP/1.0 200 OK\r\n\r\n{"done":true}'),
    *(
        OK + b'content-length: 10\r\n\r\n{"done":1}',
        OK + b"content-length: 5000\r\n\r\n" + b"[" * 5000,
        OK + b"content-length: 9\r\n\r\nabc",
    ),
    *(OK + b"content-length: 99999999999\r\n\r\n" + ENDLESS + b"y" * 4000, OK + b"\r\n" + ENDLESS + b" " * 4000),
    *(OK + b"x: " + ENDLESS + b"z" * 4000, OK + ENDLESS + b"x-many: 1\r\n", ENDLESS + b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"),
    *(
        OK + b"transfer-encoding: chunked\r\n\r\n" + ENDLESS + b"1;x=" + b"y" * 500 + b"\r\n \r\n",
        SLOWLY + OK + b"content-length: 2\r\n\r\n{}",
    ),
    OK + b"transfer-encoding: chunked\r\n\r\n0\r\n" + ENDLESS + b"x-trailer: 1\r\n",
    *(HOLD, OK + HOLD, OK + b"content-length: 5\r\n\r\n{" + HOLD, b"", b"SSH-2.0-OpenSSH_9\r\n", b"\x16\x03\x01\x02\x00" + HOLD),
    *(
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + HOLD,
    ),
    *(
        b"HTTP/1.1 100 Continue\r\n\r\n" + HOLD,
        b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n",
    ),
    *(
        b"HTTP/1.1 429 Too Many\r\nretry-after: 99999999999999999999\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 \r\n\r\n",
    ),
]
WORDS = [
    *(
        ENDLESS,
        SLOWLY,
        HOLD,
        b"\r\n",
        b"\r\n\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"content-length: ",
        b"transfer-encoding: chunked\r\n",
    ),
    *(
        b"HTTP/1.1 999 \r\n",
        b"HTTP/1.1 100 \r\n\r\n",
        b"connection: keep-alive\r\n",
        b"content-encoding: gzip\r\n",
        b'{"done":',
        b"upgrade: x\r\n",
    ),
]


class Receiver(threading.Thread):
    """Listens at an address; answers each connection with `answer`, and notes the subscription it was about. Ended by `close`."""

    def __init__(self, host: str, answer: bytes) -> None:
        super().__init__(daemon=True)
        self.answer = answer
        self._listener = socket.create_server((host, 0), backlog=128)
        self.url = f"http://{host}:{self._listener.getsockname()[1]}/hook"
        self._told: set[str] = set()
        self._news = threading.Condition()
        self._over = False
        self.start()

    def wait_for(self, name: str, seconds: float) -> bool:
        """Whether a delivery for this subscription came."""
        with self._news:
            return self._news.wait_for(lambda: name in self._told, seconds)

    def run(self) -> None:
        while not self._over:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, self.answer), daemon=True).start()

    def close(self) -> None:
        self._over = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.join()

    def _serve(self, connection: socket.socket, answer: bytes) -> None:
        # The server hangs up when it has had enough: that is its right.
        with connection, contextlib.suppress(OSError):
            connection.settimeout(HOLD_SECONDS)
            body = _read_request(connection)
            with self._news:
                self._told.add(str(json.loads(body)["subscription_id"]))
                self._news.notify_all()
            _play(connection, answer)


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < _length(data):
        part = connection.recv(1 << 16)
        if not part:
            raise ConnectionError("the request is not whole")
        data += part
    return data.partition(b"\r\n\r\n")[2]


def _length(data: bytes) -> int:
    return int(data.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])


def _play(connection: socket.socket, answer: bytes) -> None:
    until = time.monotonic() + HOLD_SECONDS
    answer, hold, _ = answer.partition(HOLD)
    answer, endless, repeated = answer.partition(ENDLESS)
    at_once, _, slow = answer.partition(SLOWLY)
    connection.sendall(at_once)
    for byte in slow[:1000]:
        connection.sendall(bytes((byte,)))
        time.sleep(0.005)
        if time.monotonic() > until:
            return
    many = repeated * (64_000 // max(1, len(repeated)) + 1)
    while endless and repeated and time.monotonic() < until:
        connection.sendall(many)
    if hold:
        connection.recv(1)


class HooksTarget:
    """A server of its own process. Each input is what a receiver answers; a second receiver must hear of the same change."""

    name = "hooks"
    share = 2.0

    def open(self, folder: Path) -> None:
        self._count = 0
        self._receivers = [Receiver(host, b"") for host in HOSTS]
        self._turns = itertools.cycle(self._receivers)
        self._healthy = Receiver(HEALTHY, ANSWERS[0])
        self._start()

    def make(self, rng: random.Random) -> bytes:
        answer = rng.choice(ANSWERS)
        return mutate(rng, answer, WORDS)[:200_000] if rng.random() < 0.6 else answer

    def check(self, data: bytes) -> None:
        self._count += 1
        receiver = next(self._turns)
        receiver.answer = data
        names = [f"{kind}-{self._count}" for kind in ("bad", "good")]
        for name, to in zip(names, (receiver, self._healthy), strict=True):
            config = {"type": "webhook", "streams": ["hooks/s"], "webhook": {"url": to.url}, "lease_ttl_ms": 1000}
            self._call("PUT", f"__ds/subscriptions/{name}", json.dumps(config).encode(), "application/json", expected=201)
        self._call("POST", "hooks/s", b"x", "text/plain", expected=204)
        for name, to in zip(names, (receiver, self._healthy), strict=True):
            if not to.wait_for(name, HANG_SECONDS):
                raise Finding(f"the {name.partition('-')[0]} receiver was told nothing within {HANG_SECONDS} s")
        if self._count % 10:
            time.sleep(0.005)  # let the answer be read; the others are broken off by what comes next
        for name in names:
            self._call("DELETE", f"__ds/subscriptions/{name}", expected=204)
        if self._count % 50 == 0:
            self._watch.check()
        if self._count % LIFE == 0:
            self._watch.end()
            self._start()

    def close(self) -> None:
        try:
            self._watch.end()
        finally:
            for receiver in (*self._receivers, self._healthy):
                receiver.close()

    def _start(self) -> None:
        self._server = ServerProcess(options=("--allow-http-webhooks",))
        self._watch = ServerWatch(self._server, GROWTH_LIMIT)
        self._call("PUT", "hooks/s", b"", "text/plain", expected=201)

    def _call(self, method: str, path: str, body: bytes = b"", kind: str = "", *, expected: int) -> None:
        status, content = self._watch.call(method, f"/v1/stream/{path}", {"Content-Type": kind} if kind else {}, body)
        if status != expected:
            raise Finding(f"{method} {path} was answered {status} and not {expected}: {content[:300]!r}")
