"""What a server said it has is expected back from the stream, whatever becomes of the process meanwhile."""

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from device import MEGABYTE, Device, write

from ds_sync import Replica
from ds_sync.exceptions import CorruptFileError
from ds_sync.protocol.framing import build_frames
from ds_sync.replica.local import MAX_EXPECTED
from ds_sync.replica.records import build_digest
from ds_sync.testing.faults import hold, is_live, is_read

pytestmark = pytest.mark.anyio


@pytest.fixture
async def device(tmp_path: Path, anyio_backend: str) -> Any:
    made = Device(tmp_path / "replica.db")
    yield made
    made.close()


def settle(device: Device, *words: str) -> list[bytes]:
    """Write and settle each word; return the payloads."""
    payloads = []
    for word in words:
        write(device, word)
        batch = device.local.seal(max_bytes=MEGABYTE)
        device.local.settle(batch)
        payloads.append(batch.payload)
    return payloads


async def test_what_is_expected_is_in_the_file_until_it_is_read_back(device: Device) -> None:
    one, two, three = settle(device, "one ", "two ", "three ")
    for read, left in (([], [one, two, three]), ([two], [one, three]), ([one, three], [])):
        device.receive(build_frames(read))
        expected = tuple(map(build_digest, left))
        assert device.local.record.expected == expected
        device.reopen()
        assert device.local.record.expected == expected
    assert device.require() == "one two three "
    assert sorted(device.store.load(1).updates) == sorted([one, two, three])


async def test_the_newest_are_remembered_when_there_are_many(device: Device) -> None:
    payloads = settle(device, *(f"w{number} " for number in range(MAX_EXPECTED + 2)))
    device.reopen()
    assert device.local.record.expected == tuple(map(build_digest, payloads[2:]))


async def test_nothing_is_expected_from_a_stream_that_is_another(device: Device) -> None:
    settle(device, "one ")
    device.local.begin_heal(None)
    assert device.local.record.expected == ()
    device.reopen()
    assert device.local.record.expected == ()


async def test_who_shows_what_it_has_in_another_way_is_expected_to_send_nothing_back(device: Device) -> None:
    write(device, "one ")
    device.local.settle_elsewhere(device.store.last_row(1), "ws://elsewhere")
    assert (device.local.outbox, device.local.record.durable, device.local.record.expected) == (0, 1, ())


async def test_a_digest_that_is_cut_is_damage(device: Device) -> None:
    settle(device, "one ")
    device.store._connection.execute("UPDATE documents SET expected = substr(expected, 2)")
    with pytest.raises(CorruptFileError, match="a stored digest is cut"):
        device.reopen()
    device.store = device.store.__class__(device.path)
    device.store._connection.execute("UPDATE documents SET expected = x''")
    device.reopen()


async def lose_what_nobody_has_read(world: Any, acts: Any) -> None:
    """Replica a dies after the server's 200 and before it has read its edit back; the server is set back. a.db is what it left."""
    await world.stop()
    await world.start(data=world.folder / "server")
    network = world.network()
    replica = await world.replica("before", transport=network)
    a = await replica.open("note")
    acts.write(a, "kept ")
    await acts.synced(a)
    await replica.disconnect()
    backup = await world.back_up()
    acts.write(a, "lost ")
    network.inject(hold(asyncio.Event()), when=is_live, times=None)
    await replica.connect()
    await acts.until(lambda: a.status.durable == 2)
    for path in world.folder.glob("before.db*"):
        shutil.copy(path, path.with_name(path.name.replace("before", "a")))
    await replica.close()
    await world.set_back(backup)
    assert len(await world.payloads()) == 1


@pytest.mark.parametrize("opened", [True, False])
async def test_who_dies_before_it_has_read_its_edit_back_gives_it_back_later(world: Any, acts: Any, opened: bool) -> None:
    await lose_what_nobody_has_read(world, acts)
    replica: Replica = await world.replica("a")
    if opened:
        await acts.synced(await replica.open("note"))
    for _ in range(500):
        if len(await world.payloads()) == 2:
            break
        await asyncio.sleep(0.01)
    b = await (await world.replica("b")).open("note")
    await acts.synced(b)
    assert acts.read(b) == "kept lost "


async def test_nothing_is_sent_again_if_it_is_there(world: Any, acts: Any) -> None:
    network = world.network()
    replica = await world.replica("a", transport=network)
    a = await replica.open("note")
    acts.write(a, "one ")
    await acts.synced(a)
    await replica.disconnect()
    acts.write(a, "two ")
    network.inject(hold(asyncio.Event()), when=is_live, times=None)
    await replica.connect()
    await acts.until(lambda: a.status.durable == 2)
    await replica.close()
    before = await world.payloads()
    network = world.network()
    again = await (await world.replica("a", transport=network)).open("note")
    assert len(again.local.record.expected) == 1
    await acts.synced(again)
    assert again.local.record.expected == ()
    assert network.count(lambda request: is_read(request) and "offset=-1" in request.url) == 0
    assert await world.payloads() == before
