from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlite_utils import Database

from ds_sync.exceptions import NewerFileError
from ds_sync.protocol.offsets import Offset
from ds_sync.replica import migrations, schema
from ds_sync.replica.store import LocalStore
from ds_sync.testing.store_contract import View, find, look, make_batch

TABLES = {"documents", "snapshots", "log", "batches", "quarantine", "outbox"}


def fill(path: Path) -> View:
    """Make a file with something in each table but the quarantine."""
    store = LocalStore(path)
    document = find(store).id
    for number in range(1, 5):
        store.enqueue(document, b"w%d" % number, float(number))
    batch = make_batch(store, 1)
    store.seal(document, batch)
    store.settle(document, batch)
    store.compact(document, b"w1 w2 w3 w4", through=4)
    store.advance(document, [b"x"], b"cut", Offset("1"), incarnation="life")
    store.seal(document, make_batch(store, 2))
    view = look(store)
    store.close()
    return view


def add_step(monkeypatch: pytest.MonkeyPatch, step: Callable[[Database], None]) -> None:
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, step))
    monkeypatch.setattr(schema, "VERSION", len(migrations.STEPS))


def read(path: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    rows = connection.execute(sql).fetchall()
    connection.close()
    return rows


def test_the_version_is_the_number_of_steps() -> None:
    assert len(migrations.STEPS) == schema.VERSION


def test_a_new_file_has_its_tables_its_mark_and_its_version(tmp_path: Path) -> None:
    path = tmp_path / "replica.db"
    LocalStore(path).close()
    assert {name for (name,) in read(path, "SELECT name FROM sqlite_master WHERE type = 'table'")} == TABLES
    assert read(path, "PRAGMA application_id") == [(schema.APPLICATION_ID,)]
    assert read(path, "PRAGMA user_version") == [(schema.VERSION,)]
    assert read(path, "PRAGMA journal_mode") == [("wal",)]


def test_an_older_file_is_migrated_and_keeps_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "replica.db"
    before = fill(path)

    def add_titles(database: Database) -> None:
        database.table("titles").create({"document": int, "title": str}, pk="document")
        database.table("titles").insert({"document": 1, "title": "from " + next(database.query("SELECT path FROM documents"))["path"]})
        database.table("documents").add_column("colour", str)

    with monkeypatch.context() as patch:
        add_step(patch, add_titles)
        store = LocalStore(path)
        assert look(store) == before
        store.close()
        LocalStore(path).close()
    assert read(path, "SELECT * FROM titles") == [(1, "from notes/a")]
    assert read(path, "PRAGMA user_version") == [(schema.VERSION + 1,)]
    with pytest.raises(NewerFileError) as caught:
        LocalStore(path)
    assert (caught.value.found, caught.value.known) == (schema.VERSION + 1, schema.VERSION)


def test_a_file_of_version_1_is_opened_and_remembers_what_is_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "replica.db"
    connection = sqlite3.connect(path, isolation_level=None)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "STEPS", migrations.STEPS[:1])
        migrations.migrate(connection, 0, application_id=schema.APPLICATION_ID)
    connection.execute(
        "INSERT INTO documents (crdt, service, path, format, phase, checkpoint, partial, producer_id, producer_seq, durable, left_through) "
        "VALUES ('bytes', 'default', 'notes/a', 'bytes-v1', 'follow', '5', x'', 'p', 3, 2, 2)"
    )
    connection.execute("INSERT INTO outbox VALUES (1, 3, 1.0, x'77')")
    connection.close()
    assert read(path, "PRAGMA user_version") == [(1,)]
    store = LocalStore(path)
    before = look(store)
    assert (before.record.checkpoint, before.record.expected, before.rows) == (Offset("5"), (), [(3, b"w")])
    batch = make_batch(store, 1)
    store.seal(1, batch)
    store.settle(1, batch, expected=[b"d" * 32])
    store.close()
    store = LocalStore(path)
    assert (look(store).record.expected, look(store).record.durable) == ((b"d" * 32,), 3)
    store.close()
    assert read(path, "PRAGMA user_version") == [(2,)]


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "replica.db"
    before = fill(path)

    def fail(database: Database) -> None:
        database.table("titles").create({"document": int, "title": str}, pk="document")
        database.execute("DELETE FROM outbox")
        database.table("log").drop()
        raise RuntimeError("the step fails")

    with monkeypatch.context() as patch:
        add_step(patch, fail)
        with pytest.raises(RuntimeError, match="the step fails"):
            LocalStore(path)
    assert {name for (name,) in read(path, "SELECT name FROM sqlite_master WHERE type = 'table'")} == TABLES
    assert read(path, "PRAGMA user_version") == [(schema.VERSION,)]
    store = LocalStore(path)
    assert look(store) == before
    store.close()


def test_steps_before_the_one_that_fails_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "replica.db"
    before = fill(path)

    def fail(database: Database) -> None:
        raise RuntimeError("the step fails")

    with monkeypatch.context() as patch:
        add_step(patch, lambda database: database.table("titles").create({"document": int}) and None)
        good = schema.VERSION
        add_step(patch, fail)
        with pytest.raises(RuntimeError):
            LocalStore(path)
        assert read(path, "PRAGMA user_version") == [(good,)]
        patch.setattr(migrations, "STEPS", migrations.STEPS[:-1])
        patch.setattr(schema, "VERSION", good)
        store = LocalStore(path)
        assert look(store) == before
        store.close()
