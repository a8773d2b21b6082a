"""examples/offline_provider.js: the official provider with what it drops kept."""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pycrdt import Doc, Text

from ds_sync import Replica
from ds_sync.environment import Environment
from ds_sync.protocol.framing import build_frame, parse_frames
from ds_sync.protocol.history import START
from ds_sync.protocol.retention import decide_trim
from ds_sync.server.app import create_app
from ds_sync.server.documents.compaction import Compactor
from ds_sync.server.documents.snapshots import Snapshots
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.testing.asgi_transport import AsgiTransport
from ds_sync.testing.inline_worker import open_inline
from ds_sync.testing.server_process import ServerProcess
from tests.interop.peers import HERE, SECONDS, NodePeer, node_peer

pytestmark = [pytest.mark.anyio, pytest.mark.interop]

MODULE = HERE.parents[1] / "examples" / "offline_provider.js"

Join = Callable[..., AbstractAsyncContextManager[NodePeer]]


@pytest.fixture
def join(node: str, tmp_path: Path) -> Join:
    """Start a document on the module, copied to where the test's npm packages are found."""
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    (folder / "package.json").write_text('{"type": "module"}')
    for file in (MODULE, HERE / "offline-peer.mjs"):
        shutil.copy(file, folder)

    def start(server: ServerProcess, check_every: int = 50) -> AbstractAsyncContextManager[NodePeer]:
        return node_peer(node, "offline-peer.mjs", f"{server.url}/v1/yjs/notes", "a", "sse", str(check_every), folder=folder)

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
            assert await two("sent") == ["each time"], "headers that are functions are asked"
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


async def test_a_deleted_document_is_not_brought_back(join: Join, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server.db") as server:
        url = f"{server.url}/v1/yjs/notes/docs/a"
        async with join(server) as writer, httpx.AsyncClient() as http:
            await writer("connect")
            await writer("type", text="kept here ")
            assert await writer("saved")
            assert (await http.delete(url)).status_code == 204
            assert await writer("deleted")
            await writer("type", text="and not there ")
            await asyncio.sleep(0.3)
            assert (await http.get(url, params={"offset": "-1"})).status_code == 404
            assert await writer("text") == "kept here and not there "


async def test_bytes_that_are_no_update_are_passed_over(join: Join, tmp_path: Path) -> None:
    """Whoever may write may store them; what comes after them is read all the same, and known to be saved."""
    with ServerProcess(tmp_path / "server.db") as server:
        async with join(server) as writer, httpx.AsyncClient() as http:
            await writer("connect")
            await writer("type", text="before ")
            assert await writer("saved")
            answer = await http.post(
                f"{server.url}/v1/yjs/notes/docs/a",
                content=build_frame(b"\xff\xff\xff\xff"),
                headers={"content-type": "application/octet-stream"},
            )
            assert answer.status_code == 204
            await writer("type", text="after ")
            assert await writer("saved", seconds=30)
        async with join(server) as reader:
            await reader("connect")
            assert await reader("saved", seconds=30)


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


async def write_and_trim(data: Path, text: str) -> None:
    """While the server is down: append an edit of somebody else's, make a snapshot, and drop all updates before it."""
    root, environment = "yjs/notes/docs/a", Environment()
    engine = SqliteEngine(data)
    run = await engine.read(f"{root}/.updates", START, 1 << 30)
    doc = Doc[Any]()
    for update in parse_frames(b"".join(run.records)).payloads:
        doc.apply_update(update)
    before = doc.get_state()
    body = doc.get("body", type=Text)
    body += text
    app = create_app(engine, compact_after=None)
    transport = AsgiTransport(app)
    answer = await transport.request("POST", f"http://test/v1/{root}", headers={}, body=build_frame(doc.get_update(before)), timeout=5)
    assert answer.status == 204
    compactor = Compactor(engine, Snapshots(engine, environment), environment, 1, open_inline)
    assert await compactor.compact(root)
    state = (await engine.read(f"{root}/.updates", None, 0)).state
    assert state is not None
    life, place = state.incarnation, state.place
    assert await engine.transact((f"{root}/.updates",), lambda views: decide_trim(views[0], life, place, environment.now()))
    await compactor.aclose()
    await transport.aclose()
    await app.aclose()
    await engine.aclose()


async def test_what_was_trimmed_away_costs_nobody_an_edit(join: Join, tmp_path: Path) -> None:
    data = tmp_path / "server.db"
    with ServerProcess(data) as server:
        async with join(server) as connected, join(server) as offline:
            await connected("connect")
            await offline("connect")
            await connected("type", text="one ")
            assert await offline("see", text="one ")
            await offline("disconnect")
            await offline("type", text="offline ")
            server.terminate()
            await connected("type", text="unsent ")
            await write_and_trim(data, "theirs ")
            server.start()
            assert await connected("saved", seconds=30)
            await offline("connect")
            assert await offline("saved", seconds=30)
            async with join(server) as fresh, Replica(tmp_path / "replica.db", server=server.url, service="notes") as replica:
                note = await replica.open("a")
                await fresh("connect")
                assert await fresh("saved")
                async with asyncio.timeout(SECONDS):
                    await note.synced()
                text = str(note.doc.get("body", type=Text))
                assert sorted(text.split()) == ["offline", "one", "theirs", "unsent"]
                for peer in (connected, offline, fresh):
                    assert await peer("see", text=text, seconds=20)


@pytest.mark.parametrize("why", ["set back", "trimmed"])
async def test_after_a_410_the_provider_inside_goes_on(join: Join, tmp_path: Path, why: str) -> None:
    """The wrapper looks when it is told to, and then not for ten minutes: what is live comes by the provider inside."""
    data, backup = tmp_path / "server.db", tmp_path / "backup"
    with ServerProcess(data) as server:
        async with join(server) as writer, join(server, check_every=600_000) as reader:
            await writer("connect")
            await writer("type", text="one ")
            assert await writer("saved")
            await reader("connect")
            assert await reader("saved")
            if why == "set back":
                server.terminate()
                shutil.copytree(tmp_path, backup, ignore=shutil.ignore_patterns("page", "backup"))
                server.start()
                await writer("type", text="two ")
                assert await reader("see", text="one two ")
                assert await reader("look", status=200), "its place is after that, too"
                server.kill()
                set_back(tmp_path, backup)
                await writer("type", text="three ")  # what is lost does not come back as the same bytes, which would be the same history
            else:
                server.terminate()
                await write_and_trim(data, "two three ")
            server.start()
            assert await writer("saved", seconds=30)
            assert await reader("look", status=410)
            assert await reader("saved", seconds=40)
            assert await reader("see", text="one two three ")
            assert await writer("see", text="one two three ", seconds=30)
            await writer("type", text="live ")
            assert await reader("see", text="one two three live ", seconds=10), "the provider inside asks for the same place for ever"
            for peer in (writer, reader):
                assert await peer("company"), "who is there is seen again"


async def test_what_came_from_others_is_given_back_though_it_was_never_read_here(join: Join, tmp_path: Path) -> None:
    """The provider inside brings somebody's edit; the server is set back before that, and whose edit it was is away."""
    backup = tmp_path / "backup"
    with ServerProcess(tmp_path / "server.db") as server:
        async with join(server, check_every=600_000) as reader:
            async with join(server) as writer:
                await writer("connect")
                await writer("type", text="one ")
                assert await writer("saved")
                await reader("connect")
                assert await reader("saved")
                server.terminate()
                shutil.copytree(tmp_path, backup, ignore=shutil.ignore_patterns("page", "backup"))
                server.start()
                await writer("type", text="two ")
                assert await reader("see", text="one two ")
            server.kill()
            set_back(tmp_path, backup)
            server.start()
            assert await reader("look", status=204), "it has posted"
            assert await reader("saved")
            async with join(server) as fresh:
                await fresh("connect")
                assert await fresh("see", text="one two ")
