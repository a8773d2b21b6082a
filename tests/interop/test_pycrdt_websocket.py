"""Moving from pycrdt-websocket: bridging one of its rooms, and importing what it has stored."""

import asyncio
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from ds_sync_ywebsocket.provider import YWebsocketProvider
from pycrdt import Text

from ds_sync import Replica
from ds_sync.cli.ports import pick_port
from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "peers" / "pycrdt_server.py"
SECONDS = 30.0


@contextmanager
def pycrdt_server(file: Path) -> Iterator[str]:
    """pycrdt-websocket under uvicorn, its rooms in a SQLite file of pycrdt-store; its URL. Killed in the end."""
    port = pick_port()
    process = subprocess.Popen([sys.executable, str(PROGRAM), str(port), str(file)])
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "it did not start"
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.05)
        yield f"ws://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def count_rooms(file: Path) -> int:
    """Of how many rooms something is stored."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(DISTINCT path) FROM yupdates").fetchone()[0])


async def run(*arguments: str) -> str:
    """Run `ds-sync`; return what it says. It must succeed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ds_sync.cli.main", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"COLUMNS": "200"},
    )
    said, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode == 0, said.decode()
    return said.decode()


async def write(url: str, file: Path, words: str) -> None:
    """Write into a room, and wait until its server has it."""
    async with Replica(file) as replica:
        note = await replica.open("note")
        async with YWebsocketProvider(note, url) as provider:
            body = note.doc.get("body", type=Text)
            body += words
            await asyncio.wait_for(provider.synced(), SECONDS)


async def read(server: ServerProcess, document: str, file: Path) -> str:
    """What somebody sees who joins the document on our server."""
    async with Replica(file, server=server.url) as replica:
        note = await replica.open(document)
        body = note.doc.get("body", type=Text)
        await asyncio.wait_for(note.synced(), SECONDS)
        return str(body)


async def test_a_room_and_a_document_are_kept_in_step(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "streams.db") as new, pycrdt_server(tmp_path / "old.db") as old:
        bridge = ("bridge", f"{old}/today", f"{new.url}/v1/yjs/default/docs/note", "--file", str(tmp_path / "bridge.db"), "--once")
        await write(f"{old}/today", tmp_path / "ann.db", "ann ")
        await run(*bridge)
        assert await read(new, "note", tmp_path / "first.db") == "ann "
        async with Replica(tmp_path / "bob.db", server=new.url) as replica:
            note = await replica.open("note")
            body = note.doc.get("body", type=Text)
            await asyncio.wait_for(note.synced(), SECONDS)
            body += "bob "
            await asyncio.wait_for(note.synced(), SECONDS)
        await run(*bridge)
        await write(f"{old}/today", tmp_path / "eve.db", "")
        await write(f"{old}/today", tmp_path / "ann.db", "late ")
        await run(*bridge)
        assert sorted((await read(new, "note", tmp_path / "last.db")).split()) == ["ann", "bob", "late"]


async def test_what_it_has_stored_is_imported(tmp_path: Path) -> None:
    with pycrdt_server(tmp_path / "old.db") as old:
        await write(f"{old}/today", tmp_path / "ann.db", "kept ")
        await write(f"{old}/team/plan", tmp_path / "bob.db", "planned ")
        async with asyncio.timeout(SECONDS):
            while count_rooms(tmp_path / "old.db") < 2:  # noqa: ASYNC110  # it stores beside relaying, and says nothing of it
                await asyncio.sleep(0.05)
    with ServerProcess(tmp_path / "streams.db") as new:
        await run("import", str(tmp_path / "old.db"), new.url)
        assert await read(new, "today", tmp_path / "first.db") == "kept "
        assert await read(new, "team/plan", tmp_path / "second.db") == "planned "
