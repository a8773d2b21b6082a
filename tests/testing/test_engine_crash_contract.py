"""The crash kit catches engines that promise too early, sync too little, or write in pieces: each subject here does one of these."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ds_sync.server.engines import sqlite as engine_module
from ds_sync.server.engines import writing
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.testing.engine_crash_contract import EngineCrashContract, SqliteStorage, run_at_once

pytestmark = pytest.mark.anyio

KILL = EngineCrashContract.test_a_kill_at_any_step_loses_nothing_that_returned_and_leaves_nothing_half
CUT = EngineCrashContract.test_a_power_cut_at_any_step_loses_nothing_that_returned_and_leaves_nothing_half


def engine(path: Path, **options: Any) -> StorageEngine:
    return SqliteEngine(path, **{"run_in_thread": run_at_once, "settle_rows": 5, "recent_bytes": 0, **options})


def that_syncs_less(path: Path, **options: Any) -> StorageEngine:
    made = engine(path, **options)
    made._writer.execute("PRAGMA synchronous = NORMAL")  # type: ignore[attr-defined]
    return made


async def run_later(call: Callable[..., Any], /, *args: Any) -> Any:
    """Return at once; a commit has its turn when the callers have had theirs."""
    if call is not writing.write_commit:
        return call(*args)
    loop = asyncio.get_running_loop()

    def wait(turns: int) -> None:
        if turns:
            loop.call_soon(wait, turns - 1)
        else:
            call(*args)

    return wait(5)


class Hasty(SqliteEngine):
    async def aclose(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        await super().aclose()


def that_returns_before_the_commit(path: Path, **options: Any) -> StorageEngine:
    return Hasty(path, run_in_thread=run_later, **options)


def write_each_row_alone(connection: sqlite3.Connection, rows: Sequence[writing.LogRow]) -> None:
    for row in rows:
        writing.write_commit(connection, [row])


def write_state_after_the_record(connection: sqlite3.Connection, rows: Sequence[writing.LogRow]) -> None:
    kept = [row if row[5] is None else (*row[:4], None, row[5]) for row in rows]
    new = [row for row in rows if row[4] is not None and '"path"' in row[4]]
    writing.write_commit(connection, rows if new else kept)
    if not new:
        connection.executemany("UPDATE log SET change = ? WHERE id = ?", [(row[4], row[0]) for row in rows])


def settle_in_two_commits(connection: sqlite3.Connection, settled: int, upto: int, streams: Any, producers: Any) -> None:
    connection.execute("UPDATE settled SET log = ?", (upto,))
    writing.write_settlement(connection, settled, upto, streams, producers)


def forget_producers(connection: sqlite3.Connection, settled: int, upto: int, streams: Any, producers: Any) -> None:
    writing.write_settlement(connection, settled, upto, streams, [])


async def require_caught(law: Any, open_engine: Callable[..., StorageEngine], folder: Path, words: str) -> None:
    (folder / "left").mkdir()
    with pytest.raises(AssertionError, match=words):
        await law(EngineCrashContract(), SqliteStorage(folder, open_engine), folder / "left")


async def test_an_engine_that_does_not_sync_its_commits_is_caught(tmp_path: Path) -> None:
    await require_caught(CUT, that_syncs_less, tmp_path, "what returned is gone")


async def test_an_engine_that_returns_before_the_commit_is_caught(tmp_path: Path) -> None:
    await require_caught(KILL, that_returns_before_the_commit, tmp_path, "what returned is gone")


async def test_an_engine_that_writes_the_state_outside_the_transaction_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "write_commit", write_state_after_the_record)
    await require_caught(KILL, engine, tmp_path, "producers and records disagree")


async def test_an_engine_that_commits_one_path_after_the_other_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "write_commit", write_each_row_alone)
    await require_caught(KILL, engine, tmp_path, "half of a transaction is there")


async def test_an_engine_that_says_settled_before_it_is_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "write_settlement", settle_in_two_commits)
    await require_caught(KILL, engine, tmp_path, "is gone|disagree|never looked like|no record at")


async def test_an_engine_that_forgets_producers_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "write_settlement", forget_producers)
    await require_caught(KILL, engine, tmp_path, "producers and records disagree|not there at the next opening")


def test_without_apsw_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['apsw'] = None; import ds_sync.testing.power"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr
    assert said.splitlines()[-1] == "ImportError: ds_sync.testing.power needs apsw: pip install apsw"
