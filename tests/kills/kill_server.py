"""The server, to be killed at an exact point: between a commit and its answer, between two statements of a commit, or between two steps of
making a snapshot and dropping what stands before it.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from typing import Any

from ds_sync.cli import serve
from ds_sync.server.documents import compaction, read_positions, trimming
from ds_sync.server.documents.snapshots import Snapshots
from ds_sync.server.documents.trimming import Trimmer
from ds_sync.server.engines import sqlite
from ds_sync.server.engines.writing import write_commit
from ds_sync.testing.inline_worker import open_inline

SETTLE_ROWS = 100
"""Few, so that settling happens all the time."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class SettlingEngine(sqlite.SqliteEngine):
    def __init__(self, path: Any, **options: Any) -> None:
        super().__init__(path, **options, settle_rows=SETTLE_ROWS)


class UnansweringEngine(SettlingEngine):
    """Dies when the `fatal`th append is durable, before anybody is told."""

    fatal = 0
    appends = 0

    async def transact(self, paths: Sequence[str], decide: Any, *, producer: str | None = None) -> Any:
        result = await super().transact(paths, decide, producer=producer)
        if producer is not None:
            self._count_append()
        return result

    def submit(self, path: str, decide: Any, done: Any) -> None:
        def count(result: Any, error: Exception | None) -> None:
            if error is None:
                self._count_append()
            done(result, error)

        super().submit(path, decide, count)

    def _count_append(self) -> None:
        self.appends += 1
        if self.appends == self.fatal:
            die()


def die_at(function: str, call: int, statement: int) -> None:
    """Die in the `call`th call of the engine's `function`, before its `statement`th SQL statement, or at its end."""
    original = getattr(sqlite, function)
    calls, statements = 0, 0

    def trace(_: str) -> None:
        nonlocal statements
        if statements == statement:
            die()
        statements += 1

    def dying(connection: sqlite3.Connection, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            connection.set_trace_callback(trace)
        result = original(connection, *args)
        if calls == call:
            die()
        return result

    setattr(sqlite, function, dying)


def die_at_step(step: int) -> None:
    """Die before or after a step of compaction or trimming: at the `step`th of these moments."""
    moments = 0

    def pass_moment() -> None:
        nonlocal moments
        moments += 1
        if moments == step:
            die()

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        async def dying(*args: Any, **options: Any) -> Any:
            pass_moment()
            result = await original(*args, **options)
            pass_moment()
            return result

        setattr(owner, name, dying)

    for name in ("store", "publish", "delete", "delete_all"):
        watch(Snapshots, name)
    watch(Trimmer, "trim")


def trim_eagerly() -> None:
    """Make snapshots of almost everything, at once and in this process, and count as read what was read in the last tenth of a second."""
    compaction.open_process = open_inline  # type: ignore[assignment]
    compaction.CHECK_SECONDS = 0.02  # type: ignore[misc]
    compaction.PATIENCE = 0.02  # type: ignore[misc]
    compaction.EARLY_REST = 0.0  # type: ignore[misc]
    read_positions.SPAN = 0.1  # type: ignore[misc]
    trimming.PAUSE = 0.05  # type: ignore[misc]


def break_trim() -> None:
    """Everything goes, up to the tail, snapshot or not."""

    def drop(milestones: Any, state: Any, *_: Any) -> Any:
        return state.place if state.position else None

    trimming.choose_trim = drop


def break_commit() -> None:
    """Each commit is written with the next one: answers come before their commit."""
    late: list[Any] = []

    def behind(connection: sqlite3.Connection, rows: Any) -> None:
        if late:
            write_commit(connection, late[:])
        late[:] = rows

    sqlite.write_commit = behind  # type: ignore[assignment]
    SettlingEngine.__init__ = sqlite.SqliteEngine.__init__  # type: ignore[method-assign]  # settling would find rows missing


if __name__ == "__main__":
    config = json.loads(sys.argv.pop(1))
    sqlite.SqliteEngine = SettlingEngine  # type: ignore[misc]
    if config["trimming"]:
        trim_eagerly()
    if config["broken"] == "commit":
        break_commit()
    elif config["broken"] == "trim":
        break_trim()
    if config["die"] and config["die"][0] == "answer":
        UnansweringEngine.fatal = config["die"][1]
        sqlite.SqliteEngine = UnansweringEngine  # type: ignore[misc]
    elif config["die"] and config["die"][0] == "step":
        die_at_step(config["die"][1])
    elif config["die"]:
        die_at(*config["die"])
    serve.serve()
