"""The local store: one SQLite file, the application's source of truth.

Laws (proved by `ds_sync.testing.store_contract`): what `enqueue` returned from survives the death of the process; a sealed batch is
fsynced and never changes; the checkpoint is never ahead of the data; outbox rows stay until the batch that covers them is settled.

Power: ordinary commits are WAL with synchronous=NORMAL, so that a power cut may take the last moments, in order; `seal` and what else
decides under which number bytes go out commits with synchronous=FULL. `power_safe=True` makes every commit FULL.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ds_sync.exceptions import ClosedError, CorruptFileError, FramingError, StorageFullError, StoreError
from ds_sync.ownership import Ownership
from ds_sync.protocol.framing import build_frame, build_frames, parse_frames
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.offsets import BEGINNING, Offset
from ds_sync.replica import schema
from ds_sync.replica.records import DIGEST_BYTES, Batch, DocumentKey, DocumentRecord, Phase, Quarantined, StoredContent

_ENQUEUE: Final = "INSERT INTO outbox VALUES (?, ?, ?, ?)"


class LocalStore:
    """A replica's file. Not thread-safe by itself but for `enqueue`: every call takes one lock, because edits may come from any thread."""

    def __init__(self, path: str | os.PathLike[str], *, power_safe: bool = False) -> None:
        """Open or make the file. Raises FileInUseError, CorruptFileError, NewerFileError, StoreError; none of them touches the file."""
        self.path = Path(path)
        self._closed = False
        self._lock = threading.RLock()
        self._next_row: dict[int, int] = {}
        self._sync = "FULL" if power_safe else "NORMAL"
        try:
            self._ownership = Ownership(self.path, "replica")
        except OSError as error:
            raise StoreError(f"{self.path} can't be opened: {error.strerror}") from error
        try:
            with self._errors_mapped():
                schema.check_file(self.path)
                self._connection = self._connect()
        except BaseException:
            self._ownership.release()
            raise

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path.absolute(), isolation_level=None, check_same_thread=False, timeout=10)
        try:
            schema.prepare(connection, self.path)
            connection.execute(f"PRAGMA synchronous={self._sync}")
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the file; what was stored is stored. Closing again does nothing."""
        with self._lock:
            self._closed = True
            self._connection.close()
            self._ownership.release()

    # Documents

    def open_document(self, key: DocumentKey, *, format: str, producer_id: str) -> DocumentRecord:
        """Return the document's record; a new one takes `format` and `producer_id`."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO documents (crdt, service, path, format, phase, checkpoint, partial, producer_id, producer_seq, durable, "
                "left_through) VALUES (?, ?, ?, ?, ?, ?, x'', ?, 0, 0, 0) ON CONFLICT DO NOTHING",
                (key.crdt, key.service, key.path, format, Phase.FOLLOW, BEGINNING, producer_id),
            )
        (record,) = self._records("WHERE crdt = ? AND service = ? AND path = ?", (key.crdt, key.service, key.path))
        return record

    def documents(self) -> list[DocumentRecord]:
        """Return all documents of this file, by service and path."""
        return self._records("ORDER BY service, path, crdt", ())

    def _records(self, which: str, parameters: tuple[str, ...]) -> list[DocumentRecord]:
        with self._locked() as connection:
            rows = connection.execute(
                "SELECT id, crdt, service, path, format, phase, server, incarnation, checkpoint, partial, server_version, producer_id, "
                "producer_seq, durable, (SELECT count(*) FROM outbox WHERE document = documents.id), "
                "(SELECT at FROM outbox WHERE document = documents.id ORDER BY id LIMIT 1), "
                "(SELECT max(id) FROM outbox WHERE document = documents.id), "
                "(SELECT count(*) FROM quarantine WHERE document = documents.id), "
                f"left_through, expected FROM documents {which}",
                parameters,
            ).fetchall()
            records = []
            for row in rows:
                self._require_types(row, _DOCUMENT)
                try:
                    phase = Phase(row[5])
                except ValueError as error:
                    raise CorruptFileError(f"{self.path} is damaged: {error}") from error
                batch = self._batch(connection, row[0])
                last = max(row[16] or 0, row[18], batch.through if batch else 0)
                self._next_row[row[0]] = max(self._next_row.get(row[0], 1), last + 1)
                records.append(
                    DocumentRecord(
                        id=row[0],
                        key=DocumentKey(row[1], row[2], row[3]),
                        format=row[4],
                        phase=phase,
                        server=row[6],
                        incarnation=row[7],
                        checkpoint=Offset(row[8]),
                        partial=row[9],
                        server_version=row[10],
                        producer=ProducerStamp(row[11], 0, row[12]),
                        batch=batch,
                        durable=row[13],
                        expected=self._digests(row[19]),
                        outbox=row[14],
                        oldest=row[15],
                        quarantined=row[17],
                    )
                )
            return records

    def _batch(self, connection: sqlite3.Connection, document: int) -> Batch | None:
        row = connection.execute(
            "SELECT producer_id, epoch, seq, through, edits, sealed_at, version, payload, healing FROM batches WHERE document = ?",
            (document,),
        ).fetchone()
        if row is None:
            return None
        self._require_types(row, _BATCH)
        return Batch(ProducerStamp(*row[:3]), row[3], row[4], Offset(row[5]), row[6], row[7], bool(row[8]))

    def load(self, document: int) -> StoredContent:
        """Return what makes the document: its snapshot, then the updates that the snapshot does not hold."""
        with self._locked() as connection:
            row = connection.execute("SELECT snapshot, outbox_through FROM snapshots WHERE document = ?", (document,)).fetchone()
            if row is not None:
                self._require_types(row, (bytes, int))
            snapshot, through = row or (None, 0)
            log = connection.execute("SELECT frames FROM log WHERE document = ? ORDER BY id", (document,)).fetchall()
            outbox = connection.execute("SELECT data FROM outbox WHERE document = ? AND id > ? ORDER BY id", (document, through)).fetchall()
        updates: list[bytes] = []
        for row in log:
            self._require_types(row, (bytes,))
            updates += self._whole_frames(row[0])
        for row in outbox:
            self._require_types(row, (bytes,))
            updates.append(row[0])
        return StoredContent(snapshot, updates, sum(len(frames) for (frames,) in log) + sum(len(data) for (data,) in outbox))

    def _digests(self, run: bytes) -> tuple[bytes, ...]:
        if len(run) % DIGEST_BYTES:
            raise CorruptFileError(f"{self.path} is damaged: a stored digest is cut")
        return tuple(run[at : at + DIGEST_BYTES] for at in range(0, len(run), DIGEST_BYTES))

    def _whole_frames(self, run: bytes) -> tuple[bytes, ...]:
        try:
            frames = parse_frames(run)
        except FramingError as error:
            raise CorruptFileError(f"{self.path} is damaged: {error}") from error
        if frames.rest:
            raise CorruptFileError(f"{self.path} is damaged: a stored frame is cut")
        return frames.payloads

    def _require_types(self, row: tuple[Any, ...], kinds: tuple[Any, ...]) -> None:
        """SQLite keeps the type with each value, and quick_check does not look at it: a damaged bit makes a number of a blob."""
        for value, kind in zip(row, kinds, strict=True):
            if not isinstance(value, kind):
                raise CorruptFileError(f"{self.path} is damaged: {type(value).__name__} where {kind} belongs")

    # Edits

    def enqueue(self, document: int, update: bytes, at: float) -> None:
        """Store a local edit made at `at` (seconds since 1970). When this returns, the edit survives the death of the process."""
        with self._lock:
            row = self._next_row[document]
            try:
                self._connection.execute(_ENQUEUE, (document, row, at, update))
            except sqlite3.Error as error:
                raise self._map_error(error) from error
            self._next_row[document] = row + 1

    def outbox_rows(self, document: int, *, after: int, limit: int) -> Iterator[tuple[int, bytes]]:
        """Return up to `limit` rows (id, update) of the outbox, oldest first."""
        with self._locked() as connection:
            rows = connection.execute(
                "SELECT id, data FROM outbox WHERE document = ? AND id > ? ORDER BY id LIMIT ?", (document, after, limit)
            ).fetchall()
        for row in rows:
            self._require_types(row, (int, bytes))
        return iter(rows)

    def last_row(self, document: int) -> int:
        """Return the id of the newest row that the outbox ever had; no id is given twice, over reopening too."""
        return self._next_row[document] - 1

    def oldest(self, document: int) -> float | None:
        """Return when the oldest row of the outbox was made, in seconds since 1970."""
        with self._locked() as connection:
            row = connection.execute("SELECT at FROM outbox WHERE document = ? ORDER BY id LIMIT 1", (document,)).fetchone()
        if row is None:
            return None
        self._require_types(row, (float,))
        return float(row[0])

    def count_rows(self, document: int, *, through: int) -> int:
        """Return how many rows are in the outbox up to this one."""
        with self._locked() as connection:
            (count,) = connection.execute("SELECT count(*) FROM outbox WHERE document = ? AND id <= ?", (document, through)).fetchone()
        return int(count)

    def settled_through(self, document: int) -> int:
        """Return the id of the newest row such that it and all before it have left the outbox."""
        with self._locked() as connection:
            row = connection.execute("SELECT id FROM outbox WHERE document = ? ORDER BY id LIMIT 1", (document,)).fetchone()
        return row[0] - 1 if row else self.last_row(document)

    # Batches

    def seal(self, document: int, batch: Batch, *, phase: Phase | None = None) -> None:
        """Freeze `batch` in place of the one before, if any, and advance the producer past it; fsynced. A `phase` is set in the same
        commit.
        """
        with self._transaction(durable=True) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO batches (document, producer_id, epoch, seq, through, edits, sealed_at, version, payload, healing) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    document,
                    batch.stamp.id,
                    batch.stamp.epoch,
                    batch.stamp.seq,
                    batch.through,
                    batch.edits,
                    batch.sealed_at,
                    batch.version,
                    batch.payload,
                    batch.healing,
                ),
            )
            connection.execute(
                "UPDATE documents SET producer_id = ?, producer_seq = ?, phase = coalesce(?, phase) WHERE id = ?",
                (batch.stamp.id, batch.stamp.seq + 1, phase, document),
            )

    def settle(self, document: int, batch: Batch, *, expected: Sequence[bytes] | None = None) -> None:
        """The server has `batch`: it moves to the log, and the rows it covers leave the outbox.

        `expected`: the digests of what is to be read back from the stream from now on, this batch included (None: as before).
        """
        with self._transaction() as connection:
            self._settle(connection, document, batch)
            self._expect(connection, document, expected)

    def _expect(self, connection: sqlite3.Connection, document: int, expected: Sequence[bytes] | None) -> None:
        if expected is not None:
            connection.execute("UPDATE documents SET expected = ? WHERE id = ?", (b"".join(expected), document))

    def _settle(self, connection: sqlite3.Connection, document: int, batch: Batch) -> None:
        connection.execute("DELETE FROM batches WHERE document = ?", (document,))
        connection.execute("DELETE FROM outbox WHERE document = ? AND id <= ?", (document, batch.through))
        connection.execute(
            "UPDATE documents SET durable = durable + ?, server_version = coalesce(?, server_version), "
            "left_through = max(left_through, ?) WHERE id = ?",
            (batch.edits, batch.version, batch.through, document),
        )
        connection.execute("INSERT INTO log (document, frames) VALUES (?, ?)", (document, build_frame(batch.payload)))

    # What comes from the server

    def advance(
        self,
        document: int,
        updates: Sequence[bytes],
        partial: bytes,
        next_offset: Offset,
        *,
        incarnation: str | None = None,
        settled: Batch | None = None,
        quarantined: Sequence[Quarantined] = (),
        expected: Sequence[bytes] | None = None,
    ) -> None:
        """Store whole remote updates, the cut frame after them, and the checkpoint, in one commit.

        `settled`: the batch whose payload was seen in that run, which is then not among `updates`. `expected`: the digests of what is still
        to be read back after that run (None: as before).
        """
        with self._transaction() as connection:
            if updates:
                connection.execute("INSERT INTO log (document, frames) VALUES (?, ?)", (document, build_frames(updates)))
            for bad in quarantined:
                connection.execute(
                    "INSERT INTO quarantine (document, offset, at, reason, data) VALUES (?, ?, ?, ?, ?)",
                    (document, bad.offset, bad.at, bad.reason, bad.data),
                )
            if settled is not None:
                self._settle(connection, document, settled)
            self._expect(connection, document, expected)
            connection.execute(
                "UPDATE documents SET partial = ?, checkpoint = ?, incarnation = coalesce(?, incarnation) WHERE id = ?",
                (partial, next_offset, incarnation, document),
            )

    def set_phase(self, document: int, phase: Phase) -> None:
        """Record that the document goes on, waits for somebody's decision, or is stopped."""
        with self._transaction() as connection:
            connection.execute("UPDATE documents SET phase = ? WHERE id = ?", (phase, document))

    def set_server(self, document: int, server: str) -> None:
        """Record which server the checkpoint speaks of from now on."""
        with self._transaction() as connection:
            connection.execute("UPDATE documents SET server = ? WHERE id = ?", (server, document))

    def begin_heal(self, document: int, *, incarnation: str | None) -> None:
        """Forget what was known of the stream, and what is expected from it, but not the sealed batch: everything will be read again from
        its beginning.
        """
        with self._transaction(durable=True) as connection:
            connection.execute(
                "UPDATE documents SET phase = ?, checkpoint = ?, partial = x'', server_version = NULL, incarnation = ?, expected = x'' "
                "WHERE id = ?",
                (Phase.HEAL, BEGINNING, incarnation, document),
            )

    def end_heal(self, document: int, through: int, version: bytes) -> None:
        """The stream has everything that this file has: nothing is left to send up to outbox row `through`."""
        with self._transaction(durable=True) as connection:
            connection.execute("DELETE FROM batches WHERE document = ?", (document,))
            edits = connection.execute("DELETE FROM outbox WHERE document = ? AND id <= ?", (document, through)).rowcount
            connection.execute(
                "UPDATE documents SET durable = durable + ?, server_version = ?, phase = ?, left_through = max(left_through, ?) "
                "WHERE id = ?",
                (edits, version, Phase.FOLLOW, through, document),
            )

    def set_apart(self, document: int, path: str, *, producer_id: str, phase: Phase) -> None:
        """Give all that is here of the document the name `path`, as a local document, and make an empty one under the old name.

        The new one begins in `phase`. What the copy knew of the server is forgotten, its sealed batch too: the rows stay in its outbox.
        """
        with self._transaction(durable=True) as connection:
            (name,) = connection.execute("SELECT path FROM documents WHERE id = ?", (document,)).fetchone()
            connection.execute("DELETE FROM batches WHERE document = ?", (document,))
            connection.execute(
                "UPDATE documents SET path = ?, phase = ?, server = NULL, incarnation = NULL, checkpoint = ?, partial = x'', "
                "server_version = NULL, expected = x'' WHERE id = ?",
                (path, Phase.LOCAL, BEGINNING, document),
            )
            connection.execute(
                "INSERT INTO documents (crdt, service, path, format, phase, checkpoint, partial, producer_id, producer_seq, durable, "
                "left_through) SELECT crdt, service, ?, format, ?, ?, x'', ?, 0, 0, 0 FROM documents WHERE id = ?",
                (name, phase, BEGINNING, producer_id, document),
            )

    def compact(self, document: int, snapshot: bytes, *, through: int) -> None:
        """Put `snapshot`, which holds everything stored so far up to outbox row `through`, in place of the log.

        `through` is `last_row` as it was before the snapshot was taken: an edit that comes between belongs to the next one. Rows of the
        outbox stay until they are settled.
        """
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", (document, snapshot, through))
            connection.execute("DELETE FROM log WHERE document = ?", (document,))

    def quarantined(self, document: int) -> list[Quarantined]:
        """Return what came from a server and could not be used, oldest first."""
        with self._locked() as connection:
            rows = connection.execute(
                "SELECT offset, at, reason, data FROM quarantine WHERE document = ? ORDER BY id", (document,)
            ).fetchall()
        for row in rows:
            self._require_types(row, (str, float, str, bytes))
        return [Quarantined(Offset(offset), at, reason, data) for offset, at, reason, data in rows]

    # The connection

    @contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors_mapped():
            yield self._connection

    @contextmanager
    def _transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        with self._locked() as connection:
            raise_sync = durable and self._sync != "FULL"
            if raise_sync:
                connection.execute("PRAGMA synchronous=FULL")
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            finally:
                if raise_sync:
                    connection.execute("PRAGMA synchronous=NORMAL")

    @contextmanager
    def _errors_mapped(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._map_error(error) from error
        except UnicodeDecodeError as error:
            # Of SQLite's own message, which quotes what is damaged.
            raise CorruptFileError(f"{self.path}: the file is damaged") from error

    def _map_error(self, error: sqlite3.Error) -> Exception:
        if self._closed:
            return ClosedError(f"{self.path} is closed")
        code = getattr(error, "sqlite_errorcode", None)
        kind, reason = _BY_CODE.get((code or 0) & 0xFF, (StoreError, str(error)))
        return kind(f"{self.path}: {reason}")


_BY_CODE: Final[dict[int, tuple[Callable[[str], StoreError], str]]] = {
    sqlite3.SQLITE_FULL: (StorageFullError, "there is no space left for it"),
    sqlite3.SQLITE_CORRUPT: (CorruptFileError, "the file is damaged"),
    sqlite3.SQLITE_NOTADB: (CorruptFileError, "it is not a SQLite file, or it is damaged"),
}

_DOCUMENT: Final = (
    *(int, str, str, str, str, str, str | None, str | None, str, bytes, bytes | None),
    *(str, int, int, int, float | None, int | None, int, int, bytes),
)
_BATCH: Final = (str, int, int, int, int, str, bytes | None, bytes, int)
"""The types of a record's and a batch's columns, as selected above."""
