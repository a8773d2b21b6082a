"""A process that lets inputs cross and can die of it: `python worker.py yjs|replica|server|import`, inputs on standard input.

Each input comes with its length before it (8 bytes); the answer is a line: "ok", or what was found.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from import_check import check_import
from pycrdt import Text

from ds_sync import Replica
from ds_sync.crdt import load_adapter
from ds_sync.exceptions import DsSyncError, InvalidUpdateError, StoreError
from ds_sync.protocol.decisions import AppendRequest, decide_append
from ds_sync.protocol.history import START
from ds_sync.replica.store import LocalStore
from ds_sync.server.engines.sqlite import SqliteEngine

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where files are made that need not survive anything: no time is spent on syncing them."""

SUFFIXES = ("", "-wal")


def split(data: bytes) -> list[bytes]:
    """Return the two files of an input: 8 bytes of length, the database, its log."""
    length = min(int.from_bytes(data[:8], "big"), len(data))
    return [data[8 : 8 + length], data[8 + length :]]


def join(files: list[bytes]) -> bytes:
    """Return the input for a database and its log."""
    return len(files[0]).to_bytes(8, "big") + b"".join(files)


def check_yjs(data: bytes) -> None:
    """The document, the length of which is in the first bytes, gets the rest as an update; it stays whole whatever that is."""
    base, update = split(data)
    adapter: Any = load_adapter("yjs")
    doc = adapter.new()
    adapter.apply(doc, [base])
    text = doc.get("text", type=Text)
    before = str(text)
    try:
        adapter.apply(doc, [update])
    except InvalidUpdateError:
        pass
    else:
        adapter.apply(doc, [update])
    for attempt in (lambda: adapter.merge([base, update]), lambda: adapter.missing(doc, update)):
        with contextlib.suppress(InvalidUpdateError):
            attempt()
    adapter.version(doc)
    text.insert(0, "still here ")
    copy = adapter.new()
    adapter.apply(copy, [adapter.snapshot(doc)])
    # In any order: pycrdt loses count where a deletion parts the halves of a surrogate pair, and a copy may then order a text otherwise.
    if sorted(str(copy.get("text", type=Text))) != sorted(str(text)) or "still here" not in str(text):
        raise AssertionError(f"the document was {before!r}, is {text!s}, and its snapshot gives {copy.get('text', type=Text)!s}")


def dump(path: Path) -> list[str] | None:
    """Return all rows of a file by SQLite itself, or None if it can't read them."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return [line for line in connection.iterdump() if line.startswith("INSERT")]
    except (sqlite3.Error, UnicodeDecodeError, OverflowError):
        return None


@contextlib.contextmanager
def laid_out(data: bytes, name: str) -> Iterator[tuple[Path, list[str] | None]]:
    """Write the files of an input; yield the path and what SQLite reads from a copy."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        for suffix, content in zip(SUFFIXES, split(data), strict=True):
            for stem in (name, "copy.db"):
                if content or not suffix:
                    (Path(folder) / f"{stem}{suffix}").write_bytes(content)
        yield Path(folder) / name, dump(Path(folder) / "copy.db")


def refused(path: Path, data: bytes) -> None:
    """A file that was refused is as it was."""
    for suffix, content in zip(SUFFIXES, split(data), strict=True):
        file = Path(f"{path}{suffix}")
        if (file.read_bytes() if file.exists() else b"") != content:
            raise AssertionError(f"a file that was refused has been changed: {file.name}")


def same_rows(path: Path, before: list[str] | None, *, of: tuple[str, ...]) -> None:
    """Opening and closing a file took no row away."""
    after = dump(path)
    if before is None or after is None:
        return
    lost = {line for line in before if line.startswith(tuple(f'INSERT INTO "{name}"' for name in of))} - set(after)
    if lost:
        raise AssertionError(f"opening the file took rows away: {sorted(lost)[:3]}")


def check_replica(data: bytes) -> None:
    """The store refuses the file and leaves it as it is, or keeps every row; and edits that return are there."""
    with laid_out(data, "replica.db") as (path, before):
        try:
            store = LocalStore(path)
        except StoreError:
            refused(path, data)
            return
        try:
            documents = store.documents()
            for document in documents:
                store.load(document.id)
                list(store.outbox_rows(document.id, after=0, limit=100))
                store.quarantined(document.id)
        except StoreError:
            return
        finally:
            store.close()
        same_rows(path, before, of=("documents", "outbox", "log", "snapshots", "batches", "quarantine"))
        with contextlib.suppress(DsSyncError, UnicodeError):
            asyncio.run(_edit(path))


async def _edit(path: Path) -> None:
    async with Replica(path) as replica:
        document = await replica.open("notes/fuzz")
        text = document.doc.get("text", type=Text)
        text.insert(0, "edited ")
    async with Replica(path) as replica:
        document = await replica.open("notes/fuzz")
        if not str(document.doc.get("text", type=Text)).startswith("edited "):
            raise AssertionError("an edit that returned is gone")


def check_server(data: bytes) -> None:
    """The engine refuses the file and leaves it as it is, or serves it; and appends that return are there."""
    with laid_out(data, "server.db") as (path, _):
        asyncio.run(_serve(path, data))


async def _serve(path: Path, data: bytes) -> None:
    try:
        engine = SqliteEngine(path, recent_bytes=0)
    except StoreError:
        refused(path, data)
        return
    grown: dict[str, bytes] = {}
    try:
        for name in await engine.list("**"):
            with contextlib.suppress(DsSyncError):
                await _read(engine, name)
                state = (await engine.read(name, None, 0)).state
                if state is not None:
                    request = AppendRequest(name, b"appended", state.content_type)
                    await engine.transact((name,), lambda views, request=request: decide_append(views[0], request, 0.0))  # type: ignore[misc]
                    grown[name] = await _read(engine, name)
    finally:
        await engine.aclose()
    with contextlib.suppress(DsSyncError):  # a damaged file may show it late, but not by other bytes
        engine = SqliteEngine(path)
        try:
            for name, content in grown.items():
                if await _read(engine, name) != content:
                    raise AssertionError(f"{name}: what was appended is gone")
        finally:
            await engine.aclose()


async def _read(engine: SqliteEngine, name: str) -> bytes:
    content, after = b"", START
    while True:
        run = await engine.read(name, after, 1 << 20)
        content += b"".join(run.records)
        if run.up_to_date or not run.records:
            return content
        after = run.end


CHECKS: dict[str, Callable[[bytes], None]] = {
    "yjs": check_yjs,
    "replica": check_replica,
    "server": check_server,
    "import": check_import,
}


def main() -> None:
    """Take inputs until there are no more."""
    import traceback

    faulthandler.enable()
    check = CHECKS[sys.argv[1]]
    source, target = sys.stdin.buffer, sys.stdout
    while head := source.read(8):
        data = source.read(int.from_bytes(head, "big"))
        try:
            check(data)
            said = "ok"
        except BaseException:  # a panic in Rust is no Exception
            said = "".join(traceback.format_exc()[-3000:])
        target.write(repr(said) + "\n")
        target.flush()


if __name__ == "__main__":
    main()
