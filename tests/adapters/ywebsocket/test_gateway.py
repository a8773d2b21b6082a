"""Conversations with the gateway: sync, order, refusals."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest
from ds_sync_ywebsocket import connection, gateway, messages, room
from pycrdt import Doc, Text
from talking import Client, House, write_update

from ds_sync.exceptions import StorageFullError
from ds_sync.server.engines.base import Decide
from ds_sync.server.engines.memory import MemoryEngine

pytestmark = pytest.mark.anyio
R = TypeVar("R")
OpenHouse = Callable[..., Awaitable[House]]


class SlowEngine(MemoryEngine):
    """Commits to documents wait until `let_go`; `full`: they are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = asyncio.Event()
        self.full = False
        self.commits = 0

    async def transact(self, paths: Sequence[str], decide: Decide[R], *, producer: str | None = None) -> R:
        if self.full:
            raise StorageFullError("no space")
        if paths[0].endswith("/.updates"):
            await self.let_go.wait()
            self.commits += 1
        return await super().transact(paths, decide, producer=producer)


async def test_two_clients_edit_one_document(house: House) -> None:
    ann, bob = await house.join(), await house.join()
    ann.edit("hello")
    await bob.see("hello")
    bob.edit(" world")
    await ann.see("hello world")
    late = await house.join()
    assert str(late.text) == "hello world"


async def test_the_first_frame_is_sync_step_1(house: House) -> None:
    update = write_update("x")
    await house.append([update])
    client = house.connect()
    await client.wait(lambda client: bool(client.frames))
    document: Doc[Any] = Doc()
    document.apply_update(update)
    assert client.frames[0] == messages.build_sync(messages.STEP_1, document.get_state())


async def test_what_is_not_durable_is_neither_echoed_nor_relayed_nor_part_of_an_answer(open_house: OpenHouse) -> None:
    engine = SlowEngine()
    house = await open_house(engine)
    ann, bob = await house.join(), await house.join()
    ann.edit("a")
    await asyncio.sleep(0.05)
    late = await house.join()
    assert (ann.updates(), bob.updates(), str(late.text)) == ([], [], "")
    engine.let_go.set()
    for client in (ann, bob, late):
        await client.see("a")
    assert len(ann.updates()) == 1  # the sender's own, come back: now it is safe


async def test_what_arrives_together_is_stored_and_sent_as_one(open_house: OpenHouse) -> None:
    engine = SlowEngine()
    house = await open_house(engine)
    ann, bob = await house.join(), await house.join()
    engine.let_go.set()
    ann.edit("warm")
    await bob.see("warm")
    engine.let_go.clear()
    engine.commits = 0
    ann.edit(*"abcdefghij")
    await asyncio.sleep(0.02)
    engine.let_go.set()
    await bob.see("warmabcdefghij")
    assert engine.commits <= 2
    assert len(bob.updates()) <= 3
    assert len(await house.stored()) == 11  # each update is in the log as it came


async def test_http_and_websocket_edit_one_document(house: House) -> None:
    ann = await house.join("über/uns")
    await house.append([write_update("from http")], "%C3%BCber/uns")
    await ann.see("from http")
    ann.edit("!")
    await ann.wait(lambda client: len(client.updates()) == 2)
    stored = await house.stored("%C3%BCber/uns")
    assert len(stored) == 2
    document: Doc[Any] = Doc()
    for update in stored:
        document.apply_update(update)
    assert str(document.get("body", type=Text)) == "from http!"


async def test_a_mere_visit_makes_no_document(house: House) -> None:
    client = await house.join()
    await client.hang_up()
    assert (await house.ask("HEAD", "/v1/yjs/default/docs/room"))[0] == 404


async def test_a_client_that_comes_back_brings_only_what_is_new(house: House) -> None:
    ann = await house.join()
    ann.edit("one ", "two ")
    del ann.text[0:2]
    ann.send(messages.build_sync(messages.UPDATE, ann.document.get_update()))
    await ann.wait(lambda client: bool(client.updates()))
    stored = await house.stored()
    await ann.hang_up()

    again = house.connect()
    again.document = ann.document
    again.sync()
    await again.synced()  # it also answered with all its deletions, and nothing came of that
    await asyncio.sleep(0.05)
    assert await house.stored() == stored
    await again.hang_up()

    ann.text.insert(0, "offline ")
    third = house.connect()
    third.document = ann.document
    other = await house.join()
    await other.see("offline e two ")
    assert len(await house.stored()) == len(stored) + 1


async def test_a_whole_document_sent_as_an_update_is_stored_only_once(house: House) -> None:
    ann = await house.join()
    ann.edit("x" * 5000)
    await ann.wait(lambda client: len(client.updates()) == 1)
    ann.send(messages.build_sync(messages.UPDATE, ann.document.get_update()))  # as y-indexeddb does when it has loaded
    ann.edit("y")
    await ann.wait(lambda client: len(client.updates()) == 2)
    assert [len(update) > 5000 for update in await house.stored()] == [True, False]


async def test_a_deletion_sent_offline_is_news(house: House) -> None:
    ann = await house.join()
    ann.edit("abc")
    await ann.wait(lambda client: bool(client.updates()))
    await ann.hang_up()
    del ann.text[1:2]
    again = house.connect()
    again.document = ann.document
    bob = await house.join()
    await bob.see("ac")


async def test_an_update_that_waits_for_another_reaches_everybody(house: House) -> None:
    document: Doc[Any] = Doc()
    text = document.get("body", type=Text)
    updates = []
    for letter in "abc":
        before = document.get_state()
        text.insert(len(str(text)), letter)
        updates.append(document.get_update(before))
    ann = await house.join()
    ann.send(messages.build_sync(messages.UPDATE, updates[2]))
    await ann.wait(lambda client: len(client.updates()) == 1)
    late = await house.join()  # is given what waits
    await house.append(updates[:2])
    for client in (ann, late):
        await client.see("abc")


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        "text",
        b"\x00",
        b"\x00\x00",
        b"\x00\x00\x05ab",
        b"\x00\x00\x03\xff\xff\xff",
        b"\x00\x00\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x00\x01\x05hello",
        b"\x00\x02\x05hello",
        b"\x00\x02\xff\xff\xff\xff\x7fx",
        b"\x00\x02\x02\x00\x00trailing",
        b"\x00\x07\x00",
        b"\x01",
        b"\x01\x01\xff",
        b"\x01\x04\x01\x01\x01{",
        b"\x01\x06\x01\x01\x01\x03NaN",
        b"\x02\x00\x02no",
        b"\x63garbage",
        bytes(range(256)) * 40,
    ],
    ids=lambda frame: repr(frame)[:30],
)
async def test_garbage_reaches_nobody_and_hurts_nobody(house: House, frame: bytes | str) -> None:
    ann, bob = await house.join(), await house.join()
    before = list(bob.frames)
    ann.send(frame)
    ann.edit("still here")
    await bob.see("still here")
    assert len(bob.frames) == len(before) + 1
    assert (ann.closed, bob.closed) == (None, None)
    assert len(await house.stored()) == 1


async def test_who_sends_what_can_not_be_kept_is_told_and_nobody_else_is_concerned(house: House) -> None:
    ann, bob = await house.join(), await house.join()
    ann.edit("kept")
    hook = bytes.fromhex("01010500070101780504686f6f6b00")  # new Y.XmlHook("hook") in the root "x"
    ann.send(messages.build_sync(messages.UPDATE, hook))
    await ann.wait(lambda client: client.closed is not None)
    assert ann.closed == (4422, "not supported: an XML hook, which pycrdt misreads")
    bob.edit("!")
    await bob.wait(lambda client: len(client.updates()) == 2)
    assert bob.closed is None
    assert len(await house.stored()) == 2


async def test_garbage_stored_over_http_is_not_passed_on(house: House) -> None:
    await house.append([b"no update", write_update("good")])
    ann = await house.join()
    assert str(ann.text) == "good"
    await house.append([b"\xff\xff\xff", write_update("!")])
    await ann.wait(lambda client: str(client.text) in ("good!", "!good"))
    assert len(ann.updates()) == 1


async def test_a_frame_above_the_limit_ends_its_connection_only(open_house: OpenHouse) -> None:
    house = await open_house(max_frame=2000)
    ann, bob = await house.join(), await house.join()
    ann.edit("x" * 3000)
    await ann.wait(lambda client: client.closed is not None)
    assert ann.closed is not None
    assert ann.closed[0] == 1009
    bob.edit("y")
    await bob.wait(lambda client: bool(client.updates()))
    assert len(await house.stored()) == 1


async def test_a_slow_reader_is_cut_off_and_the_others_are_served(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "QUEUE_BYTES", 10_000)
    monkeypatch.setattr(connection, "GOODBYE_SECONDS", 0.05)
    slow = house.connect(reads=False)
    ann, bob = await house.join(), await house.join()
    for number in range(10):
        ann.edit(f"{number}" * 2000)
        await bob.wait(lambda client, number=number: len(client.updates()) == number + 1)
    await asyncio.wait_for(slow.task, 5)
    await slow.wait(lambda client: client.task.done())
    assert (ann.closed, bob.closed) == (None, None)
    back = await house.join()  # what it asks for may be larger than what may wait for it
    assert str(back.text) == str(ann.text)
    assert len(str(back.text)) == 20_000


async def test_who_is_cut_off_and_reads_on_is_told_to_come_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "QUEUE_BYTES", 10_000)
    slow = house.connect(reads=False)
    ann = await house.join()
    for number in range(10):
        ann.edit(f"{number}" * 2000)
    await ann.wait(lambda client: sum(map(len, client.updates())) >= 20_000)
    slow.read_on()
    await slow.wait(lambda client: client.closed is not None)
    assert slow.closed == (1013, "too slow: come back")


async def test_a_reader_that_stalls_without_a_full_queue_is_cut_off_in_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.05)
    monkeypatch.setattr(connection, "GOODBYE_SECONDS", 0.05)
    monkeypatch.setattr(gateway, "ROUND_SECONDS", 0.02)
    slow = house.connect(reads=False)
    ann = await house.join()
    await asyncio.wait_for(slow.task, 5)
    assert ann.closed is None


async def test_who_hears_nothing_gets_a_sign_of_life(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(gateway, "ROUND_SECONDS", 0.02)
    ann = await house.join()
    await ann.wait(lambda client: messages.HEARTBEAT in client.frames)


async def test_a_full_disk_sends_the_writer_away_and_nobody_else(open_house: OpenHouse) -> None:
    engine = SlowEngine()
    engine.let_go.set()
    house = await open_house(engine)
    ann, bob = await house.join(), await house.join()
    ann.edit("a")
    await bob.see("a")
    engine.full = True
    ann.edit("b")
    await ann.wait(lambda client: client.closed is not None)
    assert ann.closed is not None
    assert ann.closed[0] == 1013
    assert (bob.closed, str(bob.text)) == (None, "a")
    engine.full = False
    again = house.connect()
    again.document = ann.document
    await bob.see("ab")


async def test_a_server_with_all_its_streams_sends_the_writer_of_another_away_and_nobody_else(open_house: OpenHouse) -> None:
    house = await open_house(max_streams=1)
    await house.append([write_update("x")], "first")
    ann, bob = await house.join(), await house.join()
    ann.edit("a")
    await ann.wait(lambda client: client.closed is not None)
    assert ann.closed == (1013, "this can't be stored")
    await asyncio.sleep(0.05)
    assert bob.closed is None
    assert (await house.ask("DELETE", "/v1/yjs/default/docs/first"))[0] == 204
    ann = await house.join()
    ann.edit("a")
    await bob.see("a")


async def test_a_stream_of_that_name_that_is_no_document_is_not_written_to(house: House) -> None:
    path = "/v1/stream/yjs/default/docs/room/.updates"
    assert (await house.ask("PUT", path, type="text/plain"))[0] == 201
    ann, bob = await house.join(), await house.join()
    ann.edit("a")
    await ann.wait(lambda client: client.closed is not None)
    assert ann.closed == (4409, "this can't be stored")
    assert bob.closed is None
    assert (await house.ask("GET", f"{path}?offset=-1"))[2] == b""


async def test_a_document_that_is_deleted_says_so_and_may_be_made_again(house: House) -> None:
    ann = await house.join()
    ann.edit("old")
    await ann.wait(lambda client: bool(client.updates()))
    assert (await house.ask("DELETE", "/v1/yjs/default/docs/room"))[0] == 204
    await ann.wait(lambda client: client.closed is not None)
    assert ann.closed == (4404, "the document is gone")
    fresh = await house.join()
    assert str(fresh.text) == ""
    fresh.edit("new")
    await fresh.wait(lambda client: bool(client.updates()))
    assert len(await house.stored()) == 1


async def test_a_subprotocol_that_is_offered_is_taken(house: House) -> None:
    client = house.connect(subprotocols=["one", "two"])
    await client.wait(lambda client: bool(client.frames))
    assert client.accepted == {"type": "websocket.accept", "subprotocol": "one"}


async def test_stopping_hangs_up_on_everybody_and_lets_nobody_in(house: House) -> None:
    ann = await house.join()
    assert await house.app.drain(5)
    assert ann.closed == (1012, "the server restarts")
    late = house.connect()
    await asyncio.wait_for(late.task, 5)
    assert (late.accepted, late.frames) == (None, [])


async def test_a_path_without_a_gateway_is_refused(house: House) -> None:
    client = Client(house.app, "/v1/nothing/default/room")
    await asyncio.wait_for(client.task, 5)
    assert (client.accepted, client.closed) == (None, (1008, ""))
