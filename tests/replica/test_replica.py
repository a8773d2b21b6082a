"""The public object: names, connections, many documents, and what runs in the background."""

import asyncio
import gc
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Text

from ds_sync import Replica
from ds_sync.exceptions import ClosedError, FileInUseError, UnknownAdapterError
from ds_sync.testing.faults import anything, drop_before_sending, hold, is_append, respond
from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.anyio


async def test_the_example_of_the_readme(tmp_path: Any) -> None:
    with ServerProcess() as server:
        async with Replica(tmp_path / "notes.db") as replica:
            note = await replica.open("notes/today")
            text = note.doc.get("body", type=Text)
            text += "hello"
            assert note.status.unsent == 1
            assert note.status.state == "offline"
            await replica.connect(server.url)
            await note.synced()
            status = note.status
            assert (status.unsaved, status.unsent, status.sent, status.durable) == (0, 0, 0, 1)
            assert (status.oldest_unsent_age, status.state, status.last_error) == (None, "live", None)
        async with Replica(tmp_path / "other.db", server=server.url) as other:
            copy = await other.open("notes/today")
            await copy.synced()
            assert str(copy.doc.get("body", type=Text)) == "hello"


async def test_a_server_that_is_killed_and_started_again_on_its_port(tmp_path: Any, acts: Any) -> None:
    with ServerProcess(tmp_path / "server") as server:
        async with Replica(tmp_path / "a.db", server=server.url) as a, Replica(tmp_path / "b.db", server=server.url) as b:
            mine, theirs = await a.open("note"), await b.open("note")
            acts.write(mine, "before ")
            await acts.synced(mine, theirs)
            server.kill()
            acts.write(mine, "meanwhile ")
            acts.write(theirs, "also ")
            await acts.state(mine, "retrying")
            server.start()
            await acts.synced(mine, theirs, mine)
            assert acts.read(mine) == acts.read(theirs)
            assert sorted(acts.read(mine).split()) == ["also", "before", "meanwhile"]


async def test_connect_before_and_after_open(world: Any, acts: Any) -> None:
    early, late = await world.replica("early"), await world.replica("late", online=False)
    before, after = await early.open("note"), await late.open("note")
    acts.write(after, "offline ")
    acts.write(before, "online ")
    assert not after.online
    await late.connect(world.url)
    await acts.synced(before, after, before)
    assert acts.read(before) == acts.read(after)
    assert sorted(acts.read(before).split()) == ["offline", "online"]


async def test_disconnect_and_connect_again(world: Any, acts: Any) -> None:
    network = world.network()
    replica = await world.replica("a", transport=network)
    note = await replica.open("note")
    acts.write(note, "one ")
    await acts.synced(note)
    await replica.disconnect()
    assert (note.status.state, note.online) == ("offline", False)
    requests = len(network.requests)
    acts.write(note, "two")
    await asyncio.sleep(0.05)
    assert len(network.requests) == requests
    assert note.status.unsent == 1
    await replica.connect()
    await acts.synced(note)
    assert len(await world.payloads()) == 2


async def test_two_hundred_documents_live_at_once_on_one_replica(world: Any, acts: Any) -> None:
    a, b = await world.replica("a"), await world.replica("b")
    ours = [await a.open(f"notes/{number}") for number in range(200)]
    theirs = [await b.open(f"notes/{number}") for number in range(200)]
    await acts.synced(*ours, *theirs)
    for number, document in enumerate(ours):
        acts.write(document, f"words {number}")
    await acts.until(lambda: all(acts.read(document) == f"words {number}" for number, document in enumerate(theirs)))
    await acts.synced(*ours)
    assert [document.status.state for document in ours] == ["live"] * 200
    assert [document.status.durable for document in ours] == [1] * 200


@pytest.mark.parametrize(
    "name", ["with space", "ünï/çødé 😀", "100%", "a%2Fb", "a/b/c", "q?x=1#y", "a+b&c;d", ".hidden", "a..b", "~", "a\\b"]
)
async def test_names_reach_the_server_and_come_back_as_they_are(world: Any, acts: Any, name: str) -> None:
    a = await (await world.replica("a")).open(name)
    acts.write(a, name)
    await acts.synced(a)
    replica = await world.replica("b")
    b = await replica.open(name)
    await acts.synced(b)
    assert acts.read(b) == name
    assert [info.path for info in replica.documents()] == [name]
    assert await world.engine.list("yjs/default/docs/**") == [f"yjs/default/docs/{name}/.updates"]


async def test_names_that_look_alike_are_different_documents(world: Any, acts: Any) -> None:
    names = ["a/b", "a%2Fb", "a", "ab", "A", "a b", "a%20b"]
    replica = await world.replica("a")
    documents = [await replica.open(name) for name in names]
    for document in documents:
        acts.write(document, document.path)
    await acts.synced(*documents)
    other = await world.replica("b")
    for name in names:
        document = await other.open(name)
        await acts.synced(document)
        assert acts.read(document) == name


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\nb", "a\x00b", "a/.updates", "x" * 2000, "\ud800"]
)
async def test_names_that_make_no_url_are_refused(world: Any, name: str) -> None:
    replica = await world.replica("a", online=False)
    with pytest.raises(ValueError, match="not a path"):
        await replica.open(name)
    assert replica.documents() == []


@pytest.mark.parametrize("server", ["localhost:4437", "ftp://x", "http://", "http://x:port", "http://x?y=1", "http://[::1", ""])
async def test_what_is_no_url_is_refused_and_the_file_is_free_again(tmp_path: Any, server: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        async with Replica(tmp_path / "a.db", server=server):
            pass
    async with Replica(tmp_path / "a.db") as replica:
        with pytest.raises(ValueError, match="no server"):
            await replica.connect()


async def test_services_are_apart_and_one_segment(world: Any, acts: Any) -> None:
    replica = await world.replica("a", service="team one")
    note, default = await replica.open("note"), await replica.open("note", service="default")
    assert note is not default
    acts.write(note, "of the team")
    await acts.synced(note, default)
    assert acts.read(default) == ""
    assert await world.engine.list("**") == ["yjs/default/docs/note/.updates", "yjs/team one/docs/note/.updates"]
    with pytest.raises(ValueError, match="service"):
        Replica("x.db", service="a/b")


async def test_opened_twice_is_the_same_object_and_unknown_adapters_are_named(world: Any) -> None:
    replica = await world.replica("a", online=False)
    assert await replica.open("note") is await replica.open("note")
    with pytest.raises(UnknownAdapterError) as unknown:
        await replica.open("note", crdt="word")
    assert unknown.value.name == "word"


async def test_a_second_replica_on_the_file_is_refused_and_a_closed_one_says_so(world: Any, acts: Any) -> None:
    replica = await world.replica("a")
    with pytest.raises(FileInUseError):
        await world.replica("a")
    note = await replica.open("note")
    await replica.close()
    with pytest.raises(ClosedError):
        await note.synced()
    with pytest.raises(ClosedError):
        await replica.open("other")
    with pytest.raises(ClosedError):
        await replica.connect(world.url)
    with pytest.raises(ClosedError):
        replica.documents()
    await replica.close()
    assert [status.state async for status in note.statuses()] == []


async def test_documents_lists_what_is_open_and_what_is_not(world: Any, acts: Any) -> None:
    replica = await world.replica("a", online=False)
    note, other = await replica.open("note"), await replica.open("other")
    acts.write(note, "x")
    await other.close()
    assert [(info.path, info.service, info.crdt, info.unsent, info.durable, info.phase) for info in replica.documents()] == [
        ("note", "default", "yjs", 1, 0, "follow"),
        ("other", "default", "yjs", 0, 0, "follow"),
    ]
    assert (await replica.open("other")) is not other


# In the background


async def _leave_a_backlog(world: Any, acts: Any, count: int) -> None:
    replica = await world.replica("a", online=False)
    for number in range(count):
        acts.write(await replica.open(f"n{number}"), f"words {number}")
    await replica.close()


async def test_documents_that_are_not_open_are_sent_in_the_background_and_closed_again(world: Any, acts: Any) -> None:
    await _leave_a_backlog(world, acts, 30)
    network = world.network()
    replica = await world.replica("a", transport=network)
    await acts.until(lambda: all(info.unsent == 0 for info in replica.documents()))
    assert [len(await world.payloads(f"n{number}")) for number in range(30)] == [1] * 30
    await asyncio.sleep(0.05)
    requests = len(network.requests)
    await asyncio.sleep(0.2)
    assert len(network.requests) == requests, "none of them is followed any more"
    note = await replica.open("n7")
    assert acts.read(note) == "words 7"


async def test_opening_a_document_while_it_is_sent_in_the_background(world: Any, acts: Any) -> None:
    await _leave_a_backlog(world, acts, 12)
    network = world.network()
    gate = asyncio.Event()
    held = network.inject(hold(gate), when=is_append, times=None)
    replica = await world.replica("a", transport=network)
    await acts.until(lambda: held.hits > 0)
    notes = [await replica.open(f"n{number}") for number in range(12)]
    gate.set()
    await acts.synced(*notes)
    acts.write(notes[0], " more")
    await acts.synced(notes[0])
    await asyncio.sleep(0.05)
    assert all(note.online for note in notes), "what the application holds stays open"
    assert [len(await world.payloads(f"n{number}")) for number in range(12)] == [2] + [1] * 11


async def test_opening_a_document_at_the_moment_its_background_sending_ends(world: Any, acts: Any) -> None:
    await _leave_a_backlog(world, acts, 12)
    replica = await world.replica("a")
    for number in range(12):
        for _ in range(random.randrange(30)):
            await asyncio.sleep(0)
        note = await replica.open(f"n{number}")
        acts.write(note, "!")
        await acts.synced(note)
        assert acts.read(note) == f"words {number}!"
        assert await replica.open(f"n{number}") is note
    await asyncio.sleep(0.05)
    assert all(info.unsent == 0 for info in replica.documents())


async def test_a_document_that_is_refused_does_not_hold_up_the_others(world: Any, acts: Any, caplog: Any) -> None:
    await _leave_a_backlog(world, acts, 12)
    network = world.network()
    network.inject(respond(400), when=lambda request: is_append(request) and "/n3/" in request.url, times=None)
    replica = await world.replica("a", transport=network)
    await acts.until(lambda: sum(info.unsent for info in replica.documents()) == 1)
    assert [info.path for info in replica.documents() if info.unsent] == ["n3"]
    await acts.until(lambda: "n3" in caplog.text and "blocked" in caplog.text, "the log says which")


async def test_documents_that_can_not_be_sent_let_the_others_have_their_turn(world: Any, acts: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("ds_sync.replica.replica.BACKGROUND_TURN", 0.1)
    await _leave_a_backlog(world, acts, 14)
    network = world.network()
    stuck = {f"/n{number}/" for number in (0, 1, 10, 11, 12, 13, 2, 3, 4)}  # the first nine by name
    failing = network.inject(respond(503), when=lambda request: is_append(request) and any(n in request.url for n in stuck), times=None)
    replica = await world.replica("a", transport=network)
    await acts.until(lambda: sum(info.unsent for info in replica.documents()) == 9)
    assert failing.hits  # the others were sent although what stands before them is not
    network.clear()
    await acts.until(lambda: all(info.unsent == 0 for info in replica.documents()))
    assert [len(await world.payloads(f"n{number}")) for number in range(14)] == [1] * 14


async def test_closing_the_replica_while_documents_are_sent_in_the_background(world: Any, acts: Any) -> None:
    await _leave_a_backlog(world, acts, 12)
    network = world.network()
    network.inject(hold(asyncio.Event()), when=is_append, times=None)
    replica = await world.replica("a", transport=network)
    await acts.until(lambda: network.count(is_append) > 0)
    await replica.close()
    again = await world.replica("a")
    await acts.until(lambda: all(info.unsent == 0 for info in again.documents()))
    assert [len(await world.payloads(f"n{number}")) for number in range(12)] == [1] * 12


async def test_text_inserted_inside_a_character_is_sent_and_can_be_opened_again(world: Any, acts: Any) -> None:
    """pycrdt counts positions in bytes, and what it then writes can't be read by others as it is."""
    replica = await world.replica("a")
    note, other = await replica.open("note"), await (await world.replica("b")).open("note")
    acts.write(note, "\u00e9")
    note.doc.get("body", type=Text).insert(1, "x")
    await acts.synced(note, other)
    assert acts.read(other) == acts.read(note) == "\u00e9x"
    await replica.close()
    assert acts.read(await (await world.replica("a")).open("note")) == "\u00e9x"


# Closing and changing one's mind at any moment


async def test_closing_at_any_moment_leaves_no_task_and_a_file_with_everything(world: Any, acts: Any) -> None:
    chance = random.Random(7)
    written = 0
    others = asyncio.all_tasks()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for round_ in range(60):
            replica = Replica(world.folder / "a.db", server=world.url, transport=world.network(), tuning=world_tuning(world))
            await replica.__aenter__()
            note = await replica.open("note")
            for _ in range(chance.randrange(4)):
                acts.write(note, "x")
                written += 1
                for _ in range(chance.randrange(25)):
                    await asyncio.sleep(0)
            waiting = asyncio.ensure_future(note.synced())
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
            await replica.close()
            gone = await asyncio.gather(waiting, return_exceptions=True)
            assert gone[0] is None or isinstance(gone[0], ClosedError), gone
            await world.settle()
            assert asyncio.all_tasks() <= others, f"round {round_}"
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    note = await (await world.replica("a")).open("note")
    assert acts.read(note) == "x" * written
    await acts.synced(note)
    assert acts.edits(note.status) == note.status.durable == written
    other = await (await world.replica("b")).open("note")
    await acts.synced(other)
    assert acts.read(other) == "x" * written
    frames = await world.payloads()
    assert len(frames) == len(set(frames))


def world_tuning(world: Any) -> Any:
    from ds_sync.replica.local import Tuning

    return Tuning(store_retry=0.02, heal_jitter=0.02, pause=0.1)


async def test_connecting_disconnecting_and_closing_all_at_once(world: Any, acts: Any) -> None:
    chance = random.Random(11)
    others = asyncio.all_tasks()
    for _ in range(20):
        replica = Replica(world.folder / "a.db", transport=world.network(), tuning=world_tuning(world))
        await replica.__aenter__()
        notes = [await replica.open(f"n{number}") for number in range(3)]
        for note in notes:
            acts.write(note, "x")

        async def act(which: int, replica: Any = replica) -> None:
            for _ in range(chance.randrange(40)):
                await asyncio.sleep(0)
            try:
                if which < 3:
                    await replica.connect(world.url)
                elif which < 5:
                    await replica.disconnect()
                else:
                    await replica.open(f"n{which - 5}")
            except ClosedError:
                assert which in (0, 1, 2, 5, 6, 7)

        acting = [asyncio.ensure_future(act(which)) for which in range(8)]
        for _ in range(chance.randrange(60)):
            await asyncio.sleep(0)
        await replica.close()
        await asyncio.gather(*acting)
        await replica.close()
        await world.settle()
        assert asyncio.all_tasks() <= others
    replica = await world.replica("a")
    notes = [await replica.open(f"n{number}") for number in range(3)]
    await acts.synced(*notes)
    assert [acts.read(note) for note in notes] == ["x" * 20] * 3
    assert [len(set(await world.payloads(f"n{number}"))) for number in range(3)] == [
        len(await world.payloads(f"n{number}")) for number in range(3)
    ]


async def test_with_no_network_at_all_everything_works_but_the_network(world: Any, acts: Any) -> None:
    network = world.network()
    network.inject(drop_before_sending(), when=anything, times=None)
    replica = await world.replica("a", transport=network)
    note = await replica.open("note")
    acts.write(note, "offline")
    waiting = asyncio.ensure_future(note.synced())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await replica.close()
    with pytest.raises(ClosedError):
        await waiting
    note = await (await world.replica("a", online=False)).open("note")
    assert acts.read(note) == "offline"


@pytest.mark.parametrize("server", ["ftp://ann:SECRET@host", "http://ann:SECRET@host:SECRET", "http://host/?SECRET"])
async def test_what_is_no_server_is_refused_without_its_secrets(server: str, tmp_path: Path) -> None:
    async with Replica(tmp_path / "notes.db") as replica:
        with pytest.raises(ValueError, match="URL") as refused:
            await replica.connect(server)
    assert "SECRET" not in str(refused.value)
