"""Histories that are not ours: a server that was set back, emptied, deleted, remade, moved."""

import asyncio
import shutil
from typing import Any

import pytest
from pycrdt import Text

from ds_sync import Replica
from ds_sync.exceptions import NotFoundError, StorageFullError, SyncStoppedError
from ds_sync.testing.faults import hold, is_append, is_live, is_read, lose_answer

pytestmark = pytest.mark.anyio


async def test_a_server_set_back_gets_everything_back_deletions_too(world: Any, acts: Any) -> None:
    await world.restart()
    await world.stop()
    await world.start(data=world.folder / "server")
    a, b = await (await world.replica("a")).open("note"), await (await world.replica("b")).open("note")
    acts.write(a, "kept deleted ")
    await acts.synced(a, b)
    backup = await world.back_up()
    text = a.doc.get("body", type=Text)
    del text[5:13]
    acts.write(a, "lost ")
    await acts.synced(a, b)
    assert acts.words(a, b) == ["kept", "lost"]
    before = await world.payloads()
    await world.set_back(backup)
    assert len(await world.payloads()) < len(before)
    await acts.until(lambda: a.status.state == b.status.state == "live")
    await acts.synced(a, b, a)
    c = await (await world.replica("c")).open("note")
    await acts.synced(c)
    assert acts.words(a, b, c) == ["kept", "lost"]
    assert a.status.last_error is None


async def test_a_server_set_back_that_has_grown_past_our_place_is_healed_once(world: Any, acts: Any) -> None:
    await world.stop()
    await world.start(data=world.folder / "server")
    first = await world.replica("a")
    a = await first.open("note")
    acts.write(a, "base ")
    await acts.synced(a)
    backup = await world.back_up()
    acts.write(a, "lost ")
    await acts.synced(a)
    await first.disconnect()
    await world.set_back(backup)
    b = await (await world.replica("b")).open("note")
    for number in range(20):
        acts.write(b, f"grown{number} ")
    await acts.synced(b)
    grown = await world.payloads()
    acts.write(a, "offline ")
    await first.connect()
    await acts.synced(a, b)
    assert acts.words(a, b) == sorted(["base", "lost", "offline", *(f"grown{number}" for number in range(20))])
    assert (await world.payloads())[: len(grown)] == grown
    assert len(await world.payloads()) == len(grown) + 1, "healed once, in one batch"
    assert acts.edits(a.status) == a.status.durable == 3


async def test_two_replicas_that_heal_at_once_give_it_back_once(world: Any, acts: Any) -> None:
    await world.stop()
    await world.start(data=world.folder / "server")
    a, b = await (await world.replica("a")).open("note"), await (await world.replica("b")).open("note")
    acts.write(a, "base ")
    await acts.synced(a, b)
    backup = await world.back_up()
    acts.write(a, "lost ")
    acts.write(b, "also ")
    await acts.synced(a, b, a)
    await world.set_back(backup)
    await acts.synced(a, b, a)
    await acts.until(lambda: a.status.state == b.status.state == "live")
    await acts.synced(a, b)
    assert acts.words(a, b) == ["also", "base", "lost"]
    frames = await world.payloads()
    assert len(frames) <= 3, "at most both of them"


@pytest.mark.parametrize("moment", ["reading", "resting", "sending", "answered"])
async def test_a_crash_in_the_middle_of_healing_loses_nothing(world: Any, acts: Any, moment: str) -> None:
    await world.stop()
    await world.start(data=world.folder / "server")
    network = world.network()
    first = await world.replica("a", transport=network)
    a = await first.open("note")
    acts.write(a, "base ")
    await acts.synced(a)
    backup = await world.back_up()
    acts.write(a, "lost ")
    await acts.synced(a)
    await first.disconnect()
    acts.write(a, "offline ")
    await world.set_back(backup)
    never = asyncio.Event()
    if moment == "reading":
        stuck = network.inject(hold(never), when=lambda request: is_read(request) and "offset=-1" in request.url)
    elif moment == "resting":
        stuck = network.inject(hold(never), when=lambda request: is_read(request) and "cursor=" in request.url)
    else:
        stuck = network.inject(hold(never, committed=moment == "answered"), when=is_append)
        network.inject(hold(never), when=lambda request: is_read(request) and "live=" in request.url, times=None)
    await first.connect()
    await acts.until(lambda: stuck.hits > 0)
    if moment == "answered":
        for _ in range(1000):
            if len(await world.payloads()) == 2:
                break
    # The process dies: what it leaves behind is its file.
    folder = world.folder / "after"
    folder.mkdir()
    for path in world.folder.glob("a.db*"):
        shutil.copy(path, folder / path.name)
    await first.close()
    async with Replica(folder / "a.db", server=world.url, transport=world.network()) as again:
        note = await again.open("note")
        assert acts.words(note) == ["base", "lost", "offline"]
        await acts.synced(note)
        b = await (await world.replica("b")).open("note")
        await acts.synced(b)
        assert acts.words(note, b) == ["base", "lost", "offline"]
        assert note.status.durable == 3
        assert len(await world.payloads()) == 2


async def test_a_full_disk_at_the_end_of_healing_does_not_take_it_for_done(world: Any, acts: Any) -> None:
    replica = await world.replica("a")
    a = await replica.open("note")
    acts.write(a, "lost ")
    await acts.synced(a)
    store, refused = a._local.store, 0
    seal = store.seal

    def refuse(*args: Any, **options: Any) -> None:
        nonlocal refused
        refused += 1
        raise StorageFullError("no space (injected)")

    store.seal = refuse
    await world.restart()
    await acts.until(lambda: refused >= 3)
    assert await world.payloads() == []
    store.seal = seal
    await acts.synced(a)
    b = await (await world.replica("b")).open("note")
    await acts.synced(b)
    assert acts.words(a, b) == ["lost"]


async def test_an_emptied_server_is_filled_again_under_the_same_incarnation(world: Any, acts: Any) -> None:
    network, healed = world.network(), asyncio.Event()
    a, b = await (await world.replica("a")).open("note"), await (await world.replica("b", transport=network)).open("note")
    acts.write(a, "one ")
    acts.write(b, "two ")
    await acts.synced(a, b, a)
    life = (await world.client().head()).incarnation
    network.inject(hold(healed), times=None)  # who comes second finds everything there, and gives nothing back
    await world.restart()
    await acts.synced(a)
    healed.set()
    await acts.synced(b, a)
    await acts.until(lambda: a.status.state == b.status.state == "live")
    assert (await world.client().head()).incarnation == life
    c = await (await world.replica("c")).open("note")
    await acts.synced(a, b, c)
    assert acts.words(a, b, c) == ["one", "two"]
    acts.write(b, "three ")
    await acts.synced(b, a)
    assert acts.words(a, b) == ["one", "three", "two"]
    frames = await world.payloads()
    assert len(frames) == len(set(frames))


async def test_a_lost_stream_that_is_made_anew_without_an_answer_is_filled_too(world: Any, acts: Any) -> None:
    """Settled by its answer and not read back yet, so that the checkpoint is the place where an empty stream ends."""
    network = world.network()
    network.inject(hold(asyncio.Event()), when=is_live, times=None)
    replica = await world.replica("a", transport=network)
    note = await replica.open("note")
    acts.write(note, "ours ")
    await acts.until(lambda: note.status.durable == 1)
    await replica.close()
    await world.restart()
    network = world.network()
    made = network.inject(lose_answer(), when=lambda request: request.method == "PUT")
    note = await (await world.replica("a", transport=network)).open("note")
    await acts.synced(note)
    assert (made.hits, len(await world.payloads())) == (1, 1)


async def test_synced_waits_until_what_the_server_lost_is_back(world: Any, acts: Any) -> None:
    network = world.network()
    a = await (await world.replica("a", transport=network)).open("note")
    acts.write(a, "lost ")
    await acts.synced(a)
    await world.stop()
    gate = asyncio.Event()
    network.inject(hold(gate), when=is_append)
    await world.start()
    await acts.until(lambda: network.count(is_append) == 2)
    waiting = asyncio.ensure_future(a.synced())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    gate.set()
    await waiting
    assert len(await world.payloads()) == 1


async def test_a_stream_deleted_on_purpose_is_neither_remade_nor_written_and_the_copy_stays(world: Any, acts: Any) -> None:
    network = world.network()
    replica = await world.replica("a", transport=network)
    a = await replica.open("note")
    acts.write(a, "ours ")
    await acts.synced(a)
    await world.client().delete()
    status = await acts.state(a, "deleted")
    assert isinstance(status.last_error, NotFoundError)
    acts.write(a, "more ")
    with pytest.raises(SyncStoppedError) as stopped:
        await acts.synced(a)
    assert stopped.value.state == "deleted"
    requests = len(network.requests)
    await asyncio.sleep(0.2)
    assert len(network.requests) == requests
    with pytest.raises(NotFoundError):
        await world.client().head()
    assert (acts.words(a), a.status.unsent) == (["more", "ours"], 1)
    await replica.close()
    again = await (await world.replica("a")).open("note")
    assert (await acts.state(again, "deleted")).unsent == 1
    assert acts.words(again) == ["more", "ours"]


async def test_a_document_made_anew_by_somebody_is_left_alone(world: Any, acts: Any) -> None:
    network = world.network()
    a = await (await world.replica("a", transport=network)).open("note")
    acts.write(a, "ours ")
    await acts.synced(a)
    gate = asyncio.Event()
    network.inject(hold(gate), when=is_append)  # our push races with what follows
    acts.write(a, "racing ")
    await acts.until(lambda: network.count(is_append) == 2)
    network.inject(hold(gate), when=is_read, times=None)  # or it sees that the stream is gone, before it is there again
    await world.client().delete()
    b = await (await world.replica("b")).open("note")
    acts.write(b, "theirs ")
    await acts.synced(b)
    foreign = await world.payloads()
    gate.set()
    await acts.state(a, "diverged")
    acts.write(a, "later ")
    with pytest.raises(SyncStoppedError) as stopped:
        await acts.synced(a)
    assert stopped.value.state == "diverged"
    await asyncio.sleep(0.1)
    assert await world.payloads() == foreign, "their stream is as they left it"
    assert acts.words(a) == ["later", "ours", "racing"]
    assert (a.status.durable, a.status.unsent + a.status.sent) == (1, 2)


async def test_an_append_that_arrives_after_the_document_was_made_anew_is_refused(world: Any, acts: Any) -> None:
    # The tail hears nothing: only the append itself can notice.
    network = world.network()
    never = asyncio.Event()
    network.inject(hold(never), when=lambda request: is_read(request) and "live=" in request.url, times=None)
    a = await (await world.replica("a", transport=network)).open("note")
    acts.write(a, "ours ")
    await acts.synced(a)
    await world.client().delete()
    b = await (await world.replica("b")).open("note")
    acts.write(b, "theirs ")
    await acts.synced(b)
    foreign = await world.payloads()
    acts.write(a, "late ")
    await acts.state(a, "diverged")
    assert await world.payloads() == foreign


async def test_whoever_loses_the_race_to_make_a_lost_document_anew_does_not_write_into_the_winners(world: Any, acts: Any) -> None:
    network = world.network()
    a = await (await world.replica("a", transport=network)).open("note")
    acts.write(a, "ours ")
    await acts.synced(a)
    gate = asyncio.Event()
    network.inject(hold(gate), when=lambda request: request.method == "PUT")
    await world.restart()
    await acts.until(lambda: network.count(lambda request: request.method == "PUT") == 2)
    b = await (await world.replica("b")).open("note")  # a stranger to the old document
    acts.write(b, "theirs ")
    await acts.synced(b)
    foreign = await world.payloads()
    gate.set()
    await acts.state(a, "diverged")
    assert await world.payloads() == foreign
    assert acts.words(a) == ["ours"]


async def test_another_name_of_the_same_server_changes_nothing(world: Any, acts: Any) -> None:
    network = world.network()
    replica = await world.replica("a", transport=network)
    a = await replica.open("note")
    acts.write(a, "one ")
    await acts.synced(a)
    reads = network.count(lambda request: "offset=-1" in request.url)
    await replica.connect("http://alias:8080/")
    acts.write(a, "two ")
    await acts.synced(a)
    assert network.count(lambda request: "offset=-1" in request.url) == reads, "it goes on where it was"
    assert len(await world.payloads()) == 2


async def test_moving_to_another_server_merges_what_both_have(world: Any, acts: Any) -> None:
    replica = await world.replica("a")
    a = await replica.open("note")
    acts.write(a, "ours ")
    await acts.synced(a)
    await replica.disconnect()
    acts.write(a, "unsent ")
    await world.restart()
    b = await (await world.replica("b")).open("note")
    acts.write(b, "theirs ")
    await acts.synced(b)
    await replica.connect("http://other")
    await acts.synced(a, b)
    assert acts.words(a, b) == ["ours", "theirs", "unsent"]
    assert len(await world.payloads()) == 2
    assert acts.edits(a.status) == a.status.durable == 2


async def test_moving_to_an_empty_server_takes_everything_along(world: Any, acts: Any) -> None:
    replica = await world.replica("a")
    a = await replica.open("note")
    acts.write(a, "ours ")
    await acts.synced(a)
    await world.restart()
    await replica.connect("http://other")
    await acts.synced(a)
    b = await (await world.replica("b")).open("note")
    await acts.synced(b)
    assert acts.words(a, b) == ["ours"]
    assert len(await world.payloads()) == 1


async def test_an_append_that_hangs_while_the_stream_is_healed_makes_nothing_twice(world: Any, acts: Any) -> None:
    network = world.network()
    a = await (await world.replica("a", transport=network)).open("note")
    acts.write(a, "one ")
    await acts.synced(a)
    network.inject(hold(asyncio.Event()), when=is_append)
    acts.write(a, "two ")
    await acts.until(lambda: network.count(is_append) == 2)
    await world.restart()
    await acts.synced(a)
    b = await (await world.replica("b")).open("note")
    await acts.synced(b)
    assert acts.words(a, b) == ["one", "two"]
    assert len(await world.payloads()) == 1
