"""The official JavaScript provider, unmodified, on document URLs: nothing that it sent, or still holds a connection for, is lost."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest
from pycrdt import Text

from ds_sync import Replica
from ds_sync.testing.server_process import ServerProcess
from tests.interop.peers import NodePeer, node_peer, python_sees

pytestmark = [pytest.mark.anyio, pytest.mark.interop]

MODES = ("sse", "long-poll")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server.db", long_poll_timeout=2) as process:
        yield process


def provider(node: str, server: ServerProcess, document: str = "a", live: str = "sse") -> AbstractAsyncContextManager[NodePeer]:
    return node_peer(node, "provider-peer.mjs", f"{server.url}/v1/yjs/notes", document, live)


async def fresh_text(node: str, server: ServerProcess, document: str = "a") -> str:
    """Return what somebody sees who joins now."""
    async with provider(node, server, document) as newcomer:
        assert await newcomer("connect")
        return str(await newcomer("text"))


async def python_text(server: ServerProcess, file: Path, document: str = "a") -> str:
    """Return what a new replica sees."""
    async with Replica(file, server=server.url, service="notes") as replica:
        note = await replica.open(document)
        text = note.doc.get("body", type=Text)
        await asyncio.wait_for(note.synced(), 20)
        return str(text)


@pytest.mark.parametrize("live", MODES)
async def test_words_over_reconnects_all_arrive(node: str, server: ServerProcess, tmp_path: Path, live: str) -> None:
    words = [f"word{number} " for number in range(21)]
    async with provider(node, server, live=live) as writer, provider(node, server, live=live) as reader:
        assert await reader("connect")
        for number, word in enumerate(words):
            if number % 4 == 0:  # reconnects before words 0, 4, 8, 12, 16 and 20
                await writer("disconnect")
                assert await writer("connect")
            assert await writer("type", text=word)
            assert await writer("synced")
        assert await reader("see", text="".join(words)), await reader("text")
    assert await fresh_text(node, server) == "".join(words)
    assert await python_text(server, tmp_path / "replica.db") == "".join(words)


async def test_two_providers_and_a_replica_edit_one_document(node: str, server: ServerProcess, tmp_path: Path) -> None:
    async with (
        provider(node, server) as one,
        provider(node, server, live="long-poll") as two,
        Replica(tmp_path / "replica.db", server=server.url, service="notes") as replica,
    ):
        assert await one("connect")
        assert await two("connect")
        note = await replica.open("a")
        text = note.doc.get("body", type=Text)
        assert await one("type", text="one ")
        assert await two("see", text="one ")
        await asyncio.wait_for(note.synced(), 20)
        await python_sees(text, "one ")
        text += "two "
        assert await one("see", text="one two ")
        assert await two("see", text="one two ")
        await two("remove", at=0, count=4)
        assert await one("see", text="two ")
        await python_sees(text, "two ")


async def test_a_server_that_is_killed_while_somebody_types_loses_nothing_it_was_told(
    node: str, server: ServerProcess, tmp_path: Path
) -> None:
    async with provider(node, server) as writer:
        assert await writer("connect")
        for turn in range(3):
            for number in range(10):
                assert await writer("type", text=f"{turn}.{number} ")
            assert await writer("flush")  # its "synced" means that an answer came, not the last one
            acknowledged = str(await writer("text"))
            server.kill()
            server.start()
            await writer("disconnect")
            assert await writer("connect")
        assert await writer("synced")
    assert await fresh_text(node, server) == acknowledged
    assert await python_text(server, tmp_path / "replica.db") == acknowledged


async def test_a_document_with_a_snapshot_is_joined_from_it(node: str, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server.db", options=("--compact-after", "1500")) as server:
        async with provider(node, server) as writer:
            assert await writer("connect")
            for _ in range(12):
                assert await writer("type", text="X" * 200)
                assert await writer("synced")
            await _snapshot(server)
            assert await writer("type", text="AFTER")
            assert await writer("synced")
            text = str(await writer("text"))
        assert len(text) == 2405
        assert await fresh_text(node, server) == text
        assert await python_text(server, tmp_path / "replica.db") == text


async def _snapshot(server: ServerProcess) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(500):
            answer = await client.get(f"{server.url}/v1/yjs/notes/docs/a?offset=snapshot")
            assert answer.status_code == 307
            if answer.headers["location"].endswith("_snapshot"):
                return
            await asyncio.sleep(0.02)
    raise AssertionError("no snapshot came")


@pytest.mark.parametrize("live", MODES)
async def test_providers_see_each_other(node: str, server: ServerProcess, live: str) -> None:
    async with provider(node, server, live=live) as one, provider(node, server, live=live) as two:
        assert await one("connect")
        assert await two("connect")
        await one("say", state={"name": "Alice"})
        await two("say", state={"name": "Bob"})
        # Presence is not repeated for newcomers: what was said before somebody listened comes with the next word.
        for _ in range(20):
            await one("say", state={"name": "Alice"})
            await two("say", state={"name": "Bob"})
            if await two("hear", state={"name": "Alice"}, seconds=0.5) and await one("hear", state={"name": "Bob"}, seconds=0.5):
                break
        assert await two("others") == [{"name": "Alice"}]
        await one("disconnect")
        assert await two("alone")


async def test_a_provider_and_a_replica_see_each_other(node: str, server: ServerProcess, tmp_path: Path) -> None:
    async with (
        provider(node, server) as browser,
        Replica(tmp_path / "replica.db", server=server.url, service="notes") as replica,
    ):
        assert await browser("connect")
        await browser("say", state={"name": "Browser"})
        note = await replica.open("a")
        note.presence.set({"name": "Python"})
        assert await browser("hear", state={"name": "Python"})
        async with asyncio.timeout(20):
            async for states in note.presence.changes():
                if {"name": "Browser"} in states.values():
                    break
        await browser("disconnect")
        async with asyncio.timeout(5):
            async for states in note.presence.changes():
                if {"name": "Browser"} not in states.values():
                    break
        assert await browser("connect")
        await browser("say", state={"name": "Browser"})
        note.presence.set({"name": "Python, still"})
        assert await browser("hear", state={"name": "Python, still"})
        await replica.close()
        assert await browser("alone", seconds=5)
