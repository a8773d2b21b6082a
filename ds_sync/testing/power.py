"""A disk whose power can be cut, under SQLite: it knows what each file held when it was last synced.

    disk = PowerDisk(on_step=take_a_copy)
    connection = disk.connect("streams.db")       # speaks as much of sqlite3 as stores and engines use
    disk.leave_killed("streams.db", "killed.db")  # what the death of the process leaves: all that was written
    disk.leave_cut("streams.db", "cut.db", rng)   # what a power cut leaves: of what was not synced, any sectors

What is left is opened with the standard library's sqlite3. It needs `apsw`, because the standard library can't see what is synced when.

A power cut may leave, of each sector written since the last sync, the old or the new bytes. SQLite's database file is written by
checkpoints only, which sync the write-ahead log first and the database after; so a torn database has an intact log beside it, from which
SQLite writes the same pages again. Of the log, SQLite takes the frames whose checksums follow on one another, so that a torn tail ends
it early: a suffix of the commits is gone, and never one in the middle.
"""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

try:
    import apsw
except ImportError as error:
    raise ImportError("ds_sync.testing.power needs apsw: pip install apsw") from error

OnStep = Callable[[str], None]
"""Called with what is about to happen: an SQL statement, or "write", "sync", "truncate", "delete" and a file's name."""

SECTOR: Final = 512
"""Bytes that are written whole or not at all."""

_FILES: Final = ("", "-wal", "-journal")
_names = itertools.count()


def ignore_step(step: str) -> None:
    """For `on_step`: nobody wants to know."""


class PowerDisk(apsw.VFS):
    """The files of the connections made by `connect`; they are real files, which anybody can look at."""

    def __init__(self, *, on_step: OnStep = ignore_step, checkpoint_pages: int = 6) -> None:
        """`checkpoint_pages`: pages of the log after which SQLite checkpoints; few, so that a short test has some."""
        self.on_step = on_step
        self._checkpoint_pages = checkpoint_pages
        self._synced: dict[str, bytes] = {}
        self._shared: dict[str, apsw.Connection] = {}
        self._name = f"ds-sync-power-{next(_names)}"
        super().__init__(self._name, "")

    def connect(self, path: str | os.PathLike[str], *, readonly: bool = False) -> Any:
        """Return a `PowerConnection` without implicit transactions.

        Locks are held from the first statement on (this disk has no shared memory, without which SQLite's write-ahead log allows one
        connection only), so a `readonly` one is another handle to the connection that is open already. Use one thread.
        """
        name = os.path.abspath(path)
        if readonly:
            return PowerConnection(self._shared[name], owner=False)
        connection = apsw.Connection(name, vfs=self._name)
        self._shared[name] = connection
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute(f"PRAGMA wal_autocheckpoint={self._checkpoint_pages}")
        connection.exec_trace = self._trace
        return PowerConnection(connection)

    def leave_killed(self, path: str | os.PathLike[str], copy: str | os.PathLike[str]) -> None:
        """Write to `copy`, and beside it, what would be there if the process died now."""
        for suffix in _FILES:
            _leave(copy, suffix, _read(f"{os.path.abspath(path)}{suffix}"))

    def leave_cut(self, path: str | os.PathLike[str], copy: str | os.PathLike[str], rng: random.Random | None) -> None:
        """Write to `copy`, and beside it, what a power cut would leave now. Without `rng`: what was synced, and nothing else."""
        for suffix in _FILES:
            name = f"{os.path.abspath(path)}{suffix}"
            old, new = self._synced.get(name), _read(name)
            if rng is None or old == new:
                _leave(copy, suffix, old)
                continue
            if old is None or new is None:  # made or deleted, and its directory was not synced
                _leave(copy, suffix, rng.choice((old, new)))
                continue
            keep = rng.choice((0.0, 0.5, 0.9, 1.0))
            size = rng.choice((len(old), len(new), max(len(old), len(new))))
            sectors = [(new if rng.random() < keep else old)[at : at + SECTOR].ljust(SECTOR, b"\0") for at in range(0, size, SECTOR)]
            _leave(copy, suffix, b"".join(sectors)[:size])

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        """Open a file; one that was there before is taken for synced."""
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None:
            raise AssertionError("SQLite keeps its temporary files in memory")
        if path not in self._synced and (there := _read(path)) is not None:
            self._synced[path] = there
        return _PowerFile(self, path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        """Delete a file; after a power cut it may be back unless the directory is synced."""
        self.on_step(f"delete {os.path.basename(filename)}")
        super().xDelete(filename, syncdir)
        if syncdir:
            self._synced.pop(filename, None)

    def receive_sync(self, path: str, *, directory: bool) -> None:
        """Take the file's content for what survives; with `directory`, also that other files are not there any more."""
        self._synced[path] = Path(path).read_bytes()
        if directory:
            for name in [name for name in self._synced if not os.path.exists(name)]:
                del self._synced[name]

    def _trace(self, cursor: apsw.Cursor, statement: str, values: object) -> bool:
        self.on_step(statement)
        return True


class _PowerFile(apsw.VFSFile):
    def __init__(self, disk: PowerDisk, path: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk, self._path, self._file = disk, path, os.path.basename(path)
        self._fresh = not os.path.exists(path)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.on_step(f"write {self._file}")
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.on_step(f"truncate {self._file}")
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.on_step(f"sync {self._file}")
        # Not passed on: what counts as synced is in our hands, and a real fsync takes its time.
        # At the first sync of a journal or log that it made, SQLite syncs the directory, too.
        self._disk.receive_sync(self._path, directory=self._fresh)
        self._fresh = False


class PowerConnection:
    """An apsw connection that answers to the names, and raises the errors, of sqlite3."""

    def __init__(self, connection: apsw.Connection, *, owner: bool = True) -> None:
        self._connection = connection
        self._owner = owner

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._connection.in_transaction

    def execute(self, statement: str, values: Sequence[Any] = ()) -> apsw.Cursor:
        """Run one statement. Raises sqlite3.Error with SQLite's code."""
        with _errors_mapped():
            return self._connection.execute(statement, tuple(values))

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> apsw.Cursor:
        """Run one statement for each of the rows. Raises sqlite3.Error with SQLite's code."""
        with _errors_mapped():
            return self._connection.executemany(statement, rows)

    def close(self) -> None:
        """Close the connection if it is its own."""
        if self._owner:
            with _errors_mapped():
                self._connection.close()


@contextmanager
def _errors_mapped() -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        ours = sqlite3.OperationalError(str(error))
        ours.sqlite_errorcode = getattr(error, "extendedresult", 0) or getattr(error, "result", 0)
        raise ours from error


def _read(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None


def _leave(copy: str | os.PathLike[str], suffix: str, content: bytes | None) -> None:
    target = Path(f"{os.fspath(copy)}{suffix}")
    if content is None:
        target.unlink(missing_ok=True)
    else:
        target.write_bytes(content)
