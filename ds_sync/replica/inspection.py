"""A replica's file, looked at from outside: read only, and also while the program it belongs to has it open."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ds_sync.exceptions import CorruptFileError, NewerFileError, StoreError
from ds_sync.ownership import FileOwner, find_owner
from ds_sync.protocol.urls import redact_url
from ds_sync.replica.schema import APPLICATION_ID, VERSION

HEAD_BYTES: Final = 64
"""Of what was put aside: its beginning is shown."""

BUSY_SECONDS: Final = 5.0
"""For the moments in which the owner holds the whole file: while it makes or migrates it."""


@dataclass(frozen=True, slots=True)
class OutboxView:
    """The edits that no server has acknowledged."""

    edits: int
    bytes: int
    oldest: float | None
    """Seconds since 1970."""
    newest: float | None


@dataclass(frozen=True, slots=True)
class BatchView:
    """The batch that is on its way."""

    producer: str
    epoch: int
    seq: int
    edits: int
    bytes: int
    sealed_at: str
    """The checkpoint at that moment."""
    healing: bool


@dataclass(frozen=True, slots=True)
class QuarantineView:
    """Something a server sent that could not be used."""

    id: int
    at: float
    """Seconds since 1970."""
    offset: str
    """After which it came."""
    reason: str
    bytes: int
    head: str
    """The first HEAD_BYTES, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class DocumentView:
    """One document of the file."""

    crdt: str
    service: str
    path: str
    format: str
    phase: str
    server: str | None
    incarnation: str | None
    checkpoint: str
    snapshot_bytes: int
    log_bytes: int
    durable: int
    """Edits of this file that a server has acknowledged."""
    outbox: OutboxView
    batch: BatchView | None
    quarantine: tuple[QuarantineView, ...]


@dataclass(frozen=True, slots=True)
class FileView:
    """A replica's file, as it was at one moment."""

    path: str
    bytes: int
    """The file and its write-ahead log."""
    version: int
    owner: FileOwner | None
    """Who has the file open, or had it last; None if nobody ever had."""
    documents: tuple[DocumentView, ...]


def inspect_file(path: str | os.PathLike[str]) -> FileView:
    """Return what stands in a replica's file; neither it nor its write-ahead log is changed.

    Raises CorruptFileError for a file that is not ours or is damaged, NewerFileError, StoreError for one that is not there, can't be
    read, or is held by its owner for longer than BUSY_SECONDS.
    """
    file = Path(path)
    owner = find_owner(file)
    with _opened(file, owner) as connection:
        version = _require_ours(connection, file)
        documents = tuple(_read_document(connection, row) for row in _select(connection, _DOCUMENTS))
    return FileView(str(file), _size(file) + _size(Path(f"{file}-wal")), version, owner, documents)


_DOCUMENTS: Final = (
    "SELECT id, crdt, service, path, format, phase, server, incarnation, checkpoint, durable, "
    "coalesce((SELECT length(snapshot) FROM snapshots WHERE document = documents.id), 0), "
    "coalesce((SELECT sum(length(frames)) FROM log WHERE document = documents.id), 0) "
    "FROM documents ORDER BY service, path, crdt"
)
_OUTBOX: Final = "SELECT count(*), coalesce(sum(length(data)), 0), min(at), max(at) FROM outbox WHERE document = ?"
_BATCH: Final = "SELECT producer_id, epoch, seq, edits, length(payload), sealed_at, healing FROM batches WHERE document = ?"
_QUARANTINE: Final = (
    f"SELECT id, at, \"offset\", reason, length(data), coalesce(substr(data, 1, {HEAD_BYTES}), x'') "
    "FROM quarantine WHERE document = ? ORDER BY id"
)


_TEXT: Final = (str, type(None))
_NUMBER: Final = (int, float)


def _read_document(connection: sqlite3.Connection, row: tuple[Any, ...]) -> DocumentView:
    _require_types(row, (int, str, str, str, str, str, _TEXT, _TEXT, str, int, int, int))
    (outbox,) = _select(connection, _OUTBOX, row[0])
    _require_types(outbox, (int, int, (*_NUMBER, type(None)), (*_NUMBER, type(None))))
    batch = None
    for sealed in _select(connection, _BATCH, row[0]):
        _require_types(sealed, (str, int, int, int, int, str, int))
        producer, epoch, seq, edits, size, sealed_at, healing = sealed
        batch = BatchView(producer, epoch, seq, edits, size, sealed_at, healing=bool(healing))
    quarantine = []
    for culprit in _select(connection, _QUARANTINE, row[0]):
        _require_types(culprit, (int, _NUMBER, str, str, int, bytes))
        number, at, offset, reason, size, head = culprit
        quarantine.append(QuarantineView(number, at, offset, reason, size, head.hex(" ")))
    _, crdt, service, path, form, phase, server, incarnation, checkpoint, durable, snapshot, log = row
    return DocumentView(
        crdt=crdt,
        service=service,
        path=path,
        format=form,
        phase=phase,
        server=None if server is None else redact_url(server),
        incarnation=incarnation,
        checkpoint=checkpoint,
        snapshot_bytes=snapshot,
        log_bytes=log,
        durable=durable,
        outbox=OutboxView(*outbox),
        batch=batch,
        quarantine=tuple(quarantine),
    )


def _require_types(row: tuple[Any, ...], kinds: tuple[Any, ...]) -> None:
    """SQLite keeps the type with each value: a damaged bit makes a number of a text."""
    for value, kind in zip(row, kinds, strict=True):
        if not isinstance(value, kind):
            raise sqlite3.DatabaseError(f"{type(value).__name__} where {kind} belongs")


def _select(connection: sqlite3.Connection, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    return connection.execute(query, parameters).fetchall()


@contextmanager
def _opened(file: Path, owner: FileOwner | None) -> Iterator[sqlite3.Connection]:
    """Give one consistent view of the file."""
    if not file.is_file():
        raise StoreError(f"there is no file {file}")
    # A file that nobody uses is complete in itself, and read without a trace. Else SQLite must look at the write-ahead log, too.
    unused = not _size(Path(f"{file}-wal")) and not _size(Path(f"{file}-journal")) and (owner is None or owner.running is False)
    mode = "immutable=1" if unused else "mode=ro"
    try:
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?{mode}", uri=True, isolation_level=None, timeout=BUSY_SECONDS)
        ) as connection:
            connection.execute("PRAGMA query_only=1")
            connection.execute("BEGIN")
            yield connection
    except sqlite3.OperationalError as error:
        raise StoreError(f"{file} can't be read now: {error}") from error
    except sqlite3.DatabaseError as error:
        raise CorruptFileError(f"{file} is damaged: {error}") from error


def _require_ours(connection: sqlite3.Connection, file: Path) -> int:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise CorruptFileError(f"{file} is a SQLite file, but not a ds-sync replica")
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise NewerFileError(f"{file} has version {version}; this ds-sync knows up to {VERSION}", found=version, known=VERSION)
    return version


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
