"""Snapshots are made in a process of their own, which stands back behind the server."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ds_sync.exceptions import CompactionError
from ds_sync.server.documents.compaction import open_process
from ds_sync.server.documents.worker import Compaction
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.sqlite import SqliteEngine
from tests.server.documents.typist import DOC, Typist

pytestmark = pytest.mark.anyio


async def test_the_process_makes_the_same_snapshot(engine: StorageEngine) -> None:
    typist = Typist(engine, after=100, open_worker=open_process)
    await typist("PUT", DOC)
    await typist.type("x" * 200)
    await typist.wait_for_snapshot()
    assert await typist.join() == str(typist.text)
    await typist.aclose()


async def test_who_says_nothing_of_workers_gets_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, here = list[asyncio.subprocess.Process](), list[bytes]()
    start = asyncio.create_subprocess_exec

    async def noting(*args: Any, **options: Any) -> asyncio.subprocess.Process:
        assert args == (sys.executable, "-m", "ds_sync.server.documents.worker", "yjs")
        started.append(await start(*args, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noting)
    monkeypatch.setattr(Compaction, "feed", lambda self, frames: here.append(frames))
    engine = SqliteEngine(tmp_path / "server.db")
    typist = Typist(engine, after=100, open_worker=None)
    await typist("PUT", DOC)
    await typist.type("x" * 200)
    await typist.wait_for_snapshot()
    assert await typist.join() == str(typist.text)
    assert (len(started), here) == (1, []), "not in this process"
    assert started[0].pid != os.getpid()
    await typist.aclose()
    await engine.aclose()
    assert started[0].returncode is not None, "it does not outlive its snapshot"


async def test_the_process_stands_back_behind_the_server_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[asyncio.subprocess.Process]()
    start = asyncio.create_subprocess_exec

    async def noting(*args: Any, **options: Any) -> asyncio.subprocess.Process:
        started.append(await start(*args, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noting)
    async with open_process("yjs"):
        mine, its = (os.getpriority(os.PRIO_PROCESS, pid) for pid in (0, started[0].pid))
    assert its == min(19, mine + 10)


async def test_a_process_that_dies_is_a_compaction_error() -> None:
    async with open_process("nothing") as worker:
        with pytest.raises(CompactionError, match="ended"):
            await worker.snapshot()
