"""`ds-sync import` and `ds-sync export`: everything comes, once, whole or not at all, and is compared at the end."""

import json
import math
import os
import pty
import re
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pycrdt import Array, Doc, Map, Text

from ds_sync.cli import imports
from ds_sync.cli.main import main
from ds_sync.replica.places import Content
from ds_sync.replica.records import DocumentKey
from ds_sync.testing.server_process import ServerProcess

STORES = Path(__file__).parent / "stores"
"""Files of the servers themselves; fill.mjs says how they were made."""

SCHEMA = 'CREATE TABLE "documents" ("name" varchar(255) NOT NULL, "data" blob NOT NULL, UNIQUE(name))'

HOLDER = """
import asyncio, sys
from ds_sync import Replica

async def hold():
    async with Replica(sys.argv[1]):
        print("in", flush=True)
        sys.stdin.read()

asyncio.run(hold())
"""


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def build(text: str) -> bytes:
    doc: Doc[Any] = Doc(client_id=123_456_789)  # ids have one to five bytes
    doc["body"] = body = Text(f"-{text}")
    del body[0]
    doc["map"] = Map({"n": 1})
    return bytes(doc.get_update())


def make_store(path: Path, documents: dict[str, bytes]) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(SCHEMA)
        connection.executemany("INSERT INTO documents VALUES (?, ?)", documents.items())
        connection.commit()
    return path


def make_ystore(path: Path, updates: list[tuple[str, bytes]]) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE yupdates (path TEXT NOT NULL, yupdate BLOB, metadata BLOB, timestamp REAL NOT NULL)")
        connection.executemany("INSERT INTO yupdates VALUES (?, ?, x'', 1.0)", updates)
        connection.commit()
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as process:
        yield process


@pytest.fixture(params=["file", "server"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield str(tmp_path / "target.db")
        return
    with ServerProcess() as process:
        yield process.url


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "hocuspocus.sqlite", {"one": build("hello"), "notes/Übung 2": build("Grüße 😀")})


@dataclass
class Forgetful:
    """A place that says yes to whatever is written, and holds this."""

    held: bytes | None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator["Forgetful"]:
        yield self

    writing = reading

    async def read(self, key: DocumentKey) -> bytes | None:
        return self.held

    async def write(self, key: DocumentKey, content: Content) -> bool:
        return True

    def keys(self) -> None:
        return None


def show(written: str) -> list[str]:
    """Return what a terminal shows of it, line by line: it obeys what moves the cursor up and clears the line, and no more."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[^\x1b]", written):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + 1 :]
            column += 1
    return lines


def run_on_a_terminal(*arguments: object) -> str:
    """Return what the command writes there, and what rich says to the terminal with it."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ds_sync.cli.main", *map(str, arguments)]
    written = b""
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    ) as process:
        os.close(theirs)
        with open(ours, "rb", buffering=0) as terminal:
            try:
                while piece := terminal.read(4096):
                    written += piece
            except OSError:  # Linux says so of the end
                pass
    assert process.returncode == 0
    return written.decode()


def rows(target: str) -> int:
    """How many updates a place holds."""
    with closing(sqlite3.connect(target)) as connection:
        (count,) = connection.execute("SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM log)").fetchone()
    return int(count)


def test_all_documents_come_and_a_second_run_adds_nothing(store: Path, target: str) -> None:
    first = call("import", store, target)
    assert (first.exit_code, first.output) == (
        0,
        f"{store}: Hocuspocus, 2 documents\n"
        f"  notes/Übung 2: {len(build('Grüße 😀'))} bytes, added\n"
        f"  one: {len(build('hello'))} bytes, added\n",
    )
    assert call("export", target, "one", "--format", "text").output == "hello"
    before = call("export", target, "notes/Übung 2").stdout_bytes
    again = call("import", store, target)
    assert again.exit_code == 0
    assert again.output.count("there already\n") == 2
    assert call("export", target, "notes/Übung 2").stdout_bytes == before
    if "://" not in target:
        assert rows(target) == 2


def test_a_dry_run_changes_nothing(store: Path, target: str) -> None:
    told = call("import", store, target, "--dry-run")
    assert (told.exit_code, told.output.count("bytes, new\n")) == (0, 2)
    assert not Path(target).exists()
    assert "there is no document" in call("export", target, "one").output
    call("import", store, target, "--document", "one")
    told = call("import", store, target, "--dry-run")
    assert "one: " in told.output
    assert told.output.count("bytes, there already\n") == 1
    assert told.output.count("bytes, new\n") == 1


def test_what_is_not_there_afterwards_has_not_been_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doc: Doc[Any] = Doc()
    doc["body"] = text = Text("hello")
    early = bytes(doc.get_update())
    text += " world"
    longer = bytes(doc.get_update())
    del text[0]
    store = make_store(tmp_path / "store.sqlite", {"one": doc.get_update()})
    for held in (None, b"\0\0", early, longer):  # the last lacks a deletion only
        monkeypatch.setattr(imports, "parse_place", lambda *_, held=held, **__: (Forgetful(held), None))
        done = call("import", store, "target")
        assert (done.exit_code, done.output) == (
            1,
            f"{store}: Hocuspocus, 1 document\n"
            "  one: FAILED: it was written, and is not there as a whole now\n"
            "ds-sync import: 1 of 1 not imported\n",
        )
    monkeypatch.setattr(imports, "parse_place", lambda *_, **__: (Forgetful(bytes(doc.get_update())), None))
    assert call("import", store, "target").output.endswith("bytes, added\n")


def test_an_import_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    base: Doc[Any] = Doc(client_id=1)
    updates: list[bytes] = []
    subscription = base.observe(lambda event: updates.append(bytes(event.update)))
    base["map"] = Map({"a": 1})
    base["body"] = body = Text()
    for number in range(2_000):  # as much as is put together before it is stored
        body += f"{number:04d} "
    base.unobserve(subscription)
    for client in range(2, 12):
        doc: Doc[Any] = Doc(client_id=client * 1_000_003)
        doc.apply_update(base.get_update())
        body = doc.get("body", type=Text)
        body.insert(client, f"client {client}")
        del body[client + 1], body[client + 4]
        doc.get("map", type=Map)["a"] = client
        updates.append(bytes(doc.get_update(base.get_state())))
    store = make_ystore(tmp_path / "ystore.db", [("one", update) for update in updates])
    stored = set()
    with ServerProcess() as process:
        for seed in ("1", "2"):
            environment = {**os.environ, "PYTHONHASHSEED": seed}
            file = tmp_path / f"{seed}.db"
            for target in (str(file), f"{process.url}/v1/yjs/work/docs/{seed}"):
                command = [sys.executable, "-m", "ds_sync.cli.main", "import", str(store), target]
                subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
            with closing(sqlite3.connect(file)) as connection:
                ((update,),) = connection.execute("SELECT data FROM outbox")
            with urllib.request.urlopen(f"{process.url}/v1/stream/yjs/work/docs/{seed}/.updates?offset=-1", timeout=60) as answer:
                sent = answer.read()
            assert sent.endswith(update)  # after its length
            stored.add(sent)
    assert len(stored) == 1


def test_on_a_terminal_each_result_has_a_line_of_its_own(store: Path, tmp_path: Path) -> None:
    sizes = len(build("Grüße 😀")), len(build("hello"))
    written = run_on_a_terminal("import", store, tmp_path / "target.db")
    assert "importing" in written
    assert "verifying" in written
    assert show(written)[1:] == [f"  notes/Übung 2: {sizes[0]} bytes, added", f"  one: {sizes[1]} bytes, added", ""]
    written = run_on_a_terminal("import", store, tmp_path / "target.db", "--dry-run")
    assert "comparing" in written
    assert show(written)[1:] == [f"  notes/Übung 2: {sizes[0]} bytes, there already", f"  one: {sizes[1]} bytes, there already", ""]


@pytest.mark.parametrize("file", ["hocuspocus.sqlite", "ystore.sqlite"])
def test_what_the_servers_themselves_have_stored_comes(file: str, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in STORES.iterdir()}
    target = tmp_path / "target.db"
    done = call("import", STORES / file, target)
    assert (done.exit_code, done.output.count("bytes, added\n")) == (0, 2)
    for name in ("today", "notes/Übung"):
        text = f"two: {name}: Grüße 😀, and the numbers {' '.join(map(str, range(70)))}"
        held = {"body": text, "map": {"list": [1, "two", {"three": None}]}, "page": "<item>in it</item>"}
        assert json.loads(call("export", target, name, "--format", "json").output) == held
        doc: Doc[Any] = Doc()
        doc.apply_update(call("export", target, name).stdout_bytes)
        assert doc.get("body", type=Text).diff()[:2] == [("two: ", None), (name[:3], {"bold": True})]
    assert {path.name: path.read_bytes() for path in STORES.iterdir()} == before


def test_what_others_wrote_stays(tmp_path: Path, target: str) -> None:
    ours: Doc[Any] = Doc()
    ours["body"] = text = Text("base ")
    early = make_store(tmp_path / "early.sqlite", {"one": ours.get_update()})
    theirs: Doc[Any] = Doc()
    theirs.apply_update(ours.get_update())
    theirs.get("body", type=Text).insert(5, "theirs ")
    late = make_store(tmp_path / "late.sqlite", {"one": theirs.get_update()})
    text.insert(0, "ours ")
    newer = make_store(tmp_path / "newer.sqlite", {"one": ours.get_update()})
    assert call("import", early, target).output.endswith("added\n")
    assert "to be added" in call("import", late, target, "--dry-run").output
    assert call("import", late, target).output.endswith("added\n")
    assert call("import", newer, target).output.endswith("added; TARGET has more\n")
    assert call("import", early, target).output.endswith("there already; TARGET has more\n")
    assert call("export", target, "one", "--format", "text").output == "ours base theirs "


def test_a_deletion_alone_is_news(tmp_path: Path, target: str) -> None:
    doc: Doc[Any] = Doc()
    doc["body"] = text = Text("hello")
    first = make_store(tmp_path / "first.sqlite", {"one": doc.get_update()})
    del text[0]
    second = make_store(tmp_path / "second.sqlite", {"one": doc.get_update()})
    call("import", first, target)
    assert "to be added" in call("import", second, target, "--dry-run").output
    assert call("import", second, target).output.endswith("added\n")
    assert call("export", target, "one", "--format", "text").output == "ello"


def test_bad_documents_fail_whole_and_hold_up_no_other(tmp_path: Path, target: str) -> None:
    good = build("good")
    store = make_store(
        tmp_path / "s.sqlite", {"cut": good[:-3], "fine": good, "a//b": good, "\x1b[31mred": good, "empty": b"\x00\x00", "v2": bytes(13)}
    )
    done = call("import", store, target)
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert f"  fine: {len(good)} bytes, added" in lines
    assert "  empty: empty, left out" in lines
    failed = {line.split(": FAILED: ")[0].strip(): line for line in lines if "FAILED" in line}
    assert set(failed) == {"cut", "a//b", "'\\x1b[31mred'", "v2"}
    assert "ends early" in failed["cut"]
    assert "version 2" in failed["v2"]
    assert "not a path" in failed["a//b"]
    assert lines[-1] == "ds-sync import: 4 of 6 not imported"
    assert "there is no document" in call("export", target, "cut").output
    assert "there is no document" in call("export", target, "empty").output
    renamed = call("import", store, target, "--document", "a//b", "--as", "a/b")
    assert renamed.output.endswith(f"  a//b as a/b: {len(good)} bytes, added\n")


def test_rooms_of_asgiserver_come_without_the_slash_before_them(tmp_path: Path) -> None:
    # Its rooms are called by the path of the URL.
    store = make_ystore(tmp_path / "ystore.db", [("/today", build("today")), ("/notes/b", build("b"))])
    target = tmp_path / "target.db"
    size = len(build("today"))
    done = call("import", store, target)
    assert (done.exit_code, done.output) == (
        0,
        f"{store}: pycrdt-store, 2 documents\n  notes/b: {len(build('b'))} bytes, added\n  today: {size} bytes, added\n",
    )
    assert call("export", target, "today", "--format", "text").output == "today"
    assert call("import", store, target, "--document", "today").output.endswith(f"  today: {size} bytes, there already\n")
    refused = call("import", store, target, "--document", "/today")
    assert (refused.exit_code, "SOURCE has no document '/today': it is 'today' here" in refused.output) == (2, True)


def test_two_rooms_that_differ_by_slashes_only_are_never_merged(tmp_path: Path) -> None:
    store = make_ystore(tmp_path / "ystore.db", [("/today", build("with")), ("today", build("without"))])
    target = tmp_path / "target.db"
    done = call("import", store, target)
    reason = "without slashes around it '/today' is 'today', and SOURCE has a document of that name, too"
    assert done.exit_code == 1
    assert f"  /today: FAILED: {reason}; give it another with --document and --as\n" in done.output
    assert call("export", target, "today", "--format", "text").output == "without"
    assert call("import", store, target, "--document", "/today").exit_code == 1
    assert call("import", store, target, "--document", "/today", "--as", "today-2").exit_code == 0
    assert call("export", target, "today-2", "--format", "text").output == "with"


def test_a_document_goes_to_a_documents_url_and_back(tmp_path: Path, server: ServerProcess) -> None:
    update = tmp_path / "note.bin"
    update.write_bytes(build("over there"))
    url = f"{server.url}/v1/yjs/work/docs/notes/%C3%9Cbung"
    assert call("import", update, url).output.endswith("  note as notes/Übung: " + f"{len(build('over there'))} bytes, added\n")
    out = tmp_path / "out.bin"
    assert call("export", url, "-o", out).output == ""
    assert call("import", out, tmp_path / "copy.db", "--as", "copy").exit_code == 0
    assert call("export", tmp_path / "copy.db", "copy", "--format", "text").output == "over there"
    assert call("export", url, "--format", "json").output == json.dumps({"body": "over there", "map": {"n": 1}}, indent=2) + "\n"
    assert call("export", server.url, "notes/Übung", "--service", "work", "--format", "json", "--root", "map").output == '{\n  "n": 1\n}\n'


def test_a_document_with_subdocuments_and_numbers_that_json_does_not_know_is_exported(tmp_path: Path) -> None:
    doc: Doc[Any] = Doc()
    doc["map"] = held = Map({"n": math.nan})
    held["chapter"] = chapter = Doc()
    update = tmp_path / "book.bin"
    update.write_bytes(doc.get_update())
    assert call("import", update, tmp_path / "t.db").exit_code == 0
    shown = call("export", tmp_path / "t.db", "book", "--format", "json").output
    assert json.loads(shown, parse_constant=pytest.fail) == {"map": {"chapter": {"subdocument": chapter.guid}, "n": None}}


def test_a_file_in_use_can_be_exported_from_but_not_imported_into(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.db"
    call("import", store, target)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"in\n"
        assert call("export", target, "one", "--format", "text").output == "hello"
        refused = call("import", store, target)
        assert (refused.exit_code, "process" in refused.output) == (2, True)
        assert call("import", store, target, "--dry-run").exit_code == 0
        assert holder.stdin is not None
        holder.stdin.close()


def test_which_text_must_be_clear(tmp_path: Path) -> None:
    doc: Doc[Any] = Doc()
    doc["a"], doc["b"], doc["list"] = Text("A"), Text("B"), Array([1])
    update = tmp_path / "two.bin"
    update.write_bytes(doc.get_update())
    call("import", update, tmp_path / "t.db")
    assert "choose by --root which text: a, b" in call("export", tmp_path / "t.db", "two", "--format", "text").output
    assert call("export", tmp_path / "t.db", "two", "--format", "text", "--root", "b").output == "B"
    assert "no root 'list' to be written as text" in call("export", tmp_path / "t.db", "two", "--format", "text", "--root", "list").output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("import", "STORE", "http://127.0.0.1:1/v1/yjs/x/docs/one"), "choose one by --document"),
        (("import", "STORE", "http://127.0.0.1:1/v1/yjs/x"), "a document's URL is"),
        (("import", "STORE", "ftp://x"), "not the http(s) URL"),
        (("import", "STORE", "x.db", "--document", "nope"), "no document 'nope'"),
        (("import", "nonesuch", "x.db"), "does not exist"),
        (("import", ".", "x.db"), "no store of a kind that can be read"),
        (("export", "x.db"), "which DOCUMENT?"),
        (("export", "x.db", "a//b"), "not a path"),
        (("export", "x.db", "a"), "there is no document default/a; there are: none"),
        (("export", "http://127.0.0.1:1/v1/yjs/x/docs/one", "two"), "names the document already"),
    ],
)
def test_wrong_arguments_are_exit_2_and_one_clear_line(
    arguments: tuple[str, ...], said: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    done = call(*(str(store) if argument == "STORE" else argument for argument in arguments))
    assert done.exit_code == 2
    assert said in done.output
    assert not Path("x.db").exists()


def test_a_server_that_is_not_there_is_told(store: Path) -> None:
    done = call("import", store, "http://127.0.0.1:1", "--timeout", "0.5", "--document", "one")
    assert (done.exit_code, "one: FAILED: http://127.0.0.1:1 did not answer within 0.5 s" in done.output) == (1, True)
