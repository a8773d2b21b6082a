"""`ds-sync import` of a damaged file into a replica's file: exit code 0, 1 or 2, a line for people, and the file stays as it is."""

from __future__ import annotations

import contextlib
import io
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import click
from pycrdt import Doc, Text

from ds_sync.cli.main import main

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

HOCUSPOCUS = "CREATE TABLE documents (name varchar(255) NOT NULL, data blob NOT NULL, UNIQUE(name))"
PYCRDT_STORE = "CREATE TABLE yupdates (path TEXT NOT NULL, yupdate BLOB, metadata BLOB, timestamp REAL NOT NULL)"


def build_sources(folder: Path) -> list[bytes]:
    """Return one update, and stores of both kinds with two documents each."""
    doc: Doc[Any] = Doc(client_id=77)
    text = doc.get("text", type=Text)
    text += "imported é😀"
    update = bytes(doc.get_update())
    seeds = [update]
    for kind, schema, insert in (
        ("hocuspocus", HOCUSPOCUS, "INSERT INTO documents VALUES (?, ?)"),
        ("pycrdt", PYCRDT_STORE, "INSERT INTO yupdates VALUES (?, ?, x'', 1.0)"),
    ):
        path = folder / kind
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute(schema)
            connection.executemany(insert, [("one", update), ("notes/two é", update)])
            connection.commit()
        seeds.append(path.read_bytes())
    return seeds


def check_import(data: bytes) -> None:
    """Import it, and import it again: what came then is there already."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        source, target = Path(folder) / "source.db", Path(folder) / "target.db"
        source.write_bytes(data)
        code, said = run(["import", str(source), str(target)])
        again, more = run(["import", str(source), str(target)])
        if source.read_bytes() != data:
            raise AssertionError(f"the source has been changed: {said}")
    if (code, ", added" in more) != (again, False):
        raise AssertionError(f"the second run ended with {again}, the first with {code}: {said}\n{more}")


def run(arguments: list[str]) -> tuple[int, str]:
    """Run the command in this process; return the exit code and what it said. Raises what is no answer for people."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
        except click.exceptions.Exit as end:
            code = end.exit_code
        else:
            code = 0
    said = out.getvalue()
    if code not in (0, 1, 2) or (code and not said.strip()) or "Traceback" in said:
        raise AssertionError(f"the exit code is {code}, and it said: {said}")
    return int(code), said
