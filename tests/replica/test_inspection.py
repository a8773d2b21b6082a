"""A replica's file looked at from outside."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ds_sync.exceptions import CorruptFileError, NewerFileError, StoreError
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.offsets import BEGINNING, Offset
from ds_sync.replica.inspection import BatchView, OutboxView, QuarantineView, inspect_file
from ds_sync.replica.records import Batch, DocumentKey, Phase, Quarantined
from ds_sync.replica.store import LocalStore

HOLDER = """
import sys
from ds_sync.replica.records import DocumentKey
from ds_sync.replica.store import LocalStore
store = LocalStore(sys.argv[1])
record = store.open_document(DocumentKey("yjs", "default", "b"), format="yjs-v1", producer_id="p")
store.enqueue(record.id, b"from another process", 9.0)
print("open", flush=True)
sys.stdin.read()
"""

CLOSER = """
import sys
from ds_sync.replica.store import LocalStore
LocalStore(sys.argv[1]).close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with one document: three edits, two of them on their way, and two things put aside."""
    made = tmp_path / "notes.db"
    store = LocalStore(made)
    document = store.open_document(DocumentKey("yjs", "default", "a"), format="yjs-v1", producer_id="maker").id
    for number in (1, 2, 3):
        store.enqueue(document, b"edit %d" % number, float(number))
    batch = Batch(ProducerStamp("maker", 0, 4), 2, 2, BEGINNING, None, b"both")
    store.seal(document, batch, phase=Phase.FOLLOW)
    bad = [Quarantined(Offset("7"), 5.0, "no update", b"\xff" * 100), Quarantined(Offset("8"), 6.0, "\x1b[2J", b"")]
    store.advance(document, [b"theirs"], b"", Offset("9"), incarnation="i", quarantined=bad)
    store.close()
    return made


def files(path: Path) -> dict[str, tuple[int, bytes]]:
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in path.parent.iterdir()}


@pytest.fixture
def holder(path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    yield process
    process.kill()
    process.communicate()


def test_everything_is_told_and_nothing_is_touched(path: Path) -> None:
    before = files(path)
    view = inspect_file(path)
    (document,) = view.documents
    assert (document.path, document.phase, document.checkpoint, document.incarnation) == ("a", "follow", "9", "i")
    assert document.outbox == OutboxView(3, 18, 1.0, 3.0)
    assert document.batch == BatchView("maker", 0, 4, 2, 4, BEGINNING, healing=False)
    assert document.quarantine == (
        QuarantineView(1, 5.0, "7", "no update", 100, " ".join(["ff"] * 64)),
        QuarantineView(2, 6.0, "8", "\x1b[2J", 0, ""),
    )
    assert document.log_bytes == 7
    assert view.owner is not None
    assert (view.owner.pid, view.owner.role, view.owner.running) == (os.getpid(), "replica", True)
    leftovers = {name: kept for name, kept in files(path).items() if not name.endswith(("-wal", "-shm"))}
    assert leftovers == before


def test_a_file_whose_owner_is_gone_is_read_without_a_trace(path: Path, holder: "subprocess.Popen[str]") -> None:
    holder.kill()
    holder.wait()
    subprocess.run([sys.executable, "-c", CLOSER, str(path)], timeout=30, check=True)
    before = files(path)
    assert sorted(before) == ["notes.db", "notes.db-owner"]
    view = inspect_file(path)
    assert [document.path for document in view.documents] == ["a", "b"]
    assert view.owner is not None
    assert view.owner.running is False
    assert files(path) == before


def test_a_file_in_use_is_read_as_it_is_now_and_its_owner_is_not_disturbed(path: Path, holder: "subprocess.Popen[str]") -> None:
    view = inspect_file(path)
    assert view.documents[1].outbox == OutboxView(1, 20, 9.0, 9.0), "what stands in the write-ahead log counts"
    assert view.owner is not None
    assert (view.owner.pid, view.owner.running) == (holder.pid, True)
    holder.communicate("")
    assert holder.returncode == 0, "it went on undisturbed"
    assert inspect_file(path).documents == view.documents


def test_what_a_killed_owner_left_is_read(path: Path, holder: "subprocess.Popen[str]") -> None:
    holder.kill()
    holder.wait()
    wal = Path(f"{path}-wal").read_bytes()
    assert inspect_file(path).documents[1].outbox.edits == 1
    assert Path(f"{path}-wal").read_bytes() == wal


def test_files_that_are_none_of_ours(tmp_path: Path, path: Path) -> None:
    with pytest.raises(StoreError, match="there is no file"):
        inspect_file(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("x" * 5000)
    with pytest.raises(CorruptFileError):
        inspect_file(tmp_path / "text.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(CorruptFileError, match="not a ds-sync replica"):
        inspect_file(tmp_path / "other.db")
    newer = tmp_path / "newer.db"
    shutil.copy(path, newer)
    later = sqlite3.connect(newer)
    later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(NewerFileError):
        inspect_file(newer)


def test_a_value_of_a_wrong_type_is_damage(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE documents SET path = x'00'")
    connection.commit()
    connection.close()
    with pytest.raises(CorruptFileError, match="bytes where"):
        inspect_file(path)


def test_the_password_of_a_server_is_not_shown(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE documents SET server = 'https://ann:SECRET@example.org/base'")
    [document] = inspect_file(path).documents
    assert document.server == "https://example.org/base"
