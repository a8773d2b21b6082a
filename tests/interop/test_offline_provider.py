"""examples/offline_provider.js: the official provider with what it drops kept."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ds_sync.testing.server_process import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.interop]

HERE = Path(__file__).parent
MODULE = HERE.parent.parent / "examples" / "offline_provider.js"
SECONDS = 40.0

Order = Callable[..., Any]
Join = Callable[[ServerProcess], AbstractAsyncContextManager[Order]]


@pytest.fixture
def join(node: str, tmp_path: Path) -> Join:
    """Start a document on the module, copied to where the test's npm packages are found."""
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    (folder / "package.json").write_text('{"type": "module"}')
    for file in (MODULE, HERE / "offline-peer.mjs"):
        shutil.copy(file, folder)

    @asynccontextmanager
    async def start(server: ServerProcess) -> AsyncIterator[Order]:
        pipe = asyncio.subprocess.PIPE
        command = (node, "offline-peer.mjs", f"{server.url}/v1/yjs/notes", "a", "sse")
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdin=pipe, stdout=pipe)
        assert process.stdin is not None
        assert process.stdout is not None
        orders, answers = process.stdin, process.stdout

        async def order(name: str, **options: Any) -> Any:
            orders.write(json.dumps({"order": name, **options}).encode() + b"\n")
            line = await asyncio.wait_for(answers.readline(), SECONDS)
            assert line, f"the JavaScript side ended during {name}, code {await process.wait()}"
            return json.loads(line)["answer"]

        try:
            yield order
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    return start


def test_it_is_as_small_as_it_says() -> None:
    assert len(MODULE.read_text().splitlines()) <= 150
    imports = [line for line in MODULE.read_text().splitlines() if line.startswith("import ")]
    assert len(imports) == 2


async def test_edits_made_while_disconnected_arrive(join: Join, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server.db") as server:
        async with join(server) as one, join(server) as two:
            await one("connect")
            await two("connect")
            await one("type", text="online ")
            assert await one("saved")
            await one("disconnect")
            await one("type", text="offline ")
            assert not await one("is_saved")
            await one("remove", at=0, count=2)
            await one("connect")
            assert await one("saved")
            assert await two("see", text="line offline ")
            await one("remove", at=0, count=5)  # a deletion alone
            assert await one("saved")
            assert await two("see", text="offline ")
            await two("destroy")


async def test_edits_made_while_the_server_is_down_arrive(join: Join, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server.db") as server:
        async with join(server) as writer:
            await writer("connect")
            await writer("type", text="before ")
            assert await writer("saved")
            server.kill()
            for number in range(5):
                await writer("type", text=f"{number} ")
                await asyncio.sleep(0.05)
            assert not await writer("is_saved")
            server.start()
            assert await writer("saved", seconds=30)
        async with join(server) as reader:
            await reader("connect")
            assert await reader("see", text="before 0 1 2 3 4 ")


def set_back(folder: Path, backup: Path) -> None:
    for file in folder.glob("server.db*"):
        file.unlink()
    for file in backup.glob("server.db*"):
        shutil.copy(file, folder)


async def test_a_server_that_was_set_back_gets_back_what_it_lost(join: Join, tmp_path: Path) -> None:
    data, backup = tmp_path / "server.db", tmp_path / "backup"
    with ServerProcess(data) as server:
        async with join(server) as writer, join(server) as reader:
            await writer("connect")
            await reader("connect")
            await writer("type", text="kept ")
            assert await reader("see", text="kept ")
            server.terminate()
            shutil.copytree(tmp_path, backup, ignore=shutil.ignore_patterns("page", "backup"))
            server.start()
            await writer("type", text="lost ")
            assert await writer("saved", seconds=30)
            assert await reader("see", text="kept lost ")
            server.kill()
            set_back(tmp_path, backup)
            server.start()
            await writer("type", text="after ")
            assert await writer("saved", seconds=30)
            assert await reader("see", text="kept lost after ", seconds=30)
            async with join(server) as fresh:
                await fresh("connect")
                assert await fresh("see", text="kept lost after ")
