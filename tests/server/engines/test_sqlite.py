"""The SQLite engine: the contract in three sizes of its buffers, and what only a file can suffer."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ds_sync.exceptions import CorruptFileError, FileInUseError, GoneError, NewerFileError, StorageFullError, StoreError
from ds_sync.protocol.decisions import CreateRequest, decide_create
from ds_sync.protocol.history import START
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.server.engines.layout import VERSION
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.testing.engine_contract import OpenEngine, StorageEngineContract, append, create, delete, places_of, read_all
from ds_sync.testing.engine_crash_contract import CrashStorage, EngineCrashContract, SqliteStorage, run_at_once
from ds_sync.testing.engine_fork_contract import EngineForkContract

pytestmark = pytest.mark.anyio


class TestSqliteEngine(StorageEngineContract, EngineForkContract):
    @pytest.fixture
    def open_engine(self, tmp_path: Path) -> OpenEngine:
        return lambda: SqliteEngine(tmp_path / "streams.db")


class TestSqliteEngineWithoutRecentRecords(StorageEngineContract, EngineForkContract):
    """All reads come from the log rows that are not settled yet."""

    @pytest.fixture
    def open_engine(self, tmp_path: Path) -> OpenEngine:
        return lambda: SqliteEngine(tmp_path / "streams.db", recent_bytes=0)


class TestSqliteEngineThatSettlesAtOnce(StorageEngineContract, EngineForkContract):
    """All reads come from the settled tables."""

    @pytest.fixture
    def open_engine(self, tmp_path: Path) -> OpenEngine:
        return lambda: SqliteEngine(tmp_path / "streams.db", recent_bytes=0, settle_rows=1)


class TestSqliteEngineInBetween(StorageEngineContract, EngineForkContract):
    """Pages begin in the settled tables and end in the log."""

    @pytest.fixture
    def open_engine(self, tmp_path: Path) -> OpenEngine:
        return lambda: SqliteEngine(tmp_path / "streams.db", recent_bytes=300, settle_rows=7)


class TestSqliteEngineCrashes(EngineCrashContract):
    """Everything is in the log."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> CrashStorage:
        return SqliteStorage(tmp_path, partial(SqliteEngine, run_in_thread=run_at_once))


class TestSqliteEngineCrashesWhileItSettles(EngineCrashContract):
    """Settlements and removals lie between the commits."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> CrashStorage:
        return SqliteStorage(tmp_path, partial(SqliteEngine, run_in_thread=run_at_once, recent_bytes=0, settle_rows=3))


async def test_a_second_engine_on_the_file_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "streams.db")
    with pytest.raises(FileInUseError, match=f"process {os.getpid()}"):
        SqliteEngine(tmp_path / "streams.db")
    await engine.aclose()
    await SqliteEngine(tmp_path / "streams.db").aclose()


@pytest.mark.parametrize("content", [b"not a database, just text" * 10, b"SQLite format 3\x00" + b"\xff" * 4096, b"x"])
async def test_a_file_that_is_not_ours_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "streams.db"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError):
        SqliteEngine(path)
    assert path.read_bytes() == content


async def test_another_programs_database_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "streams.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (x)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(CorruptFileError, match="another program"):
        SqliteEngine(path)
    assert path.read_bytes() == before


async def test_a_newer_file_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "streams.db"
    await SqliteEngine(path).aclose()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(NewerFileError) as caught:
        SqliteEngine(path)
    assert (caught.value.found, caught.value.known) == (99, VERSION)
    assert path.read_bytes() == before


async def test_a_file_with_a_damaged_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "streams.db"
    engine = SqliteEngine(path, settle_rows=1)
    await create(engine, "s")
    await append(engine, "s", b"abc")
    await engine.aclose()
    content = bytearray(path.read_bytes())
    content[100:] = b"\xa5" * (len(content) - 100)
    path.write_bytes(content)
    with pytest.raises(CorruptFileError):
        SqliteEngine(path)
    assert path.read_bytes() == bytes(content)


async def test_damage_in_what_is_not_read_at_once_is_found_at_once(tmp_path: Path) -> None:
    """Behind a wrong page SQLite would store what nobody finds again."""
    path = tmp_path / "streams.db"
    engine = SqliteEngine(path, settle_rows=8)
    await create(engine, "s")
    for number in range(200):
        await append(engine, "s", f"record {number}".encode() * 40)
    await engine.aclose()
    await SqliteEngine(path).aclose()
    content = bytearray(path.read_bytes())
    page = content.index(b"record 3record 3") // 4096 * 4096
    content[page : page + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match="damaged"):
        SqliteEngine(path)
    assert path.read_bytes() == bytes(content)


@pytest.mark.parametrize("text", [b"TABLE place", b"place"])
async def test_damage_that_is_no_utf8_in_the_schema_is_our_error_too(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "streams.db"
    await SqliteEngine(path).aclose()
    content = path.read_bytes().replace(text, text[:2] + b"\xce" + text[3:], 1)
    path.write_bytes(content)
    with pytest.raises(CorruptFileError):
        SqliteEngine(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", ["UPDATE log SET data = 'text' WHERE id = 2", "UPDATE place SET running = 7"])
async def test_a_value_of_the_wrong_kind_is_a_damaged_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "streams.db"
    engine = SqliteEngine(path, settle_rows=1)
    await create(engine, "s")
    await append(engine, "s", b"abc")
    await append(engine, "s", b"def")
    await engine.aclose()
    connection = sqlite3.connect(path)
    connection.execute(damage)
    connection.commit()
    connection.close()
    engine = SqliteEngine(path, recent_bytes=0)
    for after, limit in ((START, 1), (START, 100)):
        with pytest.raises(CorruptFileError, match="wrong kind"):
            await engine.read("s", after, limit)
    await engine.aclose()


@pytest.mark.parametrize("damage", ["DELETE FROM place WHERE position = 6", "UPDATE log SET data = x'00' WHERE data = 'def'"])
async def test_records_that_do_not_follow_on_one_another_are_a_damaged_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "streams.db"
    engine = SqliteEngine(path, settle_rows=1)
    await create(engine, "s")
    for record in (b"abc", b"def", b"ghi"):
        await append(engine, "s", record)
    await engine.aclose()
    connection = sqlite3.connect(path)
    assert connection.execute(damage.replace("'def'", "x'646566'")).rowcount == 1
    connection.commit()
    connection.close()
    engine = SqliteEngine(path, recent_bytes=0)
    with pytest.raises(CorruptFileError, match="no record that ends"):
        await engine.read("s", START, 100)
    await engine.aclose()


async def test_a_full_disk_refuses_changes_nothing_and_goes_on_when_there_is_space(tmp_path: Path) -> None:
    path = tmp_path / "streams.db"
    engine = SqliteEngine(path)
    await create(engine, "s")
    kept = (await append(engine, "s", b"kept", producer=ProducerStamp("p", 0, 0))).state
    pages = engine._writer.execute("PRAGMA page_count").fetchone()[0]
    engine._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    big = b"x" * 100_000
    stamp = ProducerStamp("p", 0, 1)
    failures = await asyncio.gather(
        append(engine, "s", big, producer=stamp), append(engine, "s", b"on top"), create(engine, "new"), return_exceptions=True
    )
    assert [type(failure) for failure in failures] == [StorageFullError] * 3
    assert (await engine.read("s", None, 0)).state == kept
    assert (await engine.read("new", None, 0)).state is None
    engine._writer.execute("PRAGMA max_page_count = 1000000")
    outcome = await append(engine, "s", big, producer=stamp)
    assert not outcome.duplicate
    assert outcome.state.place == places_of([b"kept", big])[-1]
    await engine.aclose()
    engine = SqliteEngine(path)
    assert await read_all(engine, "s") == [b"kept", big]
    await engine.aclose()


async def test_a_deleted_streams_records_leave_the_file(tmp_path: Path) -> None:
    path = tmp_path / "streams.db"
    engine = SqliteEngine(path, settle_rows=1)
    await create(engine, "s")
    for number in range(30):
        await append(engine, "s", b"%d" % number)
    await delete(engine, "s")
    await create(engine, "other")
    await append(engine, "other", b"stays")
    await engine.aclose()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT data FROM log").fetchall() == [(b"stays",)]
    assert connection.execute("SELECT count(*) FROM place").fetchone() == (1,)
    assert sorted(path for (path,) in connection.execute("SELECT path FROM stream")) == ["other", "s"]
    connection.close()


async def test_a_file_set_back_to_an_older_copy_that_grew_since_is_noticed(tmp_path: Path) -> None:
    path, copy = tmp_path / "streams.db", tmp_path / "copy.db"
    engine = SqliteEngine(path)
    await create(engine, "s")
    common = (await append(engine, "s", b"common")).state.place
    await engine.aclose()
    copy.write_bytes(path.read_bytes())
    engine = SqliteEngine(path)
    lost = (await append(engine, "s", b"lost")).state.place
    await engine.aclose()
    path.write_bytes(copy.read_bytes())
    engine = SqliteEngine(path)
    await append(engine, "s", b"else")
    await append(engine, "s", b"more")
    with pytest.raises(GoneError):
        await engine.read("s", lost, 100)
    assert await read_all(engine, "s", common) == [b"else", b"more"]
    await engine.aclose()


async def test_a_commit_that_fails_in_an_unforeseen_way_leaves_nobody_waiting(tmp_path: Path) -> None:
    fail = [True]

    async def run(call: Callable[..., Any], /, *args: Any) -> Any:
        if fail[0]:
            raise RuntimeError("no threads left")
        return call(*args)

    engine = SqliteEngine(tmp_path / "streams.db", run_in_thread=run)
    with pytest.raises(StoreError, match="no threads left"):
        await create(engine, "s")
    fail[0] = False
    assert (await create(engine, "s")).created
    await engine.aclose()


async def test_a_refusal_that_rests_on_a_commit_under_way_waits_for_it(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "streams.db")
    pages = engine._writer.execute("PRAGMA page_count").fetchone()[0]
    engine._writer.execute(f"PRAGMA max_page_count = {pages}")
    request = CreateRequest("s", "text/plain", "b" * 32, body=b"x" * 50_000)
    results = await asyncio.gather(
        engine.transact(("s",), lambda views: decide_create(views[0], request, 0.0)),
        create(engine, "s"),  # a conflict of content types, if the first one had lasted
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [StorageFullError] * 2
    await engine.aclose()


WRITER = textwrap.dedent(
    """
    import asyncio, sys
    from ds_sync.protocol.messages import ProducerStamp
    from ds_sync.server.engines.sqlite import SqliteEngine
    from ds_sync.testing.engine_crash_contract import CrashStorage, EngineCrashContract, SqliteStorage, run_at_once
from ds_sync.testing.engine_contract import append, create

    async def write(engine, path):
        await create(engine, path)
        number = 0
        while True:
            await append(engine, path, b"%s %d;" % (path.encode(), number), producer=ProducerStamp("p", 0, number))
            print(path, number, flush=True)
            number += 1

    async def main():
        engine = SqliteEngine(sys.argv[1], settle_rows=50)
        await asyncio.gather(*(write(engine, path) for path in "abc"))

    asyncio.run(main())
    """
)


@pytest.mark.kills
@pytest.mark.parametrize("lines", [3, 100, 331, 700])
async def test_what_was_acknowledged_survives_sigkill(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "streams.db"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    told += process.communicate()[0].splitlines(keepends=True)
    acknowledged = dict.fromkeys("abc", -1)
    for line in told:
        if line.endswith("\n"):
            name, number = line.split()
            acknowledged[name] = int(number)
    engine = SqliteEngine(path)
    for name, last in acknowledged.items():
        records = await read_all(engine, name, START, 1000) if last >= 0 else []
        assert records == [b"%s %d;" % (name.encode(), number) for number in range(len(records))]
        assert len(records) in (last + 1, last + 2)
        state = (await engine.read(name, None, 0)).state
        if state is not None and records:
            assert state.place == places_of(records, state.incarnation)[-1]
            outcome = await append(engine, name, records[-1], producer=ProducerStamp("p", 0, len(records) - 1))
            assert outcome.duplicate
    await engine.aclose()
