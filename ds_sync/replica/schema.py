"""The replica's file: its tables, its version, and how an older one becomes today's."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

from ds_sync.exceptions import CorruptFileError, NewerFileError, StoreError

APPLICATION_ID: Final = 0x44537265
"""SQLite's mark for whose file this is: "DSre"."""

VERSION: Final = 2
"""SQLite's user_version: how many of the migrations below the file has had."""

_MAGIC: Final = b"SQLite format 3\x00"
_QUICK_CHECK_BELOW: Final = 32 * 1024 * 1024
"""Bytes. Below this the whole file is checked at every open (some 15 ms per 10 MB); above it, damage shows when a page is read."""


def check_file(path: Path) -> None:
    """Return if `path` holds a replica that is whole, or nothing yet, and touch neither it nor its write-ahead log.

    Raises CorruptFileError for a file that is not ours or is damaged, NewerFileError for a newer one, StoreError for one that may not
    be read or written, and sqlite3.DatabaseError for one that SQLite can't read.
    """
    head = _read_head(path)
    if not head:
        if _size(path, "-wal"):
            # SQLite would take the log for a leftover and delete it.
            raise CorruptFileError(f"{path} is empty or gone, but {path}-wal beside it is not: edits may stand there and nowhere else")
        return
    if not any(head) and _size(path, "-journal"):
        return  # its making was cut short before the first page was written: SQLite undoes the rest
    if len(head) < 100 or not head.startswith(_MAGIC):
        raise CorruptFileError(f"{path} is not a SQLite file")
    if int.from_bytes(head[68:72], "big") != APPLICATION_ID:
        raise CorruptFileError(f"{path} is a SQLite file, but not a ds-sync replica")
    _refuse_newer(int.from_bytes(head[60:64], "big"), path)
    if not _size(path, "-journal"):  # one is there only if the file's making was cut short: SQLite has to undo that first
        # A connection that may write would fold the log into the file when it is closed, even if all it did was to refuse the file.
        mode = "mode=ro" if _size(path, "-wal") else "immutable=1"
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)
        try:
            _read_version(connection, path)
            if _size(path) < _QUICK_CHECK_BELOW:
                verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if verdict != "ok":
                    raise CorruptFileError(f"{path} is damaged: {verdict}")
        finally:
            connection.close()


def _read_head(path: Path) -> bytes:
    try:
        # For writing, too, though nothing is written here: SQLite would open a file that may only be read, and fail at the first edit.
        with path.open("r+b") as file:
            return file.read(100)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StoreError(f"{path} can't be opened: {error.strerror}") from error


def _size(path: Path, suffix: str = "") -> int:
    try:
        return os.stat(f"{path}{suffix}").st_size
    except FileNotFoundError:
        return 0


def _read_version(connection: sqlite3.Connection, path: Path) -> int:
    # Not always what the header says: a change of it may still stand in the write-ahead log.
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    _refuse_newer(version, path)
    return version


def _refuse_newer(version: int, path: Path) -> None:
    if version > VERSION:
        raise NewerFileError(f"{path} has version {version}; this ds-sync knows up to {VERSION}", found=version, known=VERSION)


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file behind `connection` to today's version, and into WAL mode. What can't be read or written raises sqlite3.Error."""
    version = _read_version(connection, path)
    if version < VERSION:
        # Imported here: an up-to-date file needs none of it, and sqlite-utils takes as long to import as everything else together.
        from ds_sync.replica.migrations import migrate

        migrate(connection, version, application_id=APPLICATION_ID)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA fullfsync=1")  # where fsync alone leaves the bytes in the drive (macOS)
    connection.execute("PRAGMA checkpoint_fullfsync=1")
