"""SQLite files of pycrdt-store, made by itself, and of Hocuspocus, made by its schema."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ds_sync_yjs.stores.sqlite_file import SqliteFile, open_sqlite_file
from pycrdt import Doc, Text
from pycrdt.store import SQLiteYStore

from ds_sync.exceptions import SourceError
from ds_sync.sources import SourceOptions

pytestmark = pytest.mark.anyio

HOCUSPOCUS = 'CREATE TABLE IF NOT EXISTS "documents" ("name" varchar(255) NOT NULL, "data" blob NOT NULL, UNIQUE(name))'
"""@hocuspocus/extension-sqlite 4.7."""


def open_store(path: Path) -> SqliteFile:
    source = open_sqlite_file(path, SourceOptions())
    assert source is not None
    return source


def text_of(updates: Any) -> str:
    doc: Doc[Any] = Doc()
    for update in updates:
        doc.apply_update(update)
    return str(doc.get("body", type=Text))


async def fill_ystore(path: Path, *names: str, checkpoint: int | None = 100, count: int = 5, squash: int | None = None) -> None:
    class Store(SQLiteYStore):
        db_path = str(path)
        checkpoint_interval = checkpoint
        squash_after_inactivity_of = squash

    for name in names or ("notes/b", "a"):
        doc: Doc[Any] = Doc()
        updates: list[bytes] = []
        subscription = doc.observe(lambda event, into=updates: into.append(bytes(event.update)))
        doc["body"] = text = Text()
        for number in range(count):
            text += f"{name}{number} "
        doc.unobserve(subscription)
        async with Store(name) as store:
            for update in updates:
                await store.write(update)


@pytest.mark.parametrize("checkpoint", [None, 2, 100])
async def test_a_ystore_is_read_with_and_without_checkpoints(tmp_path: Path, checkpoint: int | None) -> None:
    await fill_ystore(tmp_path / "ystore.db", checkpoint=checkpoint)
    with closing(open_store(tmp_path / "ystore.db")) as source:
        assert source.kind == "pycrdt-store"
        assert source.names() == ["a", "notes/b"]
        assert text_of(source.read("a")) == "a0 a1 a2 a3 a4 "
        assert text_of(source.read("notes/b")) == "notes/b0 notes/b1 notes/b2 notes/b3 notes/b4 "


async def test_names_that_are_paths_of_urls_lose_the_slashes_around_them(tmp_path: Path) -> None:
    await fill_ystore(tmp_path / "ystore.db", "/today", "/notes/b/", "plain", "/")
    with closing(open_store(tmp_path / "ystore.db")) as source:
        assert source.names() == ["/", "notes/b", "plain", "today"]
        assert text_of(source.read("today")).startswith("/today0 ")
        assert text_of(source.read("notes/b")).startswith("/notes/b/0 ")
        assert text_of(source.read("plain")).startswith("plain0 ")
        assert text_of(source.read("/")).startswith("/0 ")


async def test_a_name_that_another_has_without_slashes_stays_as_it_is(tmp_path: Path) -> None:
    await fill_ystore(tmp_path / "ystore.db", "today", "/today", "/trip", "trip/")
    with closing(open_store(tmp_path / "ystore.db")) as source:
        assert source.names() == ["/today", "today", "trip", "trip/"]
        assert [text_of(source.read(name)).split()[0] for name in source.names()] == ["/today0", "today0", "/trip0", "trip/0"]


async def test_an_older_ystore_has_no_checkpoints(tmp_path: Path) -> None:
    await fill_ystore(tmp_path / "ystore.db")
    with closing(sqlite3.connect(tmp_path / "ystore.db")) as connection:
        connection.execute("DROP TABLE ycheckpoints")
        connection.commit()
    with closing(open_store(tmp_path / "ystore.db")) as source:
        assert text_of(source.read("a")) == "a0 a1 a2 a3 a4 "


async def test_a_damaged_update_is_named(tmp_path: Path) -> None:
    await fill_ystore(tmp_path / "ystore.db")
    with closing(sqlite3.connect(tmp_path / "ystore.db")) as connection:
        connection.execute("UPDATE yupdates SET yupdate = x'789c' WHERE rowid = 2 AND path = 'notes/b'")
        connection.commit()
    with closing(open_store(tmp_path / "ystore.db")) as source:
        assert text_of(source.read("a")) == "a0 a1 a2 a3 a4 "
        with pytest.raises(SourceError, match=r"^2 of 5 \(yupdates\): not a Yjs update: .*compressed"):
            source.read("notes/b")


async def test_hocuspocus(tmp_path: Path) -> None:
    doc: Doc[Any] = Doc()
    doc["body"] = Text("hello")
    path = tmp_path / "db%20#?.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(HOCUSPOCUS)
        rows = "('one', ?), ('none', x'0000'), ('text', 'no bytes'), ('/url', x'0000')"
        connection.execute(f"INSERT INTO documents VALUES {rows}", (doc.get_update(),))
        connection.commit()
        before = path.read_bytes()
        with closing(open_store(path)) as source:
            assert source.kind == "Hocuspocus"
            assert source.names() == ["/url", "none", "one", "text"]
            assert source.read("one") == [doc.get_update()]
            assert source.read("none") == [b"\x00\x00"]
            with pytest.raises(SourceError, match="no bytes"):
                source.read("text")
        assert path.read_bytes() == before


async def test_a_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    with pytest.raises(SourceError, match="can't be read"):
        open_sqlite_file(path, SourceOptions())


async def test_other_tables_are_left_to_others(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE documents (id, crdt)")
        connection.commit()
    (tmp_path / "text").write_text("hello")
    assert open_sqlite_file(tmp_path / "other.db", SourceOptions()) is None
    assert open_sqlite_file(tmp_path / "text", SourceOptions()) is None
    assert open_sqlite_file(tmp_path, SourceOptions()) is None
