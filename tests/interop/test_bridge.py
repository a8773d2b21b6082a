"""`ds-sync bridge` between @y/websocket-server from npm and ours, while all three are killed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from ds_sync_ywebsocket import messages
from ds_sync_ywebsocket.provider import Patience, YWebsocketProvider
from pycrdt import Text
from websockets.asyncio.client import connect

from ds_sync import Document, Replica
from ds_sync.cli.ports import pick_port
from ds_sync.client.stream import StreamClient
from ds_sync.testing.server_process import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.interop]

HERE = Path(__file__).parent
SECONDS = 30.0
IN_STEP = "room: live, has everything; document: live, nothing to send"
HASTY = Patience(first_delay=0.1, max_delay=0.2, proof=0.1)


class OldServer:
    """@y/websocket-server as it comes from npm: documents in memory, or in a folder of y-leveldb."""

    def __init__(self, node: str, store: Path | None = None) -> None:
        self._command = [node, str(HERE / "node_modules" / "@y" / "websocket-server" / "src" / "server.js")]
        self._store = store
        self.port = pick_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/room"

    def start(self) -> None:
        environment = os.environ | {"HOST": "127.0.0.1", "PORT": str(self.port)}
        if self._store is not None:
            environment["YPERSISTENCE"] = str(self._store)
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd=HERE)
        assert self._process.stdout is not None
        while b"running at" not in (line := self._process.stdout.readline()):
            assert line, "it did not start"

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()
        self._process = None

    def __enter__(self) -> "OldServer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()


class Bridge:
    """`ds-sync bridge` in a process."""

    def __init__(self, old: OldServer, new: ServerProcess, file: Path, *options: str) -> None:
        url = f"{new.url}/v1/yjs/default/docs/note"
        self._command = [sys.executable, "-m", "ds_sync.cli.main", "bridge", old.url, url, "--file", str(file), *options]
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)

    def end(self, number: int) -> tuple[int, str]:
        assert self._process is not None
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        assert self._process is not None
        said, _ = self._process.communicate(timeout=SECONDS)
        process, self._process = self._process, None
        return process.returncode, said

    def __enter__(self) -> "Bridge":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.end(signal.SIGKILL)


@pytest.fixture
def old(node: str) -> Iterator[OldServer]:
    with OldServer(node) as server:
        yield server


@pytest.fixture
def new(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "streams.db") as server:
        yield server


@asynccontextmanager
async def writers(folder: Path, old: OldServer, new: ServerProcess) -> AsyncIterator[tuple[Document, Document]]:
    """Who edits on the old server, and who on ours."""
    async with Replica(folder / "ann.db") as ann, Replica(folder / "bob.db", server=new.url) as bob:
        first, second = await ann.open("note"), await bob.open("note")
        async with YWebsocketProvider(first, old.url, patience=HASTY):
            yield first, second


def body(document: Document) -> Text:
    text: Text = document.doc.get("body", type=Text)
    return text


async def agree(*documents: Document, on: set[str]) -> None:
    """Wait until all hold one text, of these words."""

    def agreed() -> bool:
        texts = {str(body(document)) for document in documents}
        return len(texts) == 1 and set(texts.pop().split()) == on

    async with asyncio.timeout(SECONDS):
        while not agreed():  # noqa: ASYNC110  # three processes on, there is no event to wait for
            await asyncio.sleep(0.02)


async def held(new: ServerProcess) -> str:
    async with StreamClient(f"{new.url}/v1/stream/yjs/default/docs/note/.updates") as stream:
        return str((await stream.head()).tail)


async def test_both_ways_with_deletions_and_large_edits(old: OldServer, new: ServerProcess, tmp_path: Path) -> None:
    async with writers(tmp_path, old, new) as (ann, bob):
        ours, theirs = body(bob), body(ann)
        ours += "bob "
        theirs += "ann "
        with Bridge(old, new, tmp_path / "bridge.db") as bridge:
            await agree(ann, bob, on={"ann", "bob"})
            ours.insert(0, "first ")
            theirs += "x" * 2_000_000
            await agree(ann, bob, on={"first", "ann", "bob", "x" * 2_000_000})
            del theirs[len(theirs) - 2_000_000 : len(theirs)]
            await agree(ann, bob, on={"first", "ann", "bob"})
            code, said = bridge.end(signal.SIGTERM)
            assert (code, "room: live" in said) == (0, True)
        del ours[0:6]
        theirs += "late "
        await asyncio.wait_for(bob.synced(), SECONDS)
        code, said = Bridge(old, new, tmp_path / "bridge.db", "--once").wait()
        assert (code, said.splitlines()[-1].split(" ", 1)[1]) == (0, IN_STEP)
        await agree(ann, bob, on={"ann", "bob", "late"})


async def test_nothing_grows_while_nobody_writes(old: OldServer, new: ServerProcess, tmp_path: Path) -> None:
    async with writers(tmp_path, old, new) as (ann, bob):
        ours, theirs = body(bob), body(ann)
        ours += "bob "
        with Bridge(old, new, tmp_path / "bridge.db") as bridge:
            theirs += "ann gone "
            await agree(ann, bob, on={"ann", "bob", "gone"})
            at = str(theirs).index("gone ")
            del theirs[at : at + 5]
            await agree(ann, bob, on={"ann", "bob"})
            await asyncio.sleep(0.5)
            before = await held(new)
            async with connect(old.url) as listener:
                heard: list[Any] = []
                for _ in range(2):  # another bridge, and one that starts anew, say nothing either
                    with Bridge(old, new, tmp_path / "second.db"):
                        await asyncio.sleep(0.8)
                    bridge.end(signal.SIGKILL)
                    bridge.start()
                    await asyncio.sleep(0.8)
                try:
                    async with asyncio.timeout(0.1):
                        while True:
                            heard.append(await listener.recv())
                except TimeoutError:
                    assert [data[:2] for data in heard] == [bytes((messages.SYNC, messages.STEP_1))]
            assert await held(new) == before


@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "in LevelDB"])
async def test_all_are_killed_and_nothing_is_lost(node: str, new: ServerProcess, tmp_path: Path, stored: bool) -> None:
    with OldServer(node, tmp_path / "store" if stored else None) as old, Bridge(old, new, tmp_path / "bridge.db") as bridge:
        async with writers(tmp_path, old, new) as (ann, bob):
            ours, theirs = body(bob), body(ann)
            words: set[str] = set()
            for number, victims in enumerate([(old,), (new,), (bridge,), (old, new), (old, new, bridge)]):
                ours += f"bob{number} "
                theirs += f"ann{number} "
                words |= {f"bob{number}", f"ann{number}"}
                await asyncio.sleep(0.1)
                for victim in victims:
                    victim.end(signal.SIGKILL) if isinstance(victim, Bridge) else victim.kill()
                ours += f"down-bob{number} "
                theirs += f"down-ann{number} "
                words |= {f"down-bob{number}", f"down-ann{number}"}
                for victim in victims:
                    victim.start()
                await agree(ann, bob, on=words)
