"""A Replica and a Yjs document on the official JavaScript client, in one stream."""

import asyncio
import json
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

pytestmark = [pytest.mark.anyio, pytest.mark.interop]

HERE = Path(__file__).parent
MODES = ("sse", "long-poll")
SECONDS = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(long_poll_timeout=2) as process:
        yield process


class Peer:
    """tests/interop/yjs-peer.mjs, running."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def edit(self, **edit: list[Any]) -> str:
        """Make the edit; return the text after it, once the server has acknowledged it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(edit).encode() + b"\n")
        return str(await self._next("stored"))

    async def see(self, text: str) -> None:
        """Wait until the server's bytes have made this the text."""
        while await self._next("text") != text:
            pass

    async def _next(self, kind: str) -> str:
        assert self._process.stdout is not None
        while line := await asyncio.wait_for(self._process.stdout.readline(), SECONDS):
            if kind in (fact := json.loads(line)):
                return str(fact[kind])
        raise AssertionError(f"the JavaScript side ended without {kind!r}, code {await self._process.wait()}")


@asynccontextmanager
async def javascript(node: str, url: str, live: str) -> AsyncIterator[Peer]:
    process = await asyncio.create_subprocess_exec(
        node, "yjs-peer.mjs", url, live, cwd=HERE, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Peer(process)
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), SECONDS) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def python_sees(text: Text, wanted: str) -> None:
    changed = asyncio.Event()
    subscription = text.observe(lambda event: changed.set())
    try:
        async with asyncio.timeout(SECONDS):
            while str(text) != wanted:
                changed.clear()
                await changed.wait()
    finally:
        text.unobserve(subscription)


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
