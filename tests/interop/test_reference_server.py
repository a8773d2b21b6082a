"""Replicas on the official reference server: it knows neither documents nor incarnations, and its offsets prove nothing."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pycrdt import Text

from ds_sync import Replica
from ds_sync.cli.ports import pick_port
from ds_sync.replica.document import Document
from ds_sync.replica.local import Tuning

pytestmark = [pytest.mark.anyio, pytest.mark.interop]

HERE = Path(__file__).parent
TUNING = Tuning(heal_jitter=0.05, pause=0.5)


class ReferenceServer:
    """reference-server.mjs, which may be killed and started again on its port."""

    def __init__(self, node: str, data: Path | None) -> None:
        self._command = [node, "reference-server.mjs"]
        self._data = data
        self._port = pick_port()
        self.url = ""
        self.start()

    def start(self) -> None:
        data = [str(self._data)] if self._data else []
        self._process = subprocess.Popen(
            [*self._command, str(self._port), *data], cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        # Its own messages come on standard output, too.
        self.url = next((line.strip() for line in self._process.stdout if line.startswith("http://")), "")
        if not self.url:
            self.kill()
            raise RuntimeError("the reference server did not start")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@asynccontextmanager
async def two_writers(server: ReferenceServer, folder: Path) -> AsyncIterator[tuple[Document, Document]]:
    async with (
        Replica(folder / "a.db", server=server.url, tuning=TUNING) as first,
        Replica(folder / "b.db", server=server.url, tuning=TUNING) as second,
    ):
        a, b = await first.open("notes/today"), await second.open("notes/today")
        for number in range(5):
            write(a, f"a{number} ")
            write(b, f"b{number} ")
            await asyncio.sleep(0.01)
        await synced(a, b, a)
        yield a, b


def write(document: Document, words: str) -> None:
    text = document.doc.get("body", type=Text)
    text += words


def words(document: Document) -> list[str]:
    return sorted(str(document.doc.get("body", type=Text)).split())


async def synced(*documents: Document) -> None:
    async with asyncio.timeout(20):
        for document in documents:
            await document.synced()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


FIRST = sorted([f"{who}{number}" for who in "ab" for number in range(5)])


async def read_afresh(server: ReferenceServer, folder: Path) -> list[str]:
    async with Replica(folder / "fresh.db", server=server.url, tuning=TUNING) as replica:
        document = await replica.open("notes/today")
        await synced(document)
        assert document.status.quarantined == 0
        return words(document)


async def test_two_replicas_write_at_once(node: str, tmp_path: Path) -> None:
    server = ReferenceServer(node, None)
    try:
        async with two_writers(server, tmp_path) as (a, b):
            assert words(a) == words(b) == FIRST
            assert (a.status.state, a.status.durable, a.status.last_error) == ("live", 5, None)
            assert await read_afresh(server, tmp_path) == FIRST
    finally:
        server.kill()


async def test_a_server_that_forgot_everything_gets_it_back(node: str, tmp_path: Path) -> None:
    server = ReferenceServer(node, None)
    try:
        async with two_writers(server, tmp_path) as (a, b):
            server.kill()
            write(b, "meanwhile ")
            server.start()
            await synced(b, a)
            await until(lambda: words(a) == words(b) == sorted([*FIRST, "meanwhile"]))
            assert await read_afresh(server, tmp_path) == words(a)
    finally:
        server.kill()


async def test_a_server_set_back_to_an_older_copy_of_its_files_gets_back_what_it_lost(node: str, tmp_path: Path) -> None:
    data = tmp_path / "server"
    server = ReferenceServer(node, data)
    try:
        async with two_writers(server, tmp_path) as (a, b):
            server.kill()
            shutil.copytree(data, tmp_path / "backup")
            server.start()
            write(a, "lost ")
            await synced(a, b)
            server.kill()
            shutil.rmtree(data)
            shutil.copytree(tmp_path / "backup", data)
            server.start()
            await until(lambda: a.status.state == b.status.state == "live")
            await synced(a, b)
            assert words(a) == words(b) == sorted([*FIRST, "lost"])
            assert await read_afresh(server, tmp_path) == words(a)
    finally:
        server.kill()
