"""A real server on SQLite, ended by SIGKILL around its wakes: none is lost, and no generation is leased twice."""

from __future__ import annotations

import json
import random
import threading
import time
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.kills

KILLS = 5
STREAMS = ("events/a", "events/b", "events/c")
LEASE_MS = 1000


class Receiver(ThreadingHTTPServer):
    """Notes what arrives, and answers as `plan` says: "kill" kills the server first, "done" is done, "fail" refuses."""

    daemon_threads = True

    def __init__(self, server: ServerProcess) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.process = server
        self.plan: list[str] = []
        self.killed = threading.Event()
        self.wakes: dict[int, set[str]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def kill(self) -> None:
        if not self.killed.is_set():
            self.process.kill()
            self.killed.set()


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        wake = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.wakes.setdefault(wake["generation"], set()).add(wake["wake_id"])
        step = self.server.plan.pop(0) if self.server.plan else "done"
        if step == "kill":
            self.server.kill()
        body = b'{"done": true}' if step != "fail" else b""
        self.send_response(200 if body else 503)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # its reader is dead

    def log_message(self, format: str, *args: Any) -> None:
        return


def ask(server: ServerProcess, method: str, path: str, body: object = None, token: str = "") -> tuple[int, dict[str, str], Any]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
        connection.request(method, f"/v1/stream/{path}", b"" if body is None else json.dumps(body).encode(), headers)
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(data) if data else None
    finally:
        connection.close()


def work(server: ServerProcess, leases: list[int], *, finish: bool = True) -> None:
    """A worker's round: claim, acknowledge."""
    status, _, wake = ask(server, "POST", "__ds/subscriptions/pull/claim", {"worker": "w"})
    if status != 200:
        assert wake["error"]["code"] in ("ALREADY_CLAIMED", "NO_PENDING_WORK")
        return
    leases.append(wake["generation"])
    if finish:
        acks = [{"stream": stream["path"], "offset": stream["tail_offset"]} for stream in wake["streams"]]
        body = {"wake_id": wake["wake_id"], "generation": wake["generation"], "acks": acks, "done": True}
        ask(server, "POST", "__ds/subscriptions/pull/ack", body, wake["token"])


def find_unread(server: ServerProcess) -> dict[str, str]:
    unread = {}
    tails = {path: ask(server, "HEAD", path)[1]["stream-next-offset"] for path in STREAMS}
    for name in ("pull", "hook"):
        _, _, found = ask(server, "GET", f"__ds/subscriptions/{name}")
        acked = {stream["path"]: stream["acked_offset"] for stream in found["streams"]}
        unread |= {f"{name} {path}": tail for path, tail in tails.items() if acked.get(path) != tail}
    return unread


def test_no_wake_is_lost_and_no_generation_is_leased_twice(tmp_path: Path) -> None:
    rng = random.Random(7)
    leases: list[int] = []
    with ServerProcess(tmp_path / "streams.db", options=("--allow-http-webhooks",)) as server, Receiver(server) as receiver:
        threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        ask(server, "PUT", "wakes")
        for path in STREAMS:
            ask(server, "PUT", path)
        common = {"pattern": "events/*", "lease_ttl_ms": LEASE_MS}
        hook = {**common, "type": "webhook", "webhook": {"url": receiver.url}}
        assert ask(server, "PUT", "__ds/subscriptions/hook", hook)[0] == 201
        assert ask(server, "PUT", "__ds/subscriptions/pull", {**common, "type": "pull-wake", "wake_stream": "wakes"})[0] == 201
        _, _, keys = ask(server, "GET", "__ds/jwks.json")
        for number in range(KILLS):
            receiver.killed.clear()
            receiver.plan = ["fail", "kill"] if number % 4 == 0 else ["kill"] if number % 4 == 1 else []
            killer = threading.Timer(rng.uniform(0.0, 0.05) if number % 4 >= 2 else 3.0, receiver.kill)
            try:
                assert ask(server, "POST", rng.choice(STREAMS), [number])[0] == 204
                killer.start()
                while not receiver.killed.is_set():
                    work(server, leases, finish=rng.random() < 0.9)
                    if number % 4 == 3:
                        ask(server, "POST", rng.choice(STREAMS), [number])
            except (OSError, HTTPException):
                killer.join()  # the server died in the middle of a request
            killer.cancel()
            assert receiver.killed.wait(5)
            server.start()
        receiver.plan = []
        deadline = time.monotonic() + 20
        while find_unread(server):
            assert time.monotonic() < deadline, f"a wake was lost: {find_unread(server)}"
            work(server, leases)
            time.sleep(0.05)
        assert ask(server, "GET", "__ds/jwks.json")[2] == keys
        receiver.shutdown()
    assert len(leases) == len(set(leases)), "a generation was claimed twice"
    assert all(len(wakes) == 1 for wakes in receiver.wakes.values()), "a generation was delivered as two wakes"
    assert len(receiver.wakes) >= 3
