"""What a file may be when it is opened: new, ours, older (see test_migrations), newer, damaged, somebody else's."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ds_sync.exceptions import CorruptFileError, FileInUseError, NewerFileError, StoreError
from ds_sync.protocol.offsets import Offset
from ds_sync.replica import schema
from ds_sync.replica.records import Quarantined
from ds_sync.replica.store import LocalStore
from ds_sync.testing.store_contract import OTHER, View, find, look, make_batch


def fill(path: Path) -> View:
    """Make a file with something in each table."""
    store = LocalStore(path)
    document, other = find(store).id, find(store, OTHER).id
    for number in range(1, 40):
        store.enqueue(document, b"word%d " % number * (number % 7 * 20 + 1), float(number))
        store.enqueue(other, b"other%d" % number, float(number))
    batch = make_batch(store, 10, version=b"v10")
    store.seal(document, batch)
    store.settle(document, batch)
    store.compact(document, b"snapshot " * 500, through=20)
    for number in range(5):
        store.advance(document, [b"remote%d " % number * 50] * 3, b"cut", Offset(f"{number}"), incarnation="life")
    store.advance(document, [], b"cut", Offset("9"), quarantined=[Quarantined(Offset("8"), 1.0, "bad", b"bad bytes")])
    store.seal(document, make_batch(store, 7, version=b"v17"))
    view = look(store)
    store.close()
    return view


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, View]:
    path = tmp_path_factory.mktemp("filled") / "replica.db"
    return path, fill(path)


@pytest.fixture
def path(filled: tuple[Path, View], tmp_path: Path) -> Path:
    shutil.copyfile(filled[0], tmp_path / "replica.db")
    return tmp_path / "replica.db"


def digests(path: Path) -> dict[str, str]:
    """Return what stands in the file, and beside it where SQLite would read it."""
    files = [Path(f"{path}{suffix}") for suffix in ("", "-wal", "-journal")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.exists()}


def require_refused(path: Path, kind: type[StoreError], match: str) -> StoreError:
    before = digests(path)
    with pytest.raises(kind, match=match) as caught:
        LocalStore(path)
    assert digests(path) == before
    with pytest.raises(kind):  # and the file is not held any more
        LocalStore(path)
    return caught.value


def test_the_sound_file_is_read(path: Path, filled: tuple[Path, View]) -> None:
    store = LocalStore(path)
    assert look(store) == filled[1]
    store.close()


DAMAGE = {
    "text": (lambda _: b"Dear diary, " * 50, "not a SQLite file"),
    "a short text": (lambda _: b"x", "not a SQLite file"),
    "zeros": (lambda data: bytes(len(data)), "not a SQLite file"),
    "half a header": (lambda data: data[:50], "not a SQLite file"),
    "the header alone": (lambda data: data[:100], "damaged"),
    "cut in the middle": (lambda data: data[: len(data) // 2 + 100], "damaged"),
    "cut at a page": (lambda data: data[: len(data) - 4096], "damaged"),
    "a page of noise": (lambda data: data[:4096] + random.Random(1).randbytes(4096) + data[8192:], "damaged"),
    "the tables' page zeroed": (lambda data: data[:100] + bytes(3996) + data[4096:], "damaged"),
    "another SQLite file": (lambda data: data[:68] + bytes(4) + data[72:], "not a ds-sync replica"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_or_foreign_file_is_refused_and_left_as_it_is(name: str, path: Path) -> None:
    change, says = DAMAGE[name]
    path.write_bytes(change(path.read_bytes()))
    require_refused(path, CorruptFileError, says)


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    """SQLite leaves one when it dies before its first commit."""
    (tmp_path / "replica.db").write_bytes(b"")
    store = LocalStore(tmp_path / "replica.db")
    assert find(store).outbox == 0
    store.close()


@pytest.mark.parametrize("gone", [True, False])
def test_a_log_without_its_file_is_not_thrown_away(path: Path, gone: bool) -> None:
    """SQLite deletes the write-ahead log of an empty database; edits may stand there and nowhere else."""
    store = LocalStore(path)
    store.enqueue(find(store).id, b"late", 1.0)
    log = Path(f"{path}-wal").read_bytes()
    store.close()
    Path(f"{path}-wal").write_bytes(log)
    if gone:
        path.unlink()
    else:
        path.write_bytes(b"")
    require_refused(path, CorruptFileError, "replica.db-wal")


def test_a_kill_while_the_file_was_made_leaves_a_file_that_opens(tmp_path: Path) -> None:
    """Also with half of the first commit in the file, and the journal that undoes it beside."""
    connection = sqlite3.connect(tmp_path / "making.db", isolation_level=None)
    connection.execute("PRAGMA cache_spill=1")
    connection.execute("PRAGMA cache_size=1")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute("CREATE TABLE documents (id INTEGER PRIMARY KEY, data BLOB)")
    for _ in range(50):
        connection.execute("INSERT INTO documents (data) VALUES (zeroblob(4000))")
    for suffix in ("", "-journal"):
        shutil.copyfile(tmp_path / f"making.db{suffix}", tmp_path / f"killed.db{suffix}")
    connection.close()
    assert (tmp_path / "killed.db").stat().st_size > 4096
    assert (tmp_path / "killed.db-journal").stat().st_size > 512
    store = LocalStore(tmp_path / "killed.db")
    assert find(store).outbox == 0
    store.close()


@pytest.mark.parametrize("folded", [True, False])
def test_a_newer_file_is_refused_and_left_as_it_is(path: Path, folded: bool) -> None:
    """Also if the newer version stands in the write-ahead log only, as after a kill of the newer program."""
    newer = path.with_name("newer.db")
    shutil.copyfile(path, newer)
    connection = sqlite3.connect(newer, isolation_level=None)
    connection.execute("PRAGMA user_version = 99")
    if folded:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{newer}{suffix}", f"{path}{suffix}")
    connection.close()
    assert (path.read_bytes()[60:64] == (99).to_bytes(4, "big")) is folded
    error = require_refused(path, NewerFileError, "version 99; this ds-sync knows up to")
    assert isinstance(error, NewerFileError)
    assert (error.found, error.known) == (99, schema.VERSION)


def test_damage_in_the_file_is_seen_past_a_log(path: Path) -> None:
    store = LocalStore(path)
    store.enqueue(find(store).id, b"late", 1.0)
    data, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    store.close()
    path.write_bytes(data[:4096] + bytes(4096) + data[8192:])
    Path(f"{path}-wal").write_bytes(log)
    require_refused(path, CorruptFileError, "damaged")


def test_paths_that_can_not_be_files(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    for path, says in ((tmp_path / "nowhere" / "replica.db", "No such file or directory"), (tmp_path / "folder.db", "Is a directory")):
        with pytest.raises(StoreError, match=says) as caught:
            LocalStore(path)
        assert type(caught.value) is StoreError
    assert list((tmp_path / "folder.db").iterdir()) == []


def test_names_that_sqlite_would_take_for_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "file:x?mode=memory", "a b#c%41?d=e.db"):
        for rows in (1, 2):
            store = LocalStore(name)
            store.enqueue(find(store).id, b"x", 1.0)
            assert find(store).outbox == rows
            store.close()
        assert (tmp_path / name).stat().st_size > 4096


@contextmanager
def somebody_else() -> Iterator[None]:
    """For root every file may be written."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def common() -> Iterator[Path]:
    """A directory that everybody may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


@pytest.mark.parametrize("mode", [0o444, 0o000])
def test_a_file_that_may_not_be_written_or_read_is_refused_when_it_is_opened(path: Path, common: Path, mode: int) -> None:
    shutil.copyfile(path, common / "replica.db")
    os.chmod(common / "replica.db", mode)
    before = digests(common / "replica.db")
    with somebody_else(), pytest.raises(StoreError, match="can't be opened: Permission denied") as caught:
        LocalStore(common / "replica.db")
    assert type(caught.value) is StoreError
    assert digests(common / "replica.db") == before


def test_a_second_store_on_the_file_is_refused_and_touches_nothing(path: Path) -> None:
    store = LocalStore(path)
    store.enqueue(find(store).id, b"late", 1.0)
    before = digests(path)
    with pytest.raises(FileInUseError, match=f"in use by process {os.getpid()} "):
        LocalStore(path)
    assert digests(path) == before
    store.close()


def test_no_damaged_byte_gives_anything_but_our_errors(filled: tuple[Path, View], tmp_path: Path) -> None:
    """Random bits turned in a real file.

    What quick_check can not see: bits inside texts, blobs and numbers, for SQLite keeps no checksums of pages, and an index that does not
    agree with its table. Such a file may open and say something else; the CRDT library judges the updates when they are loaded. So what
    is required here is one of our errors, or an answer of the right types.
    """
    rng, original = random.Random(7), filled[0].read_bytes()
    refused = opened = 0
    for _ in range(250):
        data = bytearray(original)
        for _ in range(rng.choice((1, 1, 2, 8))):
            # Pages are mostly blobs: half of the bits are turned where the structure is.
            at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(len(data) // 4096) * 4096 + rng.randrange(120)
            data[at] ^= 1 << rng.randrange(8)
        path = tmp_path / "replica.db"
        path.write_bytes(data)
        try:
            store = LocalStore(path)
        except (CorruptFileError, NewerFileError, StoreError):
            refused += 1
            assert path.read_bytes() == data
            assert not Path(f"{path}-wal").exists() or Path(f"{path}-wal").stat().st_size == 0
        else:
            try:
                view = look(store)
                store.enqueue(view.record.id, b"later", 1.0)
                opened += 1
                assert all(isinstance(data, bytes) for _, data in view.rows)
            except StoreError:
                refused += 1
            finally:
                store.close()
        for file in tmp_path.iterdir():
            file.unlink()
    assert refused > 50, (refused, opened)
    assert opened > 50, (refused, opened)


@pytest.mark.parametrize("text", [b"CREATE TABLE", b"quarantine"])
def test_damage_that_is_no_utf8_in_the_schema_is_our_error_too(text: bytes, path: Path) -> None:
    """SQLite quotes it in its message, which Python then fails to decode."""
    content = path.read_bytes().replace(text, text[:3] + b"\xce" + text[4:], 1)
    path.write_bytes(content)
    with pytest.raises(CorruptFileError):
        LocalStore(path)
    assert path.read_bytes() == content
