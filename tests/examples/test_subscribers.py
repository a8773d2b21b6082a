"""The two subscribers of the examples, as programs: told of each message once, by a server that signs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from ds_sync.testing.server_process import ServerProcess

EXAMPLES = Path(__file__).parents[2] / "examples"


def append(server: ServerProcess, path: str, message: object) -> None:
    for method, body in (("PUT", b""), ("POST", json.dumps([message]).encode())):
        urlopen(Request(f"{server.url}/v1/stream/{path}", body, {"content-type": "application/json"}, method=method)).close()


@contextmanager
def started(program: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program, when it says that it waits, and what it said."""
    command = [sys.executable, str(EXAMPLES / program), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "waiting" in line
            yield process, line
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def is_acknowledged(server: ServerProcess) -> bool:
    with urlopen(f"{server.url}/v1/stream/__ds/subscriptions/pool") as answer:
        return all(stream["acked_offset"] != "-1" for stream in json.load(answer)["streams"])


def test_a_webhook_receiver_is_told_of_each_message_once() -> None:
    receiver = "webhook_receiver.py"
    with ServerProcess(options=("--allow-http-webhooks",)) as server, started(receiver, server.url, "events/*", "0") as (process, line):
        for number in range(3):
            append(server, "events/a%20b", {"number": number})
            assert read_line(process) == f"events/a b {{'number': {number}}}"
        for signature in ("", "t=1,kid=ds_x,ed25519=AAAA", "nonsense"):
            forged = Request(line.split()[-1], b'{"streams": []}', {"webhook-signature": signature})
            with pytest.raises(HTTPError) as refused:
                urlopen(forged)
            assert refused.value.code == 401
            refused.value.close()


def test_workers_share_the_work() -> None:
    with ServerProcess() as server, started("pull_worker.py", server.url, "jobs/*", "one") as (one, _):
        append(server, "jobs/a", 1)
        assert read_line(one) == "one jobs/a 1"
        while not is_acknowledged(server):
            time.sleep(0.02)
        one.kill()
        with started("pull_worker.py", server.url, "jobs/*", "two") as (two, _):
            append(server, "jobs/b", 2)
            assert read_line(two) == "two jobs/b 2"
