"""What a power cut leaves of a SQLite file in WAL mode, told from what SQLite itself keeps about its write-ahead log.

The database file is written by checkpoints only. A checkpoint fsyncs the log, copies its pages, and fsyncs the database; SQLite begins
the log anew only after that. So what is in doubt is the end of the log, and nothing else: it is as long as it was at the last fsync, or
as long as it is now, or anything between; SQLite takes what ends with a whole commit. Which commits were fsynced is told by the
connection's own `PRAGMA synchronous` at the moment of the commit, and by the index of the log (`-shm`, https://www.sqlite.org/walformat.html
section 2), which says how many frames there are, and how many of them a checkpoint has copied.

Not modelled: sectors that are written out of order, and power that fails inside a checkpoint. The log's checksums make the first the same
as a shorter log; the second leaves the log whole. A disk that is not waited for (`synchronous=OFF`) may lose all of a log at most here.
"""

from __future__ import annotations

import random
import sqlite3
import struct
from pathlib import Path
from typing import Any, Final

_HEADER: Final = 32
_FRAME_HEADER: Final = 24
_NORMAL: Final = 1
_FULL: Final = 2


class Image:
    """A SQLite file and its write-ahead log at one moment: what the next process finds."""

    def __init__(self, main: bytes, wal: bytes | None) -> None:
        self.main = main
        self.wal = wal

    @classmethod
    def take(cls, path: Path) -> Image:
        """Copy the files. Everything that SQLite has written is in them: a killed process loses no page that the system has."""
        wal = _wal(path)
        return cls(path.read_bytes(), wal.read_bytes() if wal.exists() else None)

    def restore(self, path: Path) -> None:
        """Make the files at `path` be these. Nobody may have them open."""
        path.write_bytes(self.main)
        path.with_name(path.name + "-shm").unlink(missing_ok=True)
        if self.wal is None:
            _wal(path).unlink(missing_ok=True)
        else:
            _wal(path).write_bytes(self.wal)


class Disk:
    """Follows one file through the lives of its processes. Commits are counted from 1; `cut` says which of them are left."""

    def __init__(self, path: Path) -> None:
        self.commits = 0
        self.fsynced = 0
        """The newest commit that no power cut can take."""
        self._index = path.with_name(path.name + "-shm")
        self._salt: bytes | None = None
        self._frames = self._copied = 0
        self._ends: dict[int, int] = {}
        """For each commit from the last fsynced one on: the frames of the log at its end."""

    def watch(self, connection: sqlite3.Connection) -> Any:
        """Return `connection`, with every commit made through it counted. What the log holds in a file's first life counts as fsynced."""
        self._look(connection)
        return _WatchedConnection(connection, self)

    def _look(self, connection: sqlite3.Connection) -> None:
        with self._index.open("rb") as file:
            index = file.read(100)
        (frames,) = struct.unpack_from("=I", index, 16)
        salt = index[32:40]
        (copied,) = struct.unpack_from("=I", index, 96)
        if salt != self._salt:
            self._salt, self._frames, self._copied = salt, 0 if self._ends else frames, 0
            self._note_fsync()
        if (frames, copied) == (self._frames, self._copied):
            return
        level = connection.execute("PRAGMA synchronous").fetchone()[0]
        if frames != self._frames:
            self.commits += 1
            self._frames = self._ends[self.commits] = frames
            if level >= _FULL:
                self._note_fsync()
        if copied > self._copied and level >= _NORMAL:
            self._note_fsync()
        self._copied = copied

    def _note_fsync(self) -> None:
        self.fsynced = self.commits
        self._ends = {self.commits: self._frames}

    def cut(self, image: Image, random: random.Random) -> Image:
        """Return what a power cut leaves of `image`; `commits` is then the newest one that is left."""
        if image.wal is None or not self._ends:
            return image
        kept = random.choice((self.fsynced, random.randint(self.fsynced, self.commits)))
        end = self._ends[kept]
        page = int.from_bytes(image.main[16:18], "big")
        size = _FRAME_HEADER + (65536 if page == 1 else page)
        torn = random.randrange((self._ends[kept + 1] - end) * size) if kept < self.commits else 0
        self.commits, self._frames = kept, end
        self._note_fsync()  # whoever opens the file next has read it from the disk
        return Image(image.main, image.wal[: _HEADER + end * size + torn])


class _WatchedConnection:
    def __init__(self, connection: sqlite3.Connection, disk: Disk) -> None:
        self._connection = connection
        self._disk = disk

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        cursor = self._connection.execute(statement, *parameters)
        if not self._connection.in_transaction and not statement.startswith("SELECT"):
            self._disk._look(self._connection)
        return cursor

    def executemany(self, statement: str, parameters: Any) -> sqlite3.Cursor:
        cursor = self._connection.executemany(statement, parameters)
        if not self._connection.in_transaction:
            self._disk._look(self._connection)
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def _wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")
