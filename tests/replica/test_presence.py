"""Presence between replicas, over the real application."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from ds_sync_yjs.presence import YjsPresence

from ds_sync.client.stream import StreamClient
from ds_sync.crdt import Word, load_adapter
from ds_sync.environment import Environment
from ds_sync.protocol.framing import build_frame, parse_frames
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.replica import presence as presence_module
from ds_sync.replica.document import Document
from ds_sync.replica.presence import Presence
from ds_sync.replica.replica import Replica
from ds_sync.server.app import create_app
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.testing.asgi_transport import AsgiTransport

pytestmark = pytest.mark.anyio

SERVER = "http://server"
URL = f"{SERVER}/v1/yjs/default/docs/notes"


@pytest.fixture
async def transport() -> AsyncIterator[AsgiTransport]:
    engine = MemoryEngine()
    app = create_app(engine, compact_after=None)
    made = AsgiTransport(app)
    try:
        yield made
    finally:
        await app.drain(5)
        await app.aclose()
        await made.aclose()
        await engine.aclose()


@asynccontextmanager
async def person(folder: Path, name: str, transport: AsgiTransport) -> AsyncIterator[tuple[Replica, Document]]:
    async with Replica(folder / f"{name}.db", server=SERVER, transport=transport) as replica:
        note = await replica.open("notes")
        await asyncio.wait_for(note.synced(), 5)
        yield replica, note


async def until(presence: Presence, condition: Callable[[list[Any]], bool], seconds: float = 5) -> list[Any]:
    async with asyncio.timeout(seconds):
        async for states in presence.changes():
            found = [state for client, state in states.items() if client != presence.client]
            if condition(found):
                return found
    raise AssertionError("unreachable")


async def test_changes_end_when_the_document_is_closed(tmp_path: Path, transport: AsgiTransport) -> None:
    async with person(tmp_path, "one", transport) as (_, note):
        note.presence.set({"name": "Ada"})
        states, seen = note.presence.changes(), asyncio.Event()

        async def watch() -> list[Any]:
            first = await anext(states)
            seen.set()
            return [first, *[later async for later in states]]

        watching = asyncio.ensure_future(watch())
        async with asyncio.timeout(5):
            await seen.wait()
            await note.close()
            assert await watching == [{note.doc.client_id: {"name": "Ada"}}]
            assert [later async for later in note.presence.changes()] == []


async def test_two_replicas_see_each_other_and_leave(tmp_path: Path, transport: AsgiTransport) -> None:
    async with person(tmp_path, "one", transport) as (_, one):
        one.presence.set({"name": "Ada"})
        assert one.presence.states == {one.doc.client_id: {"name": "Ada"}}
        async with person(tmp_path, "two", transport) as (_, two):
            two.presence.set({"name": "Bob", "cursor": 1})
            assert await until(two.presence, bool) == [{"name": "Ada"}], "also what was said before it came"
            assert await until(one.presence, bool) == [{"name": "Bob", "cursor": 1}]
            for cursor in range(2, 20):
                two.presence.set({"name": "Bob", "cursor": cursor})
            await until(one.presence, lambda states: states == [{"name": "Bob", "cursor": 19}])
            two.presence.set(None)
            await until(one.presence, lambda states: not states)
            two.presence.set({"name": "Bob again"})
            await until(one.presence, lambda states: states == [{"name": "Bob again"}])
        await until(one.presence, lambda states: not states, seconds=2)


async def test_offline_there_is_nobody_else_and_coming_back_is_seen(tmp_path: Path, transport: AsgiTransport) -> None:
    async with person(tmp_path, "one", transport) as (replica, one), person(tmp_path, "two", transport) as (_, two):
        one.presence.set({"name": "Ada"})
        two.presence.set({"name": "Bob"})
        await until(one.presence, bool)
        await until(two.presence, bool)
        await replica.disconnect()
        await until(two.presence, lambda states: not states)
        assert one.presence.states == {one.presence.client: {"name": "Ada"}}
        one.presence.set({"name": "Ada, offline"})
        await replica.connect()
        await until(two.presence, lambda states: states == [{"name": "Ada, offline"}])
        await until(one.presence, lambda states: states == [{"name": "Bob"}])


async def say(transport: AsgiTransport, *words: Word) -> None:
    stream = StreamClient(URL, transport=transport, params={"awareness": "default"})
    await stream.append(build_frame(YjsPresence().encode(words)), content_type="application/octet-stream")


async def test_who_is_not_heard_of_is_gone(tmp_path: Path, transport: AsgiTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "TIMEOUT_SECONDS", 0.5)
    async with person(tmp_path, "one", transport) as (_, one):
        assert one.presence.states == {}
        await asyncio.sleep(0.1)
        await say(transport, Word(7, 1, {"name": "ghost"}))
        await until(one.presence, bool)
        await until(one.presence, lambda states: not states)


async def test_old_words_do_not_revive_who_left(tmp_path: Path, transport: AsgiTransport) -> None:
    async with person(tmp_path, "one", transport) as (_, one):
        await say(transport, Word(7, 2, {"n": 2}), Word(8, 1, {"n": 8}))
        await until(one.presence, lambda states: len(states) == 2)
        await say(transport, Word(7, 3, None), Word(7, 2, {"n": 2}), Word(8, 0, {"n": 0}), Word(9, 1, {"n": 9}))
        assert await until(one.presence, lambda states: {"n": 9} in states) == [{"n": 8}, {"n": 9}]


async def last_word(stream: StreamClient, client: int) -> Word:
    """Return what the server has last heard of `client`."""
    updates = parse_frames((await stream.read(BEGINNING, fresh=True)).data).payloads
    return [word for update in updates for word in YjsPresence().decode(update) if word.client == client][-1]


async def test_who_is_taken_for_gone_says_that_it_is_there(tmp_path: Path, transport: AsgiTransport) -> None:
    async with person(tmp_path, "one", transport) as (_, one), person(tmp_path, "two", transport) as (_, two):
        one.presence.set({"name": "Ada"})
        await until(two.presence, bool)
        await say(transport, Word(one.presence.client, 100, None))
        stream = StreamClient(URL, transport=transport, params={"awareness": "default"})
        async with asyncio.timeout(5):
            last = Word(0, 0, None)
            while last.clock <= 100:
                last = await last_word(stream, one.presence.client)
                await asyncio.sleep(0.01)
        assert last == Word(one.presence.client, 101, {"name": "Ada"})
        await until(two.presence, lambda states: states == [{"name": "Ada"}])


async def test_bytes_that_are_no_presence_disturb_nobody(tmp_path: Path, transport: AsgiTransport) -> None:
    stream = StreamClient(URL, transport=transport, params={"awareness": "default"})
    async with person(tmp_path, "one", transport) as (_, one):
        assert one.presence.states == {}
        for garbage in (b"\xff" * 10, b"\x05ab", build_frame(b"\xff\xff"), build_frame(b"\x01\x01\x01\x01{")):
            await stream.append(garbage, content_type="application/octet-stream")
        await say(transport, Word(7, 1, {"name": "fine"}))
        assert await until(one.presence, bool) == [{"name": "fine"}]


async def test_states_that_can_not_be_said_are_refused(tmp_path: Path) -> None:
    presence = Presence(YjsPresence(), 1, Environment())
    for state in ({"x": object()}, {"x": float("inf")}, {"x": "y" * 40_000}):
        with pytest.raises((ValueError, TypeError)):
            presence.set(state)
    assert presence.states == {}


async def test_an_adapter_without_presence_says_so(tmp_path: Path, transport: AsgiTransport) -> None:
    class Silent:
        def __init__(self, adapter: Any) -> None:
            self._adapter = adapter

        def __getattr__(self, name: str) -> Any:
            if name == "presence":
                raise AttributeError(name)
            return getattr(self._adapter, name)

    adapters: Any = {"silent": Silent(load_adapter("yjs"))}
    async with Replica(tmp_path / "x.db", adapters=adapters) as replica:
        note = await replica.open("notes", crdt="silent")
        with pytest.raises(TypeError, match="knows no presence"):
            _ = note.presence
