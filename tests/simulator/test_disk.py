"""What the simulated disk says is left after a power cut, against what SQLite does with it."""

import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ds_sync.testing.simulator.disk import Disk, Image


def open_file(path: Path, level: str, pages: int = 1000) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS words (word)")
    connection.execute(f"PRAGMA synchronous={level}")
    connection.execute(f"PRAGMA wal_autocheckpoint={pages}")
    return connection


def write(connection: Any, *words: str) -> None:
    for word in words:
        connection.execute("INSERT INTO words VALUES (?)", (word,))


def read_after_cut(disk: Disk, path: Path, seed: int) -> list[str]:
    image, copy = Image.take(path), path.with_name(f"cut-{seed}.db")
    commits, ends = disk.commits, dict(disk._ends)
    disk.cut(image, random.Random(seed)).restore(copy)
    disk.commits, disk.fsynced, disk._ends, disk._frames = commits, min(ends), ends, ends[commits]
    connection = sqlite3.connect(copy)
    words = [word for (word,) in connection.execute("SELECT word FROM words ORDER BY rowid")]
    connection.close()
    return words


@pytest.mark.parametrize("pages", [1000, 4])
def test_a_cut_leaves_the_fsynced_commits_and_any_number_of_those_after_them(tmp_path: Path, pages: int) -> None:
    disk = Disk(tmp_path / "file.db")
    inner = open_file(disk_path := tmp_path / "file.db", "NORMAL", pages)
    connection = disk.watch(inner)
    inner.execute("PRAGMA synchronous=FULL")
    write(connection, "a", "b")
    assert (disk.commits, disk.fsynced) == (2, 2)
    inner.execute("PRAGMA synchronous=NORMAL")
    write(connection, "c", "d")
    assert disk.commits == 4
    left = [read_after_cut(disk, disk_path, seed) for seed in range(40)]
    assert {"".join(words) for words in left} == {"abcd"[:end] for end in range(disk.fsynced, 5)}
    inner.close()


def test_a_checkpoint_fsyncs_what_it_copies_and_the_log_begins_anew(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "file.db")
    connection = disk.watch(open_file(tmp_path / "file.db", "NORMAL"))
    write(connection, "a", "b")
    assert disk.fsynced == 0
    connection.execute("PRAGMA wal_checkpoint(RESTART)")
    assert disk.fsynced == 2
    write(connection, "c")
    assert (disk.commits, disk.fsynced) == (3, 2)
    assert {"".join(read_after_cut(disk, tmp_path / "file.db", seed)) for seed in range(20)} == {"ab", "abc"}
    connection.close()


def test_a_transaction_is_one_commit_and_reading_is_none(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "file.db")
    connection = disk.watch(open_file(tmp_path / "file.db", "NORMAL"))
    connection.execute("BEGIN IMMEDIATE")
    write(connection, "a", "b")
    assert disk.commits == 0
    connection.execute("COMMIT")
    connection.execute("SELECT * FROM words").fetchall()
    assert disk.commits == 1
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO words VALUES (?)", [("c",), ("d",)])
    connection.execute("ROLLBACK")
    assert disk.commits == 1
    connection.close()
