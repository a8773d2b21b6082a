"""The replica's file: its tables, its version, and how an older one becomes today's."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from ds_sync.exceptions import CorruptFileError, NewerFileError

APPLICATION_ID: Final = 0x44537265
"""SQLite's mark for whose file this is: "DSre"."""

VERSION: Final = 1
"""SQLite's user_version: how many of the migrations below the file has had."""

_MAGIC: Final = b"SQLite format 3\x00"
_QUICK_CHECK_BELOW: Final = 32 * 1024 * 1024
"""Bytes. Below this the whole file is checked at every open (some 15 ms per 10 MB); above it, damage shows when a page is read."""


def check_header(path: Path) -> bool:
    """Return whether `path` holds a replica already; False if it is new or empty.

    Reads plain bytes, before SQLite may touch the file. Raises CorruptFileError for a file that is not ours, NewerFileError for a newer
    one.
    """
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise CorruptFileError(f"{path} can't be read: {error.strerror}") from error
    if not head:
        return False
    if len(head) < 100 or not head.startswith(_MAGIC):
        raise CorruptFileError(f"{path} is not a SQLite file")
    if int.from_bytes(head[68:72], "big") != APPLICATION_ID:
        raise CorruptFileError(f"{path} is a SQLite file, but not a ds-sync replica")
    found = int.from_bytes(head[60:64], "big")
    if found > VERSION:
        raise NewerFileError(f"{path} has version {found}; this ds-sync knows up to {VERSION}", found=found, known=VERSION)
    return True


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file behind `connection` to today's version, and into WAL mode. What can't be read raises sqlite3.DatabaseError."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:  # the header said less: the newer version still stands in the write-ahead log
        raise NewerFileError(f"{path} has version {version}; this ds-sync knows up to {VERSION}", found=version, known=VERSION)
    if path.stat().st_size < _QUICK_CHECK_BELOW:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise CorruptFileError(f"{path} is damaged: {verdict}")
    if version < VERSION:
        # Imported here: an up-to-date file needs none of it, and sqlite-utils takes as long to import as everything else together.
        from ds_sync.replica.migrations import migrate

        migrate(connection, version)
    connection.execute("PRAGMA journal_mode=WAL")
