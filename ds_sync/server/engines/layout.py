"""The SQLite engine's file: its tables, and how states are spelled in them.

    log       one row for each record or change of state, in the order of the commits: what an append writes, and nothing else
    place     where each record of a stream stands; filled from the log in bulk, sorted, so that no commit touches a page a stream
    stream    each stream's state as of `settled`
    producer  likewise its producers
    settled   the last log row that place, stream and producer know

What the three lower tables do not know yet is read from the log when the file is opened: a bounded number of rows.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, TypeAlias

from ds_sync.exceptions import CorruptFileError, NewerFileError
from ds_sync.protocol.history import Place
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.state import Origin, StreamState

APPLICATION_ID: Final = 0x64735345
"""dsSE"""

VERSION: Final = 2
"""2: forks, retention. The tables are those of 1; what is new stands in the states."""

QUICK_CHECK_BELOW: Final = 32 * 1024 * 1024
"""Bytes. Below this the whole file is checked when it is opened; above it, damage shows when a page is read."""

_SCHEMA: Final = (
    """CREATE TABLE log (id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, position INTEGER NOT NULL, running BLOB NOT NULL,
       change TEXT, data BLOB)""",
    """CREATE TABLE place (stream INTEGER, position INTEGER, running BLOB NOT NULL, log INTEGER NOT NULL,
       PRIMARY KEY (stream, position)) WITHOUT ROWID""",
    """CREATE TABLE stream (id INTEGER PRIMARY KEY, path TEXT NOT NULL, position INTEGER NOT NULL, running BLOB NOT NULL,
       state TEXT NOT NULL)""",
    """CREATE TABLE producer (stream INTEGER, id TEXT, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, digest BLOB NOT NULL,
       PRIMARY KEY (stream, id)) WITHOUT ROWID""",
    "CREATE TABLE settled (log INTEGER NOT NULL)",
    "INSERT INTO settled VALUES (0)",
)


Connect: TypeAlias = Callable[..., sqlite3.Connection]
"""As `connect` below."""


def open_file(path: Path, connect: Connect) -> sqlite3.Connection:
    """Open the engine's file by `connect`; it is made if there is none.

    Raises CorruptFileError or NewerFileError; such a file is left as it is.
    """
    try:
        if path.exists() and path.stat().st_size > 0:
            _check_header(path)
        connection = connect(path)
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter when SQLite's own message quotes what is damaged
        raise CorruptFileError(f"{path} can't be opened: {error}") from error
    try:
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
        else:
            _check_version(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        connection.close()
        raise CorruptFileError(f"{path} is damaged: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def connect(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
    """Return a connection without implicit transactions, usable from any one thread at a time."""
    uri = f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10.0)
    try:
        connection.execute("PRAGMA cache_size = -8000")
    except BaseException:
        connection.close()
        raise
    return connection


settings_of: Final = attrgetter(*(field.name for field in fields(StreamState) if field.name not in ("position", "running")))
"""All of a StreamState that an append usually leaves as it is: position and running hash stand in every log row."""

_spell = json.JSONEncoder(separators=(",", ":")).encode


def build_state(path: str, state: StreamState) -> dict[str, Any]:
    """Return what `parse_state` reads: everything but position and running hash, which every log row has; defaults left out."""
    known = {name: value for name, value in asdict(state).items() if value is not None and value is not False}
    del known["position"], known["running"]
    if not state.forks:
        del known["forks"]
    return {"path": path, **known}


def parse_state(stored: dict[str, Any], position: int, running: bytes) -> tuple[str, StreamState]:
    """Return path and state."""
    known = dict(stored)
    path = known.pop("path")
    closer, origin, earliest = (known.pop(name, None) for name in ("closed_by", "origin", "earliest"))
    state = StreamState(
        position=position,
        running=running,
        closed_by=ProducerStamp(**closer) if closer else None,
        origin=Origin(**origin) if origin else None,
        earliest=Place(**earliest) if earliest else None,
        **known,
    )
    return path, state


def spell(change: object) -> str:
    """Return the JSON text of a change."""
    return _spell(change)


def _check_header(path: Path) -> None:
    # Before SQLite touches it: opening a foreign file with a hot journal would roll it back.
    with path.open("rb") as file:
        header = file.read(100)
    if not header.startswith(b"SQLite format 3\x00"):
        raise CorruptFileError(f"{path} is not a ds-sync server file")
    application, version = int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big")
    # A file whose first commit is still in the WAL has an empty header; SQLite then tells.
    if application not in (0, APPLICATION_ID):
        raise CorruptFileError(f"{path} is a SQLite file of another program")
    if application == APPLICATION_ID and version > VERSION:
        raise NewerFileError(f"{path} was written by a newer ds-sync", found=version, known=VERSION)
    if application == APPLICATION_ID and path.stat().st_size < QUICK_CHECK_BELOW and not _has(path, "-journal"):
        _check_pages(path)


def _check_pages(path: Path) -> None:
    # SQLite notices a wrong page only when it reads it, and may have stored rows behind a wrong key by then, where nobody finds them.
    # A connection that may write would fold the log into the file when it is closed, even if all it did was to refuse the file.
    mode = "mode=ro" if _has(path, "-wal") else "immutable=1"
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)) as connection:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise CorruptFileError(f"{path} is damaged: {verdict}")


def _has(path: Path, suffix: str) -> bool:
    beside = Path(f"{path}{suffix}")
    return beside.exists() and beside.stat().st_size > 0


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise CorruptFileError(f"{path} is a SQLite file of another program")
    if found > VERSION:
        raise NewerFileError(f"{path} was written by a newer ds-sync", found=found, known=VERSION)
    if connection.execute("SELECT count(*) FROM settled").fetchone()[0] != 1:
        raise CorruptFileError(f"{path} is damaged: it does not say what is settled")
