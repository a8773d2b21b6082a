"""A document in step with a room of a y-websocket server, through everything that such servers do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from ds_sync_ywebsocket import messages
from ds_sync_ywebsocket.provider import Patience, YWebsocketProvider
from old_server import OldServer, old_server
from pycrdt import Doc, Text

from ds_sync import Document, Replica
from ds_sync.exceptions import ForbiddenError, ProtocolError, TransportError
from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.anyio

HASTY = Patience(first_delay=0.01, max_delay=0.02, pause=0.05, proof=0.01)
SECONDS = 10.0


@pytest.fixture
async def server() -> AsyncIterator[OldServer]:
    async with old_server() as running:
        yield running


@pytest.fixture
async def note(tmp_path: Path) -> AsyncIterator[Document]:
    async with Replica(tmp_path / "note.db") as replica:
        yield await replica.open("note")


def provide(note: Document, server: OldServer, patience: Patience = HASTY) -> YWebsocketProvider:
    return YWebsocketProvider(note, server.url, patience=patience)


def body(note: Document) -> Text:
    text: Text = note.doc.get("body", type=Text)
    return text


async def until(what: Callable[[], Any]) -> None:
    async with asyncio.timeout(SECONDS):
        while not what():  # noqa: ASYNC110  # much of what is waited for has no event
            await asyncio.sleep(0.002)


async def synced(provider: YWebsocketProvider) -> None:
    async with asyncio.timeout(SECONDS):
        await provider.synced()


async def test_what_both_had_and_what_both_do_is_everywhere(server: OldServer, note: Document) -> None:
    await server.edit(0, "theirs ")
    text = body(note)
    text += "ours "
    async with provide(note, server) as provider:
        await synced(provider)
        assert (provider.status.state, provider.status.confirmed, provider.status.last_error) == ("live", True, None)
        assert server.text == str(text)
        assert sorted(str(text).split()) == ["ours", "theirs"]
        text.insert(0, "a")
        assert not provider.status.confirmed
        await until(lambda: provider.status.confirmed and server.text == str(text))
        await server.edit(0, "b")
        await until(lambda: str(text).startswith("ba"))
        del text[0:2]
        await synced(provider)
        assert server.text == str(text)
    assert provider.status.state == "offline"


async def test_nothing_echoes_and_nothing_grows(server: OldServer, note: Document) -> None:
    text = body(note)
    text += "hello"
    del text[0]
    async with provide(note, server) as provider:
        await synced(provider)
        received = len(server.received)
        await server.edit(0, "H")
        await until(lambda: str(text) == "Hello")
        await synced(provider)
        edits = note.status.unsent + note.status.durable
        assert len(server.received) == received
        for _ in range(3):  # what an update says again is no news
            await server.say(messages.build_sync(messages.UPDATE, server.adapter.snapshot(server.doc)))
        await asyncio.sleep(0.1)
        await synced(provider)
        assert (note.status.unsent + note.status.durable, len(server.received)) == (edits, received)
    for _ in range(3):
        async with provide(note, server) as provider:
            await synced(provider)
    assert note.status.unsent + note.status.durable == edits
    # One answer to the server's question at each connection: its deletions, no text.
    assert all(update[0] == 0 for update in server.received[received:])


async def test_a_deletion_is_confirmed_only_when_the_server_shows_it(server: OldServer, note: Document) -> None:
    text = body(note)
    text += "hello"
    async with provide(note, server) as provider:
        await synced(provider)
        server.lose = 1  # equal state vectors: only the deletions tell
        del text[0:2]
        await synced(provider)
        assert (server.lose, server.text) == (0, "llo")
        assert provider.status.confirmed


async def test_a_server_that_keeps_nothing_is_told_until_it_does(server: OldServer, note: Document) -> None:
    text = body(note)
    text += "hello"
    server.lose = 1_000_000
    async with provide(note, server) as provider:
        await until(lambda: provider.status.state == "refusing")
        assert isinstance(provider.status.last_error, ProtocolError)
        assert not provider.status.confirmed
        await server.edit(0, "theirs")  # what it says is taken all the same
        await until(lambda: "theirs" in str(text))
        server.lose = 0
        await synced(provider)
        assert (provider.status.state, provider.status.confirmed, provider.status.last_error) == ("live", True, None)
        assert server.text == str(text)


async def test_who_is_denied_says_so_and_asks_again(server: OldServer, note: Document) -> None:
    server.deny = True
    async with provide(note, server) as provider:
        await until(lambda: provider.status.state == "forbidden")
        assert isinstance(provider.status.last_error, ForbiddenError)
        assert "not you" in str(provider.status.last_error)
        server.deny, server.status = False, 401
        await until(lambda: "401" in str(provider.status.last_error))
        assert isinstance(provider.status.last_error, ForbiddenError)
        server.status = 500
        await until(lambda: isinstance(provider.status.last_error, ProtocolError))
        server.status = 101
        await synced(provider)
        assert provider.status.last_error is None


async def test_no_token_of_the_url_is_said(
    server: OldServer, note: Document, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    caplog.set_level("INFO", "websockets.server")  # the old server's own
    settled: list[str] = []
    monkeypatch.setattr(note, "settle", lambda through, peer: settled.append(peer))
    said: list[str] = []

    async def hear(provider: YWebsocketProvider, what: str) -> None:
        await until(lambda: what in str(provider.status.last_error))
        said.append(str(provider.status.last_error))

    url = f"{server.url.replace('//', '//ann:SECRET@')}?token=SECRET"
    place = f"{server.url}?token=***"
    async with YWebsocketProvider(note, url, patience=HASTY) as provider:
        await synced(provider)
        await server.say(b"\x00\x02\x05hello")
        await hear(provider, "not a Yjs update")
        await server.stop()
        await hear(provider, "no connection")
        server.deny = True
        await server.start()
        await hear(provider, f"{place}: permission denied")
        monkeypatch.setattr(messages, "parse_message", None)
        server.deny = False
        await hear(provider, "TypeError")
    for wrong in (f"{url}#part", url.replace("ws:", "http:"), "ws:///room?SECRET", "ws://ann:SECRET@host:SECRET/room"):
        with pytest.raises(ValueError, match=r"room|URL") as refused:
            YWebsocketProvider(note, wrong)
        said.append(str(refused.value))
    assert set(settled) == {server.url}
    assert place in caplog.text
    assert "SECRET" not in f"{said} {settled} {caplog.text}"


async def test_a_server_that_lost_its_memory_gets_everything_back(server: OldServer, note: Document) -> None:
    text = body(note)
    text += "hello"
    async with provide(note, server) as provider:
        await synced(provider)
        await server.stop()
        await until(lambda: provider.status.state == "retrying")
        assert isinstance(provider.status.last_error, TransportError)
        assert not provider.status.confirmed
        text += " offline"
        del text[0]
        await server.lose_memory()
        await synced(provider)
        assert server.text == "ello offline"
        assert provider.status.connections == 2


async def test_garbage_is_skipped_and_counted(server: OldServer, note: Document) -> None:
    async with provide(note, server) as provider:
        await synced(provider)
        for garbage in (
            b"",
            b"\x00",
            b"\x00\x02\x05\x01",
            messages.build_sync(messages.UPDATE, b"\x05nonsense"),
            b"\x63what",
            b"\x01\x01\x00",
        ):
            await server.say(garbage)
        await server.say(messages.build_sync(messages.STEP_1, b"\xff\xff\xff\xff\x7f"))
        await server.edit(0, "fine")
        await until(lambda: str(body(note)) == "fine")
        assert provider.status.refused == 5
        await synced(provider)
        assert provider.status.connections == 1


async def test_a_transaction_of_the_application_is_waited_for(server: OldServer, note: Document) -> None:
    text = body(note)
    async with provide(note, server) as provider:
        await synced(provider)
        with note.doc.transaction():
            text += "one "
            await server.edit(0, "theirs ")
            await asyncio.sleep(0.05)
            assert str(text) == "one "
            text += "two "
        await synced(provider)
        assert sorted(str(text).split()) == ["one", "theirs", "two"]
        assert server.text == str(text)


async def test_what_waits_here_for_what_the_server_has_is_sent_when_it_fits(server: OldServer, note: Document) -> None:
    doc: Doc[Any] = Doc()
    doc["body"] = text = Text("first ")
    first, before = doc.get_update(), doc.get_state()
    text += "second"
    async with provide(note, server) as provider:
        await synced(provider)
        note.merge(doc.get_update(before))
        assert str(body(note)) == ""
        server.adapter.apply(server.doc, [first])
        await server.say(messages.build_sync(messages.UPDATE, first))
        await until(lambda: server.text == "first second")
        await synced(provider)


async def test_large_updates_go_both_ways(server: OldServer, note: Document) -> None:
    text = body(note)
    text += "a" * 3_000_000
    async with provide(note, server) as provider:
        await synced(provider)
        assert server.text == "a" * 3_000_000
        await server.edit(0, "b" * 3_000_000)
        await until(lambda: len(text) == 6_000_000)
        await synced(provider)
        assert provider.status.connections == 1


async def test_a_silent_connection_is_given_up(server: OldServer, note: Document) -> None:
    server.deaf = True
    async with provide(note, server, Patience(first_delay=0.01, max_delay=0.02, ping=0.05, silence=0.05)) as provider:
        await until(lambda: server.connections == 2)
        server.deaf = False
        await synced(provider)


async def test_the_outbox_empties_and_a_server_of_ours_gets_everything_later(server: OldServer, tmp_path: Path) -> None:
    async with Replica(tmp_path / "note.db") as replica:
        note = await replica.open("note")
        text = body(note)
        for number in range(300):
            text += f"{number} "
        async with provide(note, server) as provider:
            await synced(provider)
            assert (note.status.unsent, note.status.durable) == (0, 300)
            del text[0:2]
            await synced(provider)
            assert (note.status.unsent, note.status.durable) == (0, 301)
        text += "offline"
        assert note.status.unsent == 1
    async with Replica(tmp_path / "note.db") as replica:
        note = await replica.open("note")
        assert str(body(note)) == "".join(f"{number} " for number in range(1, 300)) + "offline"
        with ServerProcess() as ours:
            await replica.connect(ours.url)
            async with Replica(tmp_path / "other.db", server=ours.url) as other:
                there = await other.open("note")
                async with asyncio.timeout(SECONDS), provide(note, server) as provider:
                    await note.synced()
                    await there.synced()
                    assert str(body(there)) == str(body(note))
                    await provider.synced()
                    assert server.text == str(body(note))


async def test_what_a_server_of_ours_is_to_have_stays_in_the_outbox(server: OldServer, tmp_path: Path) -> None:
    async with Replica(tmp_path / "note.db") as replica:
        note = await replica.open("note")
        with ServerProcess() as ours:
            await replica.connect(ours.url)
            await asyncio.wait_for(note.synced(), SECONDS)
        await replica.disconnect()
        text = body(note)
        text += "offline"
        async with provide(note, server) as provider:
            await synced(provider)
            assert server.text == "offline"
            assert (note.status.unsent, note.status.durable) == (1, 0)
