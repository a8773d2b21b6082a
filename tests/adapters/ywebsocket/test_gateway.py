"""Conversations with the gateway: sync, order, refusals."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from ds_sync_ywebsocket import connection, gateway, messages, room
from pycrdt import Doc, Text
from talking import Client, House, write_update

from ds_sync.crdt import Word
from ds_sync.exceptions import ForbiddenError, GoneError, NotFoundError, ResponseError, StorageFullError, UnauthorizedError
from ds_sync.protocol.history import Place
from ds_sync.server.admission import Access, Visitor
from ds_sync.server.engines.base import Decide, Run
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine

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


class TrimmingEngine(MemoryEngine):
    """Has dropped what is asked for, `times` times."""

    times = 0

    async def read(self, path: str, after: Place | None, limit: int) -> Run:
        if self.times and limit and path.endswith("/.updates"):
            self.times -= 1
            raise GoneError("dropped", code="OFFSET_EXPIRED")
        return await super().read(path, after, limit)


async def test_what_is_dropped_while_a_room_is_loaded_is_in_a_newer_snapshot(open_house: OpenHouse) -> None:
    engine = TrimmingEngine()
    house = await open_house(engine)
    await house.append([write_update("x")])
    engine.times = 2
    ann = await house.join()
    assert (str(ann.text), engine.times) == ("x", 0)


async def test_a_room_that_has_fallen_behind_begins_again(open_house: OpenHouse) -> None:
    engine = TrimmingEngine()
    house = await open_house(engine)
    ann = await house.join()
    engine.times = 1
    await house.append([write_update("x")])
    await ann.wait(lambda client: client.closed is not None)
    assert ann.closed is not None
    assert ann.closed[0] == 1013
    again = await house.join()
    assert str(again.text) == "x"


@pytest.mark.parametrize("room", [".hidden", "a/.updates", "..", "a%00b", "%2e%2e/b", ""])
async def test_a_room_that_can_be_no_document_is_refused(house: House, room: str) -> None:
    client = house.connect(room)
    await client.wait(lambda client: client.closed is not None)
    assert client.closed is not None
    assert client.closed[0] == 4400


@pytest.mark.parametrize(
    ("error", "code"), [(ForbiddenError("not yours"), 4403), (UnauthorizedError("who?"), 4401), (NotFoundError("no such room"), 4404)]
)
async def test_permission_denied(open_house: OpenHouse, error: ResponseError, code: int) -> None:
    async def admit(visitor: Visitor) -> Access:
        if (visitor.service, visitor.room) == ("default", "a/secret"):
            raise error
        return Access.WRITE

    house = await open_house(admit=admit)
    await house.append([write_update("secret")], "a/secret")
    client = house.connect("a%2Fsecret")
    await client.wait(lambda client: client.closed is not None)
    assert client.closed == (code, str(error))
    told = [messages.build_refusal(str(error))] if code != 4404 else []
    assert client.frames == told  # y-protocols/auth.js
    assert (await house.join("open")).closed is None


@pytest.mark.parametrize("answer", [None, True, "write", RuntimeError("no database")])
async def test_an_application_that_fails_lets_nobody_in(open_house: OpenHouse, answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def admit(visitor: Visitor) -> Access:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    house = await open_house(admit=admit)
    await house.append([write_update("secret")])
    client = house.connect()
    await client.wait(lambda client: client.closed is not None)
    assert client.closed == (1011, "the server failed")
    assert client.frames == []
    assert "a conversation failed" in caplog.text


async def test_a_long_reason_fits_into_a_close_frame(open_house: OpenHouse) -> None:
    async def admit(visitor: Visitor) -> Access:
        raise ForbiddenError("a" + "\u00e9" * 200)

    client = (await open_house(admit=admit)).connect()
    await client.wait(lambda client: client.closed is not None)
    assert client.closed == (4403, "a" + "\u00e9" * 61)


async def test_who_may_only_read_is_told_once_and_changes_nothing(open_house: OpenHouse) -> None:
    async def admit(visitor: Visitor) -> Access:
        return Access.READ if visitor.query.get("as") == "guest" else Access.WRITE

    house = await open_house(admit=admit)
    ann = await house.join()
    ann.edit("Ann")
    guest = house.connect(query="as=guest")
    guest.text.insert(0, "offline ")
    guest.sync()
    await guest.wait(lambda client: "Ann" in str(client.text))
    refusals = [messages.build_refusal("you may only read here: what you change is not kept")]
    await guest.wait(lambda client: [frame for frame in client.frames if frame[0] == messages.AUTH] == refusals)
    guest.edit("more", "x" * 5000)
    guest.say(7, 1, "a guest")
    await ann.wait(lambda client: client.words.get(7) == Word(7, 1, "a guest"))
    ann.edit("!")
    await guest.wait(lambda client: "!" in str(client.text))
    assert str(ann.text) == "Ann!"
    assert len(await house.stored()) == 2
    assert [frame for frame in guest.frames if frame[0] == messages.AUTH] == refusals
    assert guest.closed is None


async def test_who_may_only_read_and_only_does_is_told_nothing(open_house: OpenHouse) -> None:
    async def admit(visitor: Visitor) -> Access:
        return Access.READ

    house = await open_house(admit=admit)
    await house.append([write_update("there")])
    guest = await house.join()
    await guest.see("there")
    guest.send(messages.build_sync(messages.STEP_2, guest.document.get_update()))
    guest.send(bytes((messages.ASK_PRESENCE,)))
    await guest.wait(lambda client: client.frames[-1][0] == messages.PRESENCE)
    assert all(frame[0] != messages.AUTH for frame in guest.frames)
    assert (await house.ask("GET", "/v1/stream/yjs/default/docs/none/.updates"))[0] == 404


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


class NotingEngine(SqliteEngine):
    """Notes what is read: of which stream, from which position on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.noted: list[tuple[str, int]] = []

    async def read(self, path: str, after: Place | None, limit: int) -> Run:
        if after is not None and limit:
            self.noted.append((path, after.position))
        return await super().read(path, after, limit)


async def test_an_idle_room_is_let_go_and_loaded_again_from_snapshot_and_updates(
    tmp_path: Path, open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(gateway, "ROUND_SECONDS", 0.02)
    engine = NotingEngine(tmp_path / "streams.db")
    house = await open_house(engine, compact_after=1000)
    ann, _ = await house.join(), await house.join()
    ann.edit("x" * 2000)
    await ann.wait(lambda client: bool(client.updates()))
    await snapshot_of_the_room(house)
    ann.edit("y")
    await ann.wait(lambda client: len(client.updates()) == 2)
    await ann.hang_up()
    await asyncio.sleep(0.2)
    engine.noted.clear()
    await house.join()
    assert engine.noted == [], "somebody is there: the room is held"
    for client in house.clients:
        await client.hang_up()
    await asyncio.sleep(0.2)
    late = await house.join()
    assert str(late.text) == "x" * 2000 + "y"
    updates = [position for path, position in engine.noted if path.endswith("/.updates")]
    snapshots = [position for path, position in engine.noted if not path.endswith("/.updates")]
    assert len(snapshots) >= 1, "nobody was there: the room was let go, and is loaded"
    assert updates
    assert min(updates) > 0, "what the snapshot holds is not read again"


async def snapshot_of_the_room(house: House) -> None:
    for _ in range(400):
        _, headers, _ = await house.ask("GET", "/v1/yjs/default/docs/room?offset=snapshot")
        if headers["location"].endswith("_snapshot"):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("no snapshot was made")
