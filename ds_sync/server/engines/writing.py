"""The SQLite engine's blocking calls: commits, settlements, removals, reads from the file. Each runs off the event loop.

sqlite3 lets go of the interpreter lock for every step of a statement and has to get it back: a statement for many rows costs
one such turn, a statement for each row as many.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from ds_sync.exceptions import CorruptFileError, StorageFullError, StoreError
from ds_sync.protocol.history import Place, build_place
from ds_sync.protocol.producer import ProducerState
from ds_sync.server.engines.base import Records
from ds_sync.server.engines.layout import VERSION, build_state, spell
from ds_sync.server.engines.shelf import Stream

LogRow = tuple[int, int, int, bytes, str | None, bytes | None]
"""id, stream, position, running hash, change, data."""

_CHUNK: Final = 256
"""Rows of one statement."""

_FULL: Final = 13
_IO_ERROR: Final = 10
_CORRUPT: Final = (11, 26)
"""SQLite's primary result codes."""


def map_error(error: sqlite3.Error) -> StoreError:
    """Return ours for SQLite's."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code == _FULL:
        return StorageFullError("no space is left for the server's file")
    if code in _CORRUPT:
        return CorruptFileError(f"the server's file is damaged: {error}")
    return StoreError(f"the server's file can't be used: {error}")


def mark_version(connection: sqlite3.Connection) -> None:
    """Have older ds-syncs refuse the file from now on. Raises StoreError, StorageFullError for one; then nothing has changed."""
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            connection.execute(f"PRAGMA user_version = {VERSION}")
    except sqlite3.Error as error:
        raise map_error(error) from error


def write_commit(connection: sqlite3.Connection, rows: Sequence[LogRow]) -> None:
    """Store log rows in one durable commit. Raises StoreError, StorageFullError for one; then nothing was stored."""
    try:
        if len(rows) <= _CHUNK:
            _insert(connection, rows)  # a statement of its own is a transaction of its own
            return
        connection.execute("BEGIN IMMEDIATE")
        for first in range(0, len(rows), _CHUNK):
            _insert(connection, rows[first : first + _CHUNK])
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        _roll_back(connection)
        raise map_error(error) from error


def _insert(connection: sqlite3.Connection, rows: Sequence[LogRow]) -> None:
    values: list[Any] = []
    for row in rows:
        values.extend(row)
    connection.execute("INSERT INTO log VALUES (?,?,?,?,?,?)" + ",(?,?,?,?,?,?)" * (len(rows) - 1), values)


def write_settlement(
    connection: sqlite3.Connection,
    settled: int,
    upto: int,
    streams: Iterable[tuple[int, str, int, bytes, str]],
    producers: Iterable[tuple[int, str, int, int, bytes]],
) -> None:
    """Bring the lower tables from log row `settled` up to row `upto`, in one commit. Raises StoreError."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "INSERT INTO place SELECT stream, position, running, id FROM log WHERE id > ? AND id <= ? AND data IS NOT NULL"
            " ORDER BY stream, position",
            (settled, upto),
        )
        connection.execute("DELETE FROM log WHERE id > ? AND id <= ? AND data IS NULL", (settled, upto))
        connection.executemany("INSERT OR REPLACE INTO stream VALUES (?, ?, ?, ?, ?)", streams)
        connection.executemany("INSERT OR REPLACE INTO producer VALUES (?, ?, ?, ?, ?)", producers)
        connection.execute("UPDATE settled SET log = ?", (upto,))
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        _roll_back(connection)
        raise map_error(error) from error


def stream_row(stream: Stream) -> tuple[int, str, int, bytes, str]:
    """Return the row that settles a stream."""
    state = stream.durable
    if state is None:
        raise AssertionError("only lives that were committed are settled")
    return stream.id, stream.path, state.position, state.running, spell(build_state(stream.path, state))


def producer_row(stream: int, name: str, state: ProducerState) -> tuple[int, str, int, int, bytes]:
    """Return the row that settles a producer."""
    return stream, name, state.epoch, state.seq, state.digest


def remove_life(connection: sqlite3.Connection, stream: int, limit: int) -> bool:
    """Remove up to `limit` records of a life that ended; return whether anything of it is left. Raises StoreError."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        rows = connection.execute("SELECT position, log FROM place WHERE stream = ? ORDER BY position LIMIT ?", (stream, limit)).fetchall()
        if rows:
            connection.executemany("DELETE FROM log WHERE id = ?", [(log,) for _, log in rows])
            connection.execute("DELETE FROM place WHERE stream = ? AND position <= ?", (stream, rows[-1][0]))
        else:
            connection.execute("DELETE FROM producer WHERE stream = ?", (stream,))
            connection.execute("DELETE FROM stream WHERE id = ?", (stream,))
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        _roll_back(connection)
        raise map_error(error) from error
    return bool(rows)


def remove_before(connection: sqlite3.Connection, stream: int, position: int, limit: int) -> bool:
    """Remove up to `limit` settled records of a life that end at `position` or before; return whether more are left. Raises StoreError."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        upto = "SELECT position, log FROM place WHERE stream = ? AND position <= ? ORDER BY position LIMIT ?"
        rows = connection.execute(upto, (stream, position, limit)).fetchall()
        if rows:
            connection.executemany("DELETE FROM log WHERE id = ?", [(log,) for _, log in rows])
            connection.execute("DELETE FROM place WHERE stream = ? AND position <= ?", (stream, rows[-1][0]))
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        _roll_back(connection)
        raise map_error(error) from error
    return len(rows) == limit


def read_file(
    connection: sqlite3.Connection,
    stream: int,
    base: Place,
    after: Place,
    limit: int,
    settled: int,
    unsettled: Sequence[tuple[int, bytes, int]],
) -> Records | None:
    """Return records from the file, or None if `after` is not a place between two of them. Raises StoreError.

    `base` is where the stream's own records begin, `settled` the position up to which the places are in the table; `unsettled` has
    those above.
    """
    try:
        if after.position == base.position:
            known = base
        elif after.position <= settled:
            row = connection.execute("SELECT running FROM place WHERE stream = ? AND position = ?", (stream, after.position)).fetchone()
            if row is None:
                return None
            known = build_place(after.position, row[0])
        else:
            standing = next((entry for entry in unsettled if entry[0] == after.position), None)
            if standing is None:
                return None
            known = build_place(standing[0], standing[1])
        if not after.matches(known):
            return None
        chosen: list[tuple[int, bytes, int]] = []
        bound = after.position + limit
        if after.position < settled:
            places = "SELECT position, running, log FROM place WHERE stream = ? AND position > ? AND position <= ? ORDER BY position"
            chosen = connection.execute(places, (stream, after.position, min(bound, settled))).fetchall()
            if not chosen:
                places = "SELECT position, running, log FROM place WHERE stream = ? AND position > ? ORDER BY position LIMIT 1"
                chosen = connection.execute(places, (stream, after.position)).fetchall()
        if not chosen or chosen[-1][0] == settled:
            for entry in unsettled:
                if entry[0] > after.position and (entry[0] <= bound or not chosen):
                    chosen.append(entry)
        records, at = [], after.position
        for position, _, log in chosen:
            row = connection.execute("SELECT data FROM log WHERE id = ?", (log,)).fetchone()
            if row is None:
                return None  # the life ended meanwhile
            if not isinstance(row[0], bytes):
                raise TypeError(f"{type(row[0]).__name__} where a record belongs")
            at += len(row[0])
            if at != position:
                # Never answered with a gap: a reader would go on behind it, and believe that it has everything.
                raise CorruptFileError(f"the server's file is damaged: stream {stream} has no record that ends at {at}")
            records.append(row[0])
        if not chosen:
            return None
        return tuple(records), build_place(chosen[-1][0], chosen[-1][1])
    except sqlite3.Error as error:
        raise map_error(error) from error
    except TypeError as error:
        raise CorruptFileError(f"the server's file is damaged: a value of the wrong kind: {error}") from error


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
