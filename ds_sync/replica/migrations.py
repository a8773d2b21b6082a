"""The steps from an empty file to today's tables, in order. A step that has shipped is never changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

from sqlite_utils import Database


def _first(database: Database) -> None:
    database.table("documents").create(
        {
            "id": int,
            "crdt": str,
            "service": str,
            "path": str,
            "format": str,
            "phase": str,
            "server": str,  # the base URL that checkpoint and incarnation speak of
            "incarnation": str,
            "checkpoint": str,
            "partial": bytes,  # the cut frame before the checkpoint
            "server_version": bytes,  # the CRDT version that the stream is known to hold; NULL: nothing is known
            "producer_id": str,
            "producer_seq": int,
            "durable": int,  # edits of this file that a server has acknowledged
            "left_through": int,  # the newest row that has left the outbox: no id is given twice
        },
        pk="id",
        not_null={
            *("crdt", "service", "path", "format", "phase", "checkpoint", "partial"),
            *("producer_id", "producer_seq", "durable", "left_through"),
        },
    )
    database.table("documents").create_index(["crdt", "service", "path"], unique=True)
    database.table("snapshots").create({"document": int, "snapshot": bytes, "outbox_through": int}, pk="document", not_null={"snapshot"})
    database.table("log").create({"id": int, "document": int, "frames": bytes}, pk="id", not_null={"document", "frames"})
    database.table("log").create_index(["document"])
    database.table("batches").create(
        {
            "document": int,
            "producer_id": str,
            "epoch": int,
            "seq": int,
            "through": int,  # the last outbox row it covers
            "edits": int,  # how many rows that is
            "sealed_at": str,  # the checkpoint at that moment
            "version": bytes,  # the server_version once it is settled; NULL: stays as it is
            "payload": bytes,
            "healing": int,  # 1: more than its rows
        },
        pk="document",
        not_null={"producer_id", "epoch", "seq", "through", "edits", "sealed_at", "payload", "healing"},
    )
    database.table("quarantine").create(
        {"id": int, "document": int, "offset": str, "at": float, "reason": str, "data": bytes},
        pk="id",
        not_null={"document", "offset", "at", "reason", "data"},
    )
    # By hand: sqlite-utils makes no table without a rowid, and this one is the hot path. Rows of one document lie together, in order.
    database.execute(
        "CREATE TABLE outbox (document INTEGER NOT NULL, id INTEGER NOT NULL, at REAL NOT NULL, data BLOB NOT NULL, "
        "PRIMARY KEY (document, id)) WITHOUT ROWID"
    )


def _second(database: Database) -> None:
    # The digests of batches that the server said it has and that nobody has read back yet, oldest first, one behind the other. In the
    # document's own row, which the commits that add and take away write anyway.
    database.execute("ALTER TABLE documents ADD COLUMN expected BLOB NOT NULL DEFAULT x''")


STEPS: Final[tuple[Callable[[Database], None], ...]] = (_first, _second)


def migrate(connection: sqlite3.Connection, version: int, *, application_id: int) -> None:
    """Take the file from `version` to the newest, each step, its number and the file's mark in one transaction."""
    database = Database(connection, execute_plugins=False)
    for number, step in enumerate(STEPS[version:], version + 1):
        connection.execute("BEGIN EXCLUSIVE")
        try:
            step(database)
            connection.execute(f"PRAGMA application_id = {application_id}")
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # on a full disk SQLite has rolled back already
                connection.execute("ROLLBACK")
            raise
