"""A document and its rows: what is in memory is in the file, whatever happens in between. By two adapters: the port knows no Yjs."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from ds_sync_yjs import YjsAdapter
from hypothesis import given, settings
from hypothesis import strategies as st
from pycrdt import Array

sys.path.insert(0, str(Path(__file__).parent))

from device import KINDS, MEGABYTE, Device, Kind, Peer, body, poison, write

from ds_sync.environment import Environment
from ds_sync.exceptions import CorruptFileError, DocumentBusyError, FormatMismatchError, StoreError
from ds_sync.protocol.framing import build_frame, build_frames
from ds_sync.protocol.offsets import BEGINNING, Offset
from ds_sync.replica.local import LocalDocument, Tuning
from ds_sync.replica.records import DocumentKey, Phase
from ds_sync.replica.store import LocalStore

pytestmark = pytest.mark.anyio

MANY = Tuning().merge_rows


@pytest.fixture
async def device(tmp_path: Path, anyio_backend: str) -> Any:
    made = Device(tmp_path / "replica.db")
    yield made
    made.close()


# The same document after whatever happened

ACTIONS = ("edit", "edit", "peer", "peer", "deliver", "deliver", "seal", "settle", "compact", "reopen", "heal", "smaller", "anew")


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(ACTIONS), min_size=5, max_size=40), st.integers(0, 1000))
def test_a_reloaded_document_is_the_one_that_was_closed(name: str, actions: list[str], seed: int) -> None:
    """Against a plain document that got the same updates; what waits and what is deleted included."""
    asyncio.run(live(KINDS[name], actions, random.Random(seed)))


async def live(kind: Kind, actions: list[str], rng: random.Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        device, peer, plain_adapter = Device(Path(folder) / "replica.db", kind), Peer(kind), kind.adapter()
        plain = plain_adapter.new()
        frames: list[bytes] = []  # on their way, in any order
        wire = b""

        def follow() -> None:
            device.adapter.observe(device.local.doc, lambda update: plain_adapter.apply(plain, [update]) and None)

        def deliver(count: int) -> None:
            nonlocal wire
            data, wire = wire[:count], wire[count:]
            device.receive(data)

        follow()
        for action in actions:
            batch, local = device.local.record.batch, device.local
            if action == "edit":
                kind.edit(local.doc, rng)
            elif action == "peer":
                kind.edit(peer.doc, rng)
                frames += peer.updates
                peer.updates.clear()
                rng.shuffle(frames)
            elif action == "deliver" and frames:
                update = frames.pop()
                wire += build_frame(update)
                plain_adapter.apply(plain, [update])
                deliver(len(wire))
                if rng.random() < 0.5 and frames:
                    update = frames.pop()
                    plain_adapter.apply(plain, [update])
                    frame = build_frame(update)
                    cut = rng.randrange(len(frame))
                    wire = frame
                    deliver(cut)
                    if rng.random() < 0.5:
                        device.require()
                        follow()
                    deliver(len(wire))
            elif action == "seal" and local.outbox and batch is None:
                local.seal(max_bytes=MEGABYTE, max_rows=rng.choice((None, 1, 2)))
            elif action == "settle" and batch is not None:
                if rng.random() < 0.5:
                    local.settle(batch)
                    if rng.random() < 0.5:
                        device.receive(batch.body)
                else:
                    assert device.receive(batch.body) == batch
            elif action == "smaller" and batch is not None and batch.edits > 1 and not batch.healing:
                assert local.seal_smaller(batch, max_bytes=MEGABYTE).edits == batch.edits // 2
            elif action == "anew" and batch is not None:
                local.reseal(batch)
            elif action == "compact":
                local.compact()
            elif action == "heal":
                local.begin_heal("life")
                scratch = device.adapter.new()
                device.receive(build_frame(peer.adapter.snapshot(peer.doc)), scratch=scratch)
                plain_adapter.apply(plain, [peer.adapter.snapshot(peer.doc)])
                local.end_heal(scratch)
                assert kind.content(scratch) == kind.content(plain)
            elif action == "reopen":
                device.require()
                follow()
            assert device.content == kind.content(plain)
        for update in frames:
            plain_adapter.apply(plain, [update])
        device.receive(build_frames(frames))
        assert device.require() == kind.content(plain)
        device.close()


async def test_updates_that_wait_and_deletions_survive(device: Device) -> None:
    peer = Peer()
    first, second, third = peer.write("one ", "two ", "three")
    del body(peer.doc)[0:4]
    [deletion] = peer.updates[3:]
    device.receive(build_frames([third, deletion]))
    assert device.require() == ""
    device.local.compact()
    assert device.require() == ""
    device.receive(build_frames([second]))
    device.local.compact()
    device.receive(build_frames([first]))
    assert device.require() == "two three"


async def test_a_frame_over_many_pages_is_applied_once_it_is_whole(device: Device) -> None:
    peer = Peer()
    data = build_frames(peer.write("one ", "two ", "x" * 300))
    for at in range(0, len(data), 41):
        device.receive(data[at : at + 41])
        device.require()
    assert device.content == "one two " + "x" * 300
    assert device.local.record.partial == b""


# What others sent

INVALID = b"\x01\x02\xff"


async def test_bad_updates_in_a_page_are_kept_aside_and_the_rest_is_taken(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer()
    first, second, third = peer.write("one ", "two ", "three")
    device.receive(build_frames([first, INVALID, second, b"", third]))
    assert device.require() == "one two three"
    bad = device.store.quarantined(1)
    assert [(entry.data, entry.offset) for entry in bad] == [(INVALID, BEGINNING), (b"", BEGINNING)]
    assert all("not a Yjs update" in entry.reason for entry in bad)
    assert caplog.text.count("can't be used and are kept aside") == 2
    device.receive(b"\xff" * 12)
    assert device.require() == "one two three"
    assert [entry.data for entry in device.store.quarantined(1)] == [INVALID, b"", b"\xff" * 12]


@pytest.mark.parametrize("order", ["bad first", "letter first"])
@pytest.mark.parametrize("pages", [1, 2])
@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("within", [False, True])
async def test_what_contradicts_an_update_that_comes_later_takes_nothing_with_it(
    device: Device, order: str, pages: int, compacted: bool, within: bool
) -> None:
    """It was stored while it waited. The update that it waited for is not to blame, nor others that carry it along."""
    letter, bad = poison()
    peer = Peer()
    [carrier] = peer.write("kept")
    if within:
        peer.adapter.apply(peer.doc, [bad])
        carrier = peer.adapter.snapshot(peer.doc)
    updates = [carrier] if within else [carrier, bad]
    updates = [*updates, letter] if order == "bad first" else [letter, *updates]
    for page in [updates] if pages == 1 else [[update] for update in updates]:
        device.receive(build_frames(page))
        if compacted:
            device.local.compact()
    write(device, "!")
    content = device.content
    assert sorted(content) == sorted("kept" + "x" + "!")
    for _ in range(2):
        device.reopen()
        assert device.content == content
    quarantined = device.local.record.quarantined
    assert device.local.record.quarantined == len(device.store.quarantined(1))
    device.local.compact()
    device.reopen()
    assert (device.content, device.local.record.quarantined) == (content, quarantined)


async def test_bytes_damaged_in_the_file_are_not_taken_for_something_sent(device: Device) -> None:
    write(device, "hello")
    device.close()
    store = LocalStore(device.path)
    store._connection.execute("UPDATE outbox SET data = ?", (INVALID,))
    store.close()
    with pytest.raises(CorruptFileError, match="what was stored of note is damaged"):
        device.open()
    store = LocalStore(device.path)
    store._connection.execute("DELETE FROM outbox")
    store.close()
    device.open()


async def test_the_batch_is_known_by_sight_among_others(device: Device) -> None:
    peer = Peer()
    first, second = peer.write("one ", "two ")
    write(device, "mine")
    batch = device.local.seal(max_bytes=MEGABYTE)
    before = device.store.load(1).updates
    assert device.receive(build_frames([first, batch.payload, second])) == batch
    assert (device.local.record.batch, device.local.outbox, device.local.record.durable) == (None, 0, 1)
    assert device.local.record.server_version == batch.version
    assert sorted(device.store.load(1).updates) == sorted([*before, first, second])
    assert device.require() in ("one two mine", "mineone two ")


async def test_the_echo_of_a_settled_batch_is_not_stored_again(device: Device) -> None:
    write(device, "mine")
    batch = device.local.seal(max_bytes=MEGABYTE)
    device.local.settle(batch)
    stored = device.store.load(1).updates
    assert device.receive(batch.body) is None
    assert device.store.load(1).updates == stored == [batch.payload]
    assert device.local.record.checkpoint == Offset("0001")
    assert device.require() == "mine"
    # Who has forgotten stores it once more, and that is all.
    device.receive(batch.body)
    assert device.store.load(1).updates == [batch.payload] * 2
    assert device.require() == "mine"


# Batches


async def test_a_batch_is_never_sealed_inside_an_open_transaction(device: Device) -> None:
    """The document's version would say that the stream has what nobody sent: with a long outbox, it would never go out."""
    write(device, "stored ")
    text = body(device.local.doc)
    with device.local.doc.transaction():
        text += "half "
        with pytest.raises(DocumentBusyError):
            device.local.seal(max_bytes=MEGABYTE)
        text += "done"
    batch = device.local.seal(max_bytes=MEGABYTE, max_rows=1)
    device.local.settle(batch)
    for _ in range(MANY + 1):
        write(device, ".")
    batch2 = device.local.seal(max_bytes=MEGABYTE)
    assert batch2.edits == MANY + 2
    server = device.adapter.new()
    device.adapter.apply(server, [batch.payload, batch2.payload])
    assert str(body(server)) == device.content


async def test_a_long_outbox_goes_out_as_one_update_worth_all_rows(device: Device) -> None:
    write(device, *["x"] * (MANY + 5))
    batch = device.local.seal(max_bytes=MEGABYTE)
    assert (batch.edits, batch.through) == (MANY + 5, MANY + 5)
    server = device.adapter.new()
    device.adapter.apply(server, [batch.payload])
    assert str(body(server)) == device.content == "x" * (MANY + 5)
    assert len(batch.payload) < 400
    small = device.local.seal_smaller(batch, max_bytes=MEGABYTE)
    assert (small.edits, small.stamp.seq, small.version) == (batch.edits // 2, 0, None)
    assert small.stamp.id != batch.stamp.id


async def test_rows_that_do_not_fit_wait_for_the_next_batch(device: Device) -> None:
    write(device, "a" * 100, "b" * 100, "c" * 100)
    batch = device.local.seal(max_bytes=250)
    assert (batch.edits, batch.version) == (1, None) if len(batch.payload) < 150 else (2, None)
    device.local.settle(batch)
    rest = device.local.seal(max_bytes=1)
    assert rest.edits == 1
    assert device.require() == "a" * 100 + "b" * 100 + "c" * 100


# Healing


@pytest.mark.parametrize("lacks", ["everything", "inserts", "deletions", "nothing"])
async def test_healing_gives_back_what_the_stream_lacks_and_no_more(device: Device, lacks: str) -> None:
    write(device, "hello ", "world")
    had = {"everything": [], "inserts": [device.adapter.snapshot(device.local.doc)], "deletions": [], "nothing": []}[lacks]
    if lacks == "inserts":
        write(device, "!")
    elif lacks == "deletions":
        had = [device.adapter.snapshot(device.local.doc)]
        del body(device.local.doc)[0:6]
    elif lacks == "nothing":
        had = [device.adapter.snapshot(device.local.doc)]
    edits = device.local.outbox
    device.local.begin_heal("life")
    assert device.local.record.checkpoint == BEGINNING
    scratch = device.adapter.new()
    device.receive(build_frames(had), scratch=scratch)
    batch = device.local.end_heal(scratch)
    record = device.local.record
    assert (record.phase, record.batch) == (Phase.FOLLOW, batch)
    if batch is None:
        assert lacks == "nothing"
        assert (device.local.outbox, record.durable) == (0, edits)
    else:
        assert (batch.healing, batch.edits, batch.stamp.seq) == (True, edits, 0)
        server = device.adapter.new()
        device.adapter.apply(server, [*had, batch.payload])
        assert str(body(server)) == device.content
        device.local.settle(batch)
        assert (device.local.outbox, device.local.record.durable) == (0, edits)
    assert device.require() == {"inserts": "hello world!", "deletions": "world"}.get(lacks, "hello world")


async def test_healing_that_the_process_did_not_live_to_end_begins_again(device: Device) -> None:
    write(device, "hello")
    device.local.begin_heal("life")
    device.receive(build_frames(Peer().write("theirs ")), scratch=device.adapter.new())
    local = device.reopen()
    assert (local.record.phase, local.record.checkpoint, local.record.server_version) == (Phase.HEAL, BEGINNING, None)
    assert sorted(device.content) == sorted("hellotheirs ")


# Compaction, other threads, an open transaction


async def test_compaction_is_due_by_bytes_and_waits_for_an_open_transaction(tmp_path: Path) -> None:
    device = Device(tmp_path / "replica.db", compact_after=2000)
    text = body(device.local.doc)
    write(device, "a" * 3000)
    with device.local.doc.transaction():
        text += "b"
        await asyncio.sleep(0.03)
        assert device.store.load(1).snapshot is None
        with pytest.raises(DocumentBusyError):
            device.receive(build_frames(Peer().write("theirs")))
        assert device.local.record.checkpoint == BEGINNING
    for _ in range(1000):
        if device.store.load(1).snapshot is not None:
            break
        await asyncio.sleep(0.005)
    assert device.store.load(1).updates == []
    device.receive(build_frames(Peer().write("theirs")))
    assert sorted(device.require()) == sorted("a" * 3000 + "b" + "theirs")
    assert device.local.outbox == 2
    device.close()


async def test_an_edit_that_nobody_can_read_is_in_no_snapshot(tmp_path: Path) -> None:
    """It is refused where it is made, and stays in the document in memory: a snapshot of that would make a file that can't be opened."""
    device = Device(tmp_path / "replica.db", compact_after=10)
    write(device, "before")
    await asyncio.sleep(0.01)
    deep: Any = 1
    for _ in range(3_000):
        deep = [deep]
    with pytest.raises(ExceptionGroup):
        device.local.doc.get("items", type=Array).append(deep)
    write(device, "x" * 100)
    await asyncio.sleep(0.01)  # when it would compact
    device.reopen()
    assert device.content.startswith("before")
    write(device, " after")
    assert " after" in device.require()
    device.close()


async def test_compaction_comes_again_only_when_as_much_has_come(tmp_path: Path) -> None:
    device = Device(tmp_path / "replica.db", compact_after=1000)
    snapshots = set[bytes | None]()
    for _ in range(60):
        write(device, "c" * 200)
        await asyncio.sleep(0)
        snapshots.add(device.store.load(1).snapshot)
    assert 3 <= len(snapshots - {None}) <= 12
    assert device.require() == "c" * 12_000
    device.close()


async def test_edits_from_another_thread_are_stored_and_wake_the_loop(tmp_path: Path) -> None:
    device = Device(tmp_path / "replica.db", KINDS["lww"], compact_after=500)

    def type_on() -> None:
        for number in range(100):
            device.local.doc.set(f"key{number % 10}", number)

    thread = threading.Thread(target=type_on)
    thread.start()
    async with asyncio.timeout(10):
        while device.local.outbox < 100:
            await device.local.changed.wait()
    thread.join()
    await asyncio.sleep(0.02)
    assert device.store.load(1).snapshot is not None
    assert device.require() == {f"key{number}": 90 + number for number in range(10)}
    assert device.store.last_row(1) == 100
    device.close()


async def test_an_edit_while_the_snapshot_is_taken_is_not_covered_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(tmp_path / "replica.db", KINDS["lww"])
    device.local.doc.set("a", 1)
    take = device.adapter.snapshot

    def take_late(doc: Any) -> bytes:
        snapshot = take(doc)
        thread = threading.Thread(target=doc.set, args=("b", 2))
        thread.start()
        thread.join()
        return snapshot

    monkeypatch.setattr(device.adapter, "snapshot", take_late)
    device.local.compact()
    assert device.require() == {"a": 1, "b": 2}
    device.close()


async def test_another_format_is_refused(device: Device) -> None:
    class Other(YjsAdapter):
        format = "yjs-v2"

    with pytest.raises(FormatMismatchError) as caught:
        LocalDocument(device.store, Other(), DocumentKey("yjs", "default", "note"), Environment(), Tuning())
    assert (caught.value.found, caught.value.expected) == ("yjs-v1", "yjs-v2")


async def test_a_store_that_fails_leaves_memory_as_the_file_is(device: Device) -> None:
    write(device, "one")
    batch = device.local.seal(max_bytes=MEGABYTE)
    record = device.local.record
    device.store._connection.execute("CREATE TRIGGER no BEFORE INSERT ON log BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StoreError):
        device.local.settle(batch)
    with pytest.raises(StoreError):
        device.receive(build_frames([batch.payload, *Peer().write("two")]))
    assert (device.local.record, device.local.outbox) == (record, 1)
    device.store._connection.execute("DROP TRIGGER no")
    device.local.settle(batch)
    assert device.local.record.durable == 1
