"""The servers of rooms that are measured beside ours, each in a process of its own, and what they need."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from servers import HERE, INTEROP, OURS, Running

from ds_sync.testing.server_process import START_SECONDS, ServerProcess

Y_MEMORY = "y-websocket (memory)"
Y_LEVELDB = "y-websocket (LevelDB)"
HOCUSPOCUS = "Hocuspocus"
PYCRDT = "pycrdt-websocket"

ALL = (OURS, Y_MEMORY, Y_LEVELDB, HOCUSPOCUS, PYCRDT)

FSYNCS = {OURS: "before the relay", Y_MEMORY: "never", Y_LEVELDB: "never", HOCUSPOCUS: "2–10 s later", PYCRDT: "after the relay"}
"""When each server fsyncs an update. The sources say so: y-leveldb leaves `sync` off and writes after the relay, Hocuspocus' `debounce` is
2 s and its `maxDebounce` 10 s, both SQLite stores leave `synchronous` FULL, and pycrdt-websocket starts writing beside the relay."""

PEERS = HERE / "peers"
PEERS_PYTHON = PEERS / ".venv" / "bin" / "python"

Y_SERVER = Path("node_modules", "@y", "websocket-server", "src", "server.js")


def find_servers(npm: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return which of those can be measured here, after installing what they need; says what can't be had."""
    missing = {}
    installed = PEERS / "node_modules" / ".package-lock.json"
    if HOCUSPOCUS in wanted and not _is_newer(installed, PEERS / "package-lock.json"):
        # better-sqlite3 is built if nobody has built it for this Node.js; it must run its script.
        missing[HOCUSPOCUS] = _run([*npm, "ci", "--no-audit", "--no-fund"])
    if PYCRDT in wanted and not _is_newer(PEERS_PYTHON.parents[1] / "installed", PEERS / "requirements.txt"):
        missing[PYCRDT] = _run([sys.executable, "-m", "venv", str(PEERS_PYTHON.parents[1])]) or _run(
            [str(PEERS_PYTHON), "-m", "pip", "install", "--quiet", "-r", "requirements.txt"]
        )
        if not missing[PYCRDT]:
            (PEERS_PYTHON.parents[1] / "installed").touch()
    for name, reason in missing.items():
        if reason:
            print(f"missing: {name} is not measured: {reason}", flush=True)
    return tuple(name for name in wanted if not missing.get(name))


@contextmanager
def serving_rooms(name: str, folder: Path, node: str) -> Iterator[Running]:
    """Run one of the servers, with its data in `folder`; SIGKILL at the end, so that it can be run again on what it has stored."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == OURS:
        with ServerProcess(folder / "rooms.db") as server:
            yield Running(name, server.port, server.pid)
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "HOST": "127.0.0.1", "PORT": str(port)}
    if name == Y_LEVELDB:
        environment["YPERSISTENCE"] = str(folder / "level")
    command, where = {
        Y_MEMORY: ([node, str(Y_SERVER)], INTEROP),
        Y_LEVELDB: ([node, str(Y_SERVER)], INTEROP),
        HOCUSPOCUS: ([node, "hocuspocus.mjs", str(port), str(folder / "hocuspocus.db")], PEERS),
        PYCRDT: ([str(PEERS_PYTHON), "pycrdt_server.py", str(port), str(folder / "pycrdt.db")], PEERS),
    }[name]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=where, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_until_serving(name, port, process, output)
            yield Running(name, port, process.pid)
        finally:
            process.kill()
            process.wait()


def find_room(server: str, room: str) -> dict[str, str]:
    """Return where a client of this server finds a room: the path of its WebSocket, and the name around each message."""
    if server == HOCUSPOCUS:
        return {"path": "/", "envelope": room}
    return {"path": f"/v1/ws/bench/{room}" if server == OURS else f"/{room}", "envelope": ""}


def _wait_until_serving(name: str, port: int, process: subprocess.Popen[bytes], output: IO[str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > deadline:
                output.seek(0)
                raise RuntimeError(f"{name} did not start: {output.read()}") from None
            time.sleep(0.02)
        else:
            return


def _is_newer(file: Path, source: Path) -> bool:
    return file.exists() and file.stat().st_mtime >= source.stat().st_mtime


def _run(command: list[str]) -> str:
    """Return why it failed, or nothing."""
    done = subprocess.run(command, cwd=PEERS, capture_output=True, text=True)
    lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if "error" in line.lower()]
    return "" if not done.returncode else (lines or [f"exit code {done.returncode}"])[0].strip()
