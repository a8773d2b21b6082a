"""The official JavaScript provider, unmodified, while its sockets are killed and the server is restarted in the middle of a batch."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pycrdt import Doc, Map, Text

from ds_sync import Replica
from ds_sync.protocol.framing import parse_frames
from ds_sync.testing.server_process import ServerProcess
from tests.interop.cutting_proxy import CuttingProxy, Place
from tests.interop.peers import HERE, SECONDS, NodePeer, node_peer

pytestmark = [pytest.mark.anyio, pytest.mark.interop]

MODES = ("sse", "long-poll")
ENDINGS = ("kill", "terminate")
PLACES: tuple[Place, ...] = ("request", "body", "sent", "answer", "twice")
BATCH = [f"edit{number} " for number in range(20)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server.db") as process:
        yield process


@pytest.fixture
def remedy(tmp_path: Path) -> str:
    """The wrapper of the docs, copied to where it finds the npm packages."""
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    (folder / "package.json").write_text('{"type": "module"}')
    return str(shutil.copy(HERE.parents[1] / "examples" / "offline_provider.js", folder))


def provider(node: str, door: CuttingProxy | ServerProcess, live: str = "sse") -> AbstractAsyncContextManager[NodePeer]:
    return node_peer(node, "provider-peer.mjs", f"{door.url}/v1/yjs/notes", "a", live)


async def end(server: ServerProcess, how: str) -> None:
    """End the server in order or not. The proxies go on meanwhile."""
    assert await asyncio.to_thread(getattr(server, how)) in (None, 0)


async def reconnect(peer: NodePeer) -> None:
    await peer("disconnect")
    assert await peer("connect", seconds=40)


async def write(peer: NodePeer, text: str) -> str:
    """Type, and wait for the server's answer; return the text."""
    assert await peer("type", text=text), "not connected"
    assert await peer("flush")
    return text


async def stored(server: ServerProcess) -> list[bytes]:
    """Return the updates in the document's log."""
    updates: list[bytes] = []
    offset, done = "-1", False
    async with httpx.AsyncClient() as http:
        while not done:
            answer = await http.get(f"{server.url}/v1/yjs/notes/docs/a", params={"offset": offset})
            assert answer.status_code == 200
            updates += parse_frames(answer.content).payloads
            offset, done = answer.headers["stream-next-offset"], answer.headers.get("stream-up-to-date") == "true"
    return updates


def look_at(doc: Doc[Any]) -> dict[str, Any]:
    """Return of a document in Python what provider-peer.mjs returns of its own."""
    numbers: list[int] = []
    value = scale = 0
    for byte in doc.get_state():
        value, scale = value | (byte & 127) << scale, scale + 7
        if byte < 128:
            numbers.append(value)
            value = scale = 0
    vector = {str(client): clock for client, clock in zip(numbers[1::2], numbers[2::2], strict=True)}
    body, fields = doc.get("body", type=Text), doc.get("fields", type=Map)
    return {"body": str(body), "fields": fields.to_py(), "vector": vector, "waits": False}


async def agreed(node: str, server: ServerProcess, file: Path, *peers: NodePeer, replicas: tuple[Doc[Any], ...] = ()) -> dict[str, Any]:
    """Wait until a new JavaScript page, a new Python replica, and all who are given hold the same; return that."""
    async with provider(node, server) as fresh, Replica(file, server=server.url, service="notes") as replica:
        assert await fresh("connect")
        note = await replica.open("a")
        await asyncio.wait_for(note.synced(), SECONDS)
        looks: list[dict[str, Any]] = []
        for _ in range(1000):
            looks = [await peer("look") for peer in (fresh, *peers)] + [look_at(doc) for doc in (note.doc, *replicas)]
            if all(look == looks[0] for look in looks):
                return looks[0]
            await asyncio.sleep(0.02)
    raise AssertionError(f"they differ: {looks}")


@pytest.mark.parametrize("live", MODES)
async def test_killed_sockets_cost_nothing_that_reached_the_server(node: str, server: ServerProcess, tmp_path: Path, live: str) -> None:
    async with (
        CuttingProxy(server.port) as near,
        CuttingProxy(server.port) as far,
        provider(node, near, live) as writer,
        provider(node, far, live) as reader,
    ):
        assert await writer("connect")
        assert await reader("connect")
        text, edits = "", 0
        for turn in range(2):
            stop = far.stop_at("reading")
            text += await write(writer, f"{turn}: acknowledged ")
            await stop.reached()
            await far.cut()  # the reader has heard half of it
            text += await write(writer, "while the reader is away ")
            await near.cut()  # between two requests
            await near.read_again.wait()
            text += await write(writer, "after a cut, without reconnecting ")
            stop = near.stop_at("answer")
            assert await writer("types", texts=BATCH)
            text, edits = text + "".join(BATCH), edits + 3 + len(BATCH)
            await stop.reached()
            await near.cut()  # the server has stored it, and the provider will never hear of that
            await reconnect(writer)
        text += await write(writer, "the end")
        assert await reader("see", text=text, seconds=40), await reader("text")
        assert (await agreed(node, server, tmp_path / "replica.db", writer, reader))["body"] == text
    updates = await stored(server)
    assert len(updates) == len(set(updates)) == edits + 1


async def test_half_a_batch_is_none_and_what_the_provider_drops_comes_with_the_wrapper(
    node: str, server: ServerProcess, tmp_path: Path, remedy: str
) -> None:
    async with CuttingProxy(server.port) as near, provider(node, near) as writer, provider(node, server) as reader:
        assert await writer("connect")
        assert await reader("connect")
        before = await write(writer, "before ")
        held = await stored(server)
        stop = near.stop_at("body")
        assert await writer("types", texts=BATCH)
        await stop.reached()
        await near.cut()
        await reconnect(writer)
        assert await stored(server) == held, "neither half of it, nor all, for the provider has dropped it"
        await write(writer, "after")
        after = await stored(server)
        assert after[:-1] == held, "it doesn't come later, either"
        # What was typed after it is stored, and waits at whoever reads it, for Yjs knows that something before it is missing.
        async with provider(node, server) as fresh:
            assert await fresh("connect")
            seen = await fresh("look")
            assert (seen["body"], seen["waits"]) == (before, True)
        assert await writer("mend", module=remedy)
        await reconnect(writer)
        text = before + "".join(BATCH) + "after"
        assert (await agreed(node, server, tmp_path / "mended.db", writer, reader))["body"] == text
        assert (await stored(server))[: len(after)] == after


@pytest.mark.parametrize("how", ENDINGS)
async def test_a_batch_that_is_under_way_when_the_server_ends_is_there_once(
    node: str, server: ServerProcess, tmp_path: Path, remedy: str, how: str
) -> None:
    async with (
        CuttingProxy(server.port) as near,
        provider(node, near) as writer,
        provider(node, server, "long-poll") as reader,
    ):
        assert await writer("connect")
        assert await reader("connect")
        text = ""
        for place in PLACES:
            text += await write(writer, f"{place}: ")
            before = await stored(server)
            stop = near.stop_at(place)
            assert await writer("types", texts=BATCH)
            await stop.reached()
            near.hung_up.clear()
            ending = asyncio.create_task(end(server, how))
            if how == "terminate" and place == "body":
                await near.hung_up.wait()
                assert not (await asyncio.wait((ending,), timeout=0.5))[0], "it waits for what it has half of"
                stop.go_on()
            await ending
            await asyncio.to_thread(server.start)
            if place in ("request", "twice"):  # the provider still has this connection: the server that is there now hears it
                stop.go_on()
                assert await writer("flush")
            await near.cut()
            await reconnect(writer)
            updates = await stored(server)
            assert updates[: len(before)] == before
            new = len(updates) - len(before)
            expected = {"kill body": (0,), "kill sent": (0, len(BATCH))}  # all or nothing
            assert new in expected.get(f"{how} {place}", (len(BATCH),)), place
            if not new:  # the provider has dropped it
                assert await writer("mend", module=remedy)
                await reconnect(writer)
            text += "".join(BATCH) + await write(writer, f"after {place} ")
            assert await reader("see", text=text, seconds=40), await reader("text")
        assert (await agreed(node, server, tmp_path / "replica.db", writer, reader))["body"] == text
    updates = await stored(server)
    assert len(updates) == len(set(updates))


async def test_two_providers_and_a_replica_write_through_all_that(node: str, server: ServerProcess, tmp_path: Path) -> None:
    async with (
        CuttingProxy(server.port) as first,
        CuttingProxy(server.port) as second,
        CuttingProxy(server.port) as third,
        provider(node, first, "sse") as one,
        provider(node, second, "long-poll") as two,
        Replica(tmp_path / "third.db", server=third.url, service="notes") as replica,
    ):
        assert await one("connect")
        assert await two("connect")
        note = await replica.open("a")
        text, fields = note.doc.get("body", type=Text), note.doc.get("fields", type=Map)
        await asyncio.wait_for(note.synced(), SECONDS)
        wanted = {}
        for how in ENDINGS:
            await write(one, f"one.{how}.before ")
            # All three write at once, and each stands somewhere else when the server ends.
            stops = first.stop_at("answer"), second.stop_at("request"), third.stop_at("body" if how == "kill" else "answer")
            assert await one("types", texts=[f"one.{how}.{number} " for number in range(5)])
            assert await two("put", key=f"two.{how}", value=how)
            text += f"replica.{how} "
            fields[f"replica.{how}"] = wanted[f"replica.{how}"] = wanted[f"two.{how}"] = how
            for stop in stops:
                await stop.reached()
            ending = asyncio.create_task(end(server, how))
            await ending
            await asyncio.to_thread(server.start)
            await first.cut()
            await third.cut()  # the replica sends it again
            stops[1].go_on()
            assert await two("flush")
            await reconnect(one)
            # Killed sockets: one hears half of what two says; two and the replica are cut between their requests.
            stop = first.stop_at("reading")
            assert await two("put", key="last", value=f"two.{how}")
            assert await two("flush")
            await stop.reached()
            for proxy in (first, second, third):
                await proxy.cut()
            await first.read_again.wait()
            await second.read_again.wait()
            await one("remove", at=0, count=1)
            await write(one, f"one.{how}.after ")
            await write(two, f"two.{how}.after ")
            text += f"replica.{how}.after "
        await asyncio.wait_for(note.synced(), SECONDS)
        seen = await agreed(node, server, tmp_path / "fresh.db", one, two, replicas=(note.doc,))
    assert seen["fields"] == wanted | {"last": "two.terminate"}
    words = seen["body"].split()
    for how in ENDINGS:
        for word in (
            *(f"one.{how}.{number}" for number in range(5)),
            f"one.{how}.after",
            f"two.{how}.after",
            f"replica.{how}",
            f"replica.{how}.after",
        ):
            assert words.count(word) == 1, (word, words)
    assert len(seen["vector"]) == 3
    updates = await stored(server)
    assert len(updates) == len(set(updates))
