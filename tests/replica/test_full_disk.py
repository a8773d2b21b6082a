"""A full disk: an edit says so, stays in the document, is counted, and is stored when there is space again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from device import LONG, MEGABYTE, Device, Peer, body, full, poison, write, write_in_vain

from ds_sync.exceptions import StorageFullError
from ds_sync.protocol.framing import build_frames
from ds_sync.protocol.messages import Page
from ds_sync.protocol.offsets import Offset
from ds_sync.replica.local import Tuning

pytestmark = pytest.mark.anyio


@pytest.fixture
async def device(tmp_path: Path, anyio_backend: str) -> Any:
    made = Device(tmp_path / "replica.db")
    yield made
    made.close()


async def test_a_refused_page_on_a_full_disk_is_whole_when_it_is_received_again(device: Device) -> None:
    letter, bad = poison()
    peer = Peer()
    peer.write("kept" + LONG)
    peer.adapter.apply(peer.doc, [bad])
    page = Page(build_frames([peer.adapter.snapshot(peer.doc), letter]), Offset("1"), up_to_date=True)
    with full(device), pytest.raises(StorageFullError):
        device.local.receive(page)
    device.local.receive(page)
    assert sorted(device.content) == sorted("kept" + LONG + "x")
    content = device.content
    device.reopen()
    assert device.content == content


async def test_edits_on_a_full_disk_are_told_counted_and_stored_in_order_when_there_is_space(device: Device) -> None:
    write(device, "stored ")
    with full(device):
        write_in_vain(device, "one" + LONG, "two" + LONG)
        assert (len(device.local.unsaved), device.local.outbox) == (2, 1)
        assert isinstance(device.local.store_error, StorageFullError)
        write_in_vain(device, "three" + LONG)
        await asyncio.sleep(0.03)
        assert len(device.local.unsaved) == 3
        assert [data for _, data in device.store.outbox_rows(1, after=0, limit=9)] == device.store.load(1).updates
        content = device.content
        assert content == f"stored one{LONG}two{LONG}three{LONG}"
        with pytest.raises(StorageFullError):
            device.local.compact()
        with pytest.raises(StorageFullError):
            device.local.seal(max_bytes=MEGABYTE)
        scratch = device.adapter.new()
        with pytest.raises(StorageFullError):
            device.local.end_heal(scratch)
        assert str(body(scratch)) == ""
        assert device.local.record.batch is None
        waiting = list(device.local.unsaved)
    async with asyncio.timeout(5):
        while device.local.unsaved:  # by the timer: nobody edits any more
            await device.local.changed.wait()
    assert device.local.store_error is None
    assert [data for _, data in device.store.outbox_rows(1, after=1, limit=9)] == waiting
    assert device.require() == content


async def test_the_next_edit_stores_what_waits_before_itself(device: Device) -> None:
    device.local.tuning = Tuning(store_retry=60.0)
    with full(device):
        write_in_vain(device, "one" + LONG)
    write(device, "two")
    assert (device.local.unsaved, device.local.outbox, device.local.store_error) == ([], 2, None)
    assert device.require() == f"one{LONG}two"


async def test_what_is_unsaved_at_close_is_tried_once_more_and_told(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    with full(device):
        write_in_vain(device, "one" + LONG)
        device.local.close()
        assert "note: 1 edits could not be stored and end with this process" in caplog.text
    device.reopen()
    with full(device):
        write_in_vain(device, "two" + LONG)
    device.reopen()
    assert (device.content, device.local.outbox) == ("two" + LONG, 1)


async def test_a_refused_page_brings_no_unsaved_edit_into_the_log(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a deletion would stay, in this file only: what is sent is the outbox."""

    def refuse(*args: Any) -> None:
        raise StorageFullError("there is no space left")

    write(device, "abc")
    with monkeypatch.context() as patch:
        patch.setattr(device.store, "enqueue", refuse)
        with pytest.raises(ExceptionGroup):
            del body(device.local.doc)[0]
        page = Page(build_frames([b"no update"]), Offset("1"), up_to_date=True)
        with pytest.raises(StorageFullError):
            device.local.receive(page)
        assert len(device.store.load(1).updates) == 1
    device.local.receive(page)
    assert device.local.unsaved == []
    assert len(list(device.store.outbox_rows(1, after=0, limit=9))) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 1 MB, where the tests may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        print(f"NOT A REAL FULL DISK: mount said {mounted.stderr.decode()!r}; PRAGMA max_page_count stands in for it", file=sys.stderr)
        yield None
        return
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)


def use_up(filler: Path) -> None:
    """Write to `filler` until the disk is full."""
    disk = os.statvfs(filler.parent)
    filler.write_bytes(bytes(disk.f_bavail * disk.f_frsize))
    assert os.statvfs(filler.parent).f_bavail == 0


async def test_a_disk_that_is_really_full(small_disk: Path | None, tmp_path: Path) -> None:
    device = Device((small_disk or tmp_path) / "replica.db", compact_after=100 * MEGABYTE)
    if small_disk is None:
        device.store._connection.execute("PRAGMA max_page_count = 200")
    written = stored = 0
    while stored == written:
        with suppress(ExceptionGroup):
            write(device, f"{written:06}" + "y" * 20_000)
            stored += 1
        written += 1
        assert written < 100
    assert stored > 5
    assert isinstance(device.local.store_error, StorageFullError)
    with pytest.raises(StorageFullError):
        device.local.seal(max_bytes=MEGABYTE)
    content = device.content
    assert device.content == "".join(f"{number:06}" + "y" * 20_000 for number in range(written))
    # What was stored is read by the next process, disk full or not.
    assert len(device.store.load(1).updates) == stored
    if small_disk is None:
        device.store._connection.execute("PRAGMA max_page_count = 1000000")
    else:
        grow(small_disk)
    async with asyncio.timeout(5):
        while device.local.unsaved:
            await device.local.changed.wait()
    assert device.require() == content
    device.close()


async def test_a_replica_on_a_full_disk_still_opens(small_disk: Path | None, tmp_path: Path) -> None:
    """Reading needs no space but the 32 kB that SQLite shares between connections."""
    device = Device((small_disk or tmp_path) / "replica.db")
    write(device, "hello")
    device.close()
    if small_disk is not None:
        (small_disk / "room").write_bytes(bytes(40_960))
        use_up(small_disk / "filler")
        (small_disk / "room").unlink()
    device.open()
    assert device.content == "hello"
    device.close()
