"""The local store obeys its kit; kills between any two statements, SIGKILL, and power cuts."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ds_sync.exceptions import StoreError
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.offsets import BEGINNING, Offset
from ds_sync.replica.records import Batch, Phase, Quarantined
from ds_sync.replica.store import LocalStore
from ds_sync.testing.power import PowerDisk
from ds_sync.testing.store_contract import KEY, LocalStoreContract, OpenStore, View, find, look, make_batch, merge, words


class TestLocalStore(LocalStoreContract):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        return LocalStore


def open_filled(path: Path, rows: int = 3, **options: Any) -> LocalStore:
    store = LocalStore(path, **options)
    document = find(store).id
    for number in range(1, rows + 1):
        store.enqueue(document, b"w%d" % number, float(number))
    return store


def view_of(path: Path) -> View:
    store = LocalStore(path)
    try:
        return look(store)
    finally:
        store.close()


# Kills

CALLS: dict[str, Callable[[LocalStore, Batch], None]] = {
    "seal": lambda store, batch: store.seal(1, make_batch(store, 3, stamp=ProducerStamp("new", 0, 0)), phase=Phase.BLOCKED),
    "settle": lambda store, batch: store.settle(1, batch, expected=[b"1" * 32, b"2" * 32]),
    "advance": lambda store, batch: store.advance(
        *(1, [b"y"], b"cut", Offset("2")),
        incarnation="b",
        settled=batch,
        quarantined=[Quarantined(Offset("1"), 1.0, "bad", b"z")],
        expected=[b"3" * 32],
    ),
    "compact": lambda store, batch: store.compact(1, words(store, 1), through=3),
    "begin_heal": lambda store, batch: store.begin_heal(1, incarnation="b"),
    "end_heal": lambda store, batch: store.end_heal(1, 2, b"version"),
    "set_apart": lambda store, batch: store.set_apart(1, "notes/a (copy)", producer_id="new", phase=Phase.FOLLOW),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_kill_between_any_two_statements_leaves_all_of_a_call_or_nothing(call: str, tmp_path: Path) -> None:
    store = open_filled(tmp_path / "replica.db")
    batch = make_batch(store, 2)
    store.seal(1, batch)
    store.advance(1, [b"x"], b"", Offset("1"), incarnation="a")
    before = look(store)
    copies: list[Path] = []

    def copy(_statement: str) -> None:
        copies.append(tmp_path / f"{len(copies)}.db")
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{store.path}{suffix}", f"{copies[-1]}{suffix}")

    store._connection.set_trace_callback(copy)
    CALLS[call](store, batch)
    store._connection.set_trace_callback(None)
    after = look(store)
    copy("")
    views = [view_of(path) for path in copies]
    assert len(views) >= 5
    assert views[0] == before
    assert views[-1] == after
    changed = [view != before for view in views]
    assert changed == sorted(changed)
    assert all(view in (before, after) for view in views)
    store.close()


def test_a_kill_while_a_copy_is_set_apart_leaves_the_content_under_one_name(tmp_path: Path) -> None:
    store = open_filled(tmp_path / "replica.db")
    store.seal(1, make_batch(store, 2))
    copy_key, found = replace(KEY, path="notes/a (copy)"), list[tuple[bytes, bytes]]()
    copies: list[Path] = []

    def copy(_statement: str) -> None:
        copies.append(tmp_path / f"{len(copies)}.db")
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{store.path}{suffix}", f"{copies[-1]}{suffix}")

    store._connection.set_trace_callback(copy)
    store.set_apart(1, copy_key.path, producer_id="new", phase=Phase.FOLLOW)
    store._connection.set_trace_callback(None)
    copy("")
    store.close()
    for path in copies:
        reopened = LocalStore(path)
        found.append((look(reopened).content, look(reopened, copy_key).content))
        reopened.close()
    assert set(found) == {(b"w1 w2 w3", b""), (b"", b"w1 w2 w3")}


WRITER = """
import sys
from ds_sync.replica.store import LocalStore
from ds_sync.testing.power import PowerDisk
from ds_sync.testing.store_contract import find
store = LocalStore(sys.argv[1])
document, number = find(store).id, store.last_row(1)
while True:
    number += 1
    store.enqueue(document, b"w%d" % number, float(number))
    print(number, flush=True)
"""


def test_what_enqueue_returned_from_survives_sigkill(tmp_path: Path) -> None:
    path, rng, reported = tmp_path / "replica.db", random.Random(1), 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(rng.randint(1, 200)):
                reported = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split("\n")
            reported = max([reported, *(int(line) for line in rest[:-1])])
        view = view_of(path)
        assert view.last_row - reported in (0, 1)  # the last one may have been stored and not reported
        assert view.rows == [(number, b"w%d" % number) for number in range(1, view.last_row + 1)][: len(view.rows)]
        assert view.record.outbox == view.last_row


# Power


def statements(store: LocalStore, call: Callable[[], None]) -> list[str]:
    said: list[str] = []
    store._connection.set_trace_callback(said.append)
    call()
    store._connection.set_trace_callback(None)
    return [text.split(" ")[0] if "PRAGMA" not in text else text for text in said]


def synchronous(store: LocalStore) -> int:
    level: int = store._connection.execute("PRAGMA synchronous").fetchone()[0]
    return level


def test_only_what_decides_the_bytes_under_a_number_waits_for_the_disk(tmp_path: Path) -> None:
    store = open_filled(tmp_path / "replica.db")
    batch = make_batch(store, 2)
    fsynced = ["PRAGMA synchronous=FULL", "BEGIN", "COMMIT", "PRAGMA synchronous=NORMAL"]
    for call in (
        lambda: store.seal(1, batch),
        lambda: store.begin_heal(1, incarnation=None),
        lambda: store.end_heal(1, 0, b""),
    ):
        assert [text for text in statements(store, call) if text in fsynced] == fsynced
    for call in (
        lambda: store.enqueue(1, b"w4", 4.0),
        lambda: store.settle(1, batch),
        lambda: store.advance(1, [b"x"], b"", Offset("1")),
        lambda: store.compact(1, b"x", through=4),
    ):
        said = statements(store, call)
        assert said
        assert not [text for text in said if "PRAGMA" in text]
        assert synchronous(store) == 1
    store.close()


def test_a_seal_that_fails_goes_back_to_quick_commits(tmp_path: Path) -> None:
    store = open_filled(tmp_path / "replica.db")
    store._connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON batches BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(Exception, match="no"):
        store.seal(1, make_batch(store, 1))
    assert synchronous(store) == 1
    store.close()


def test_power_safe_waits_for_the_disk_always(tmp_path: Path) -> None:
    store = open_filled(tmp_path / "replica.db", power_safe=True)
    said = statements(store, lambda: store.seal(1, make_batch(store, 1)))
    assert not [text for text in said if "PRAGMA" in text]
    assert synchronous(store) == 2
    store.close()


class PoweredStore(LocalStore):
    """The store's own statements, on a disk whose power can be cut."""

    disk = PowerDisk()

    def _connect(self) -> Any:
        super()._connect().close()
        connection = self.disk.connect(self.path)
        connection.execute(f"PRAGMA synchronous={self._sync}")
        return connection


@pytest.mark.parametrize("power_safe", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_a_power_cut_takes_the_last_commits_at_most_and_nothing_that_was_sealed(tmp_path: Path, seed: int, power_safe: bool) -> None:
    rng = random.Random(seed)
    store = PoweredStore(tmp_path / "replica.db", power_safe=power_safe)
    find(store)
    history = [look(store)]
    """The view after each commit: a power cut leaves one of them, not older than the last one that was fsynced."""
    floor, lost = 0, 0
    for step in range(1, 61):
        batch, action = find(store).batch, rng.choice(("edit", "edit", "edit", "seal", "settle", "receive", "compact"))
        if action == "edit":
            store.enqueue(1, b"w%d %s" % (step, rng.randbytes(rng.choice((1, 3000))).hex().encode()), float(step))
        elif action == "seal" and batch is None and store.oldest(1) is not None:
            store.seal(1, make_batch(store, rng.randint(1, 3), version=b"v%d" % step))
            floor = len(history)
        elif action == "settle" and batch is not None:
            store.settle(1, batch)
        elif action == "receive":
            store.advance(1, [b"r%d" % step], b"cut", Offset(f"{step:04}"), settled=batch if rng.random() < 0.3 else None)
        elif action == "compact" and rng.random() < 0.3:
            store.compact(1, words(store, 1), through=store.last_row(1))
        else:
            continue
        history.append(look(store))
        if power_safe:
            floor = len(history) - 1
        for cut in range(3):
            copy = tmp_path / f"cut-{step}-{cut}.db"
            store.disk.leave_cut(store.path, copy, rng)
            view = view_of(copy)
            assert view in history
            # A compaction changes no view, so the newest that fits.
            found = max(number for number, known in enumerate(history) if known == view)
            assert found >= floor
            lost += len(history) - 1 - found
    assert (lost == 0) is power_safe, "without syncing, something must have been lost: or the disk kept too much"
    store.close()


def test_errors_have_our_names(tmp_path: Path) -> None:
    """Another program that holds the file locked is a StoreError, not sqlite3's."""
    store = open_filled(tmp_path / "replica.db")
    store._connection.execute("PRAGMA busy_timeout=1")
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        store.enqueue(1, b"w4", 4.0)
    other.execute("ROLLBACK")
    other.close()
    store.enqueue(1, b"w4", 4.0)
    assert words(store, 1) == merge(b"w1 w2 w3 w4")
    assert find(store).checkpoint == BEGINNING
    store.close()
