"""SQLite files: of pycrdt-store (ystore.db of Jupyter and pycrdt-websocket), and of Hocuspocus."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ds_sync.exceptions import SourceError
from ds_sync.sources import SourceOptions
from ds_sync_yjs.stores.update_file import SQLITE_MAGIC, check_whole_update


@dataclass(frozen=True, slots=True)
class _Layout:
    kind: str
    table: str
    columns: frozenset[str]
    names: str
    updates: Sequence[tuple[str, str]]
    """Table, and the query for a document's updates in it."""
    names_are_urls: bool = False
    """A name may be the path of a URL, as ASGIServer of pycrdt-websocket stores it: "/today"."""


_LAYOUTS: Final = (
    _Layout(
        kind="pycrdt-store",
        table="yupdates",
        columns=frozenset({"path", "yupdate", "timestamp"}),
        names="SELECT DISTINCT path FROM yupdates",
        # The checkpoint is made of the updates that precede it, which may have been squashed since: both, for one may lack something.
        updates=(
            ("ycheckpoints", "SELECT checkpoint FROM ycheckpoints WHERE path = ?"),
            ("yupdates", "SELECT yupdate FROM yupdates WHERE path = ? ORDER BY timestamp, rowid"),
        ),
        names_are_urls=True,
    ),
    _Layout(
        kind="Hocuspocus",
        table="documents",
        columns=frozenset({"name", "data"}),
        names="SELECT DISTINCT name FROM documents",
        updates=(("documents", "SELECT data FROM documents WHERE name = ? ORDER BY rowid"),),
    ),
)


class SqliteFile:
    """A store of several documents in one file, opened for reading only."""

    crdt = "yjs"

    def __init__(self, path: Path, connection: sqlite3.Connection, layout: _Layout, tables: frozenset[str]) -> None:
        self._path = path
        self._connection = connection
        self._layout = layout
        self._tables = tables
        self._stored: dict[str, str] = {}
        """How the store calls what is called otherwise here."""

    @property
    def kind(self) -> str:
        return self._layout.kind

    def names(self) -> Sequence[str]:
        with _reading(self._path):
            names = [row[0] for row in self._connection.execute(self._layout.names)]
        if not all(isinstance(name, str) for name in names):
            raise SourceError(f"{self._path} is damaged: the name of a document is no text")
        if self._layout.names_are_urls:
            self._stored = _without_slashes(names)
            names = [*set(names).difference(self._stored.values()), *self._stored]
        return sorted(names)

    def read(self, name: str) -> Sequence[bytes]:
        updates = []
        stored = self._stored.get(name, name)
        with _reading(self._path):
            self._connection.execute("BEGIN")  # a server may be writing: one moment for all tables
            try:
                for table, query in self._layout.updates:
                    if table in self._tables:
                        updates += [(table, row[0]) for row in self._connection.execute(query, (stored,))]
            finally:
                self._connection.rollback()
        for number, (table, update) in enumerate(updates, 1):
            try:
                if not isinstance(update, bytes):
                    raise SourceError("no bytes")
                check_whole_update(update)
            except SourceError as error:
                raise SourceError(f"{number} of {len(updates)} ({table}): {error}; a compressed store can't be read") from error
        return [update for _, update in updates]

    def close(self) -> None:
        self._connection.close()


def _without_slashes(names: Sequence[str]) -> dict[str, str]:
    """Return the names that are there without the slashes around them, and what they are with them. One that is taken stays as it is."""
    bare: dict[str, str] = {}
    taken = set(names)
    for name in sorted(names):
        short = name.strip("/")
        if short and short not in taken:
            bare[short] = name
            taken.add(short)
    return bare


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise SourceError(f"{path} can't be read: {error}") from error


def open_sqlite_file(path: Path, options: SourceOptions) -> SqliteFile | None:
    """Return the store at `path` if it is an SQLite file with tables that are known (`ds_sync.sources.OpenSource`)."""
    try:
        with path.open("rb") as file:
            if file.read(len(SQLITE_MAGIC)) != SQLITE_MAGIC:
                return None
    except OSError:  # a folder, say
        return None
    with _reading(path):
        # From any thread, one at a time, as the port says.
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
        try:
            tables = frozenset(row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
            for layout in _LAYOUTS:
                if layout.table in tables:
                    columns = {row[1] for row in connection.execute(f"PRAGMA table_info({layout.table})")}
                    if layout.columns <= columns:
                        return SqliteFile(path, connection, layout, tables)
        except BaseException:
            connection.close()
            raise
        connection.close()
    return None
