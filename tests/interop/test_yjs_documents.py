"""A Replica and a Yjs document on the official JavaScript client, in one stream."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pycrdt import Text

from ds_sync import Replica
from ds_sync.client.stream import StreamClient
from ds_sync.protocol.framing import parse_frames
from ds_sync.testing.server_process import ServerProcess
from tests.interop.peers import NodePeer, node_peer, python_sees

pytestmark = [pytest.mark.anyio, pytest.mark.interop]

MODES = ("sse", "long-poll")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(long_poll_timeout=2) as process:
        yield process


class Peer:
    """tests/interop/yjs-peer.mjs, running."""

    def __init__(self, process: NodePeer) -> None:
        self._process = process

    async def edit(self, **edit: list[Any]) -> str:
        """Make the edit; return the text after it, once the server has acknowledged it."""
        self._process.tell(**edit)
        return str(await self._next("stored"))

    async def see(self, text: str) -> None:
        """Wait until the server's bytes have made this the text."""
        while await self._next("text") != text:
            pass

    async def _next(self, kind: str) -> str:
        while kind not in (fact := await self._process.hear()):
            pass
        return str(fact[kind])


@asynccontextmanager
async def javascript(node: str, url: str, live: str) -> AsyncIterator[Peer]:
    async with node_peer(node, "yjs-peer.mjs", url, live) as process:
        yield Peer(process)


def updates_url(server: ServerProcess, document: str) -> str:
    return f"{server.url}/v1/stream/yjs/default/docs/{quote(document)}/.updates"


@pytest.mark.parametrize("live", MODES)
async def test_both_write_and_both_end_with_the_same_text(node: str, server: ServerProcess, live: str, tmp_path: Path) -> None:
    document = f"Übungen/{live} 😀"
    url = updates_url(server, document)
    async with Replica(tmp_path / "one.db", server=server.url) as replica:
        note = await replica.open(document)
        text = note.doc.get("body", type=Text)
        text += "Grüße 😀, "  # before the other side exists: it catches up
        await note.synced()
        async with javascript(node, url, live) as peer:
            await peer.see("Grüße 😀, ")
            assert await peer.edit(insert=[10, "日本𝄞"]) == "Grüße 😀, 日本𝄞"  # 10 UTF-16 units
            await python_sees(text, "Grüße 😀, 日本𝄞")
            text.insert(text.to_py().encode().index("日".encode()), "é")  # type: ignore[union-attr]  # pycrdt counts bytes
            await peer.see("Grüße 😀, é日本𝄞")
            assert await peer.edit(remove=[0, 9], insert=[0, "!"]) == "! é日本𝄞"
            await python_sees(text, "! é日本𝄞")

            await replica.disconnect()  # both write without the other's edit
            text.insert(0, "ä")
            assert await peer.edit(insert=[0, "ö"]) == "ö! é日本𝄞"
            await replica.connect()
            await note.synced()
            end = str(text)
            assert end in ("äö! é日本𝄞", "öä! é日本𝄞")
            await peer.see(end)
        await note.synced()
        assert note.status.quarantined == 0
    other = MODES[1 - MODES.index(live)]
    async with javascript(node, url, other) as late:
        await late.see(end)
    async with Replica(tmp_path / "two.db", server=server.url) as fresh:
        note = await fresh.open(document)
        await note.synced()
        assert str(note.doc.get("body", type=Text)) == end


async def test_javascript_first_and_in_many_frames(node: str, server: ServerProcess, tmp_path: Path) -> None:
    document = "from-javascript"
    url = updates_url(server, document)
    async with javascript(node, url, "sse") as peer:
        for number in range(20):
            await peer.edit(insert=[0, f"{number}é "])
    end = "".join(f"{number}é " for number in reversed(range(20)))
    async with StreamClient(url) as client:
        frames = parse_frames((await client.read()).data)
    assert (len(frames.payloads), frames.rest) == (20, b"")
    async with Replica(tmp_path / "one.db", server=server.url) as replica:
        note = await replica.open(document)
        await note.synced()
        assert str(note.doc.get("body", type=Text)) == end
