"""The gateway on the real server, over real sockets."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ds_sync_ywebsocket import messages
from pycrdt import Doc, Provider, Text
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from ds_sync.testing.server_process import ServerProcess
from tests.interop.peers import python_sees
from tests.interop.silence import see_her_go

pytestmark = pytest.mark.anyio

SECONDS = 10.0


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as process:
        yield process


class Wire:
    """`pycrdt.Channel` on a connection, as its documentation has it."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.path = "room"

    def __aiter__(self) -> "Wire":
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.recv()
        except ConnectionClosed:
            raise StopAsyncIteration from None

    async def send(self, message: bytes) -> None:
        await self._socket.send(message)

    async def recv(self) -> bytes:
        return bytes(await self._socket.recv())  # type: ignore[arg-type]  # no text frames here


def room_url(server: ServerProcess, room: str) -> str:
    return f"{server.url.replace('http', 'ws', 1)}/v1/ws/default/{room}"


async def test_providers_of_pycrdt(server: ServerProcess) -> None:
    url = room_url(server, "pycrdt")
    async with connect(url, max_size=None) as one, connect(url, max_size=None) as two:
        ann: Doc[Any] = Doc({"body": Text("before ")})
        bob: Doc[Any] = Doc()
        async with Provider(ann, Wire(one)), Provider(bob, Wire(two)):
            theirs = bob.get("body", type=Text)
            await python_sees(theirs, "before ")
            theirs += "after é😀"
            await python_sees(ann.get("body", type=Text), "before after é😀")


async def test_pings_are_answered_and_large_frames_taken(server: ServerProcess) -> None:
    async with connect(room_url(server, "pings"), max_size=None) as socket:
        assert await asyncio.wait_for(await socket.ping(), SECONDS) >= 0
        document: Doc[Any] = Doc()
        document.get("body", type=Text).insert(0, "x" * 15_000_000)
        await socket.recv()
        await socket.send(messages.build_sync(messages.UPDATE, document.get_update()))
        echoed = await asyncio.wait_for(socket.recv(), SECONDS)
        assert echoed == messages.build_sync(messages.UPDATE, document.get_update())
        assert await asyncio.wait_for(await socket.ping(), SECONDS) >= 0


async def test_a_small_limit_for_frames() -> None:
    with ServerProcess(options=("--max-frame", "1024")) as server:
        async with connect(room_url(server, "limit")) as socket:
            await socket.recv()
            await socket.send(bytes(1025))
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket.recv(), SECONDS)
            assert socket.close_code == 1009


async def test_a_server_that_ends_says_so_and_loses_nothing(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "streams.db") as server:
        url = room_url(server, "end")
        document: Doc[Any] = Doc({"body": Text("kept")})
        async with connect(url) as socket:
            await socket.recv()
            await socket.send(messages.build_sync(messages.UPDATE, document.get_update()))
            await asyncio.wait_for(socket.recv(), SECONDS)  # its echo
            assert await asyncio.to_thread(server.terminate) == 0
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket.recv(), SECONDS)
            assert (socket.close_code, socket.close_reason) == (1012, "the server restarts")
        server.start()
        async with connect(url) as socket:
            fresh: Doc[Any] = Doc()
            async with Provider(fresh, Wire(socket)):
                await python_sees(fresh.get("body", type=Text), "kept")


async def test_who_is_gone_without_a_word_is_not_present_any_more(server: ServerProcess) -> None:
    assert await see_her_go(room_url(server, "gone")) < 8


async def test_a_socket_that_never_reads_is_cut_off_without_hurting_the_room(server: ServerProcess) -> None:
    url = room_url(server, "stalled")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    lines = ["GET /v1/ws/default/stalled HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    writer.write("\r\n".join([*lines, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]).encode())
    await reader.readuntil(b"\r\n\r\n")
    async with connect(url, max_size=None) as socket:
        document: Doc[Any] = Doc()
        text = document.get("body", type=Text)
        await socket.recv()
        for number in range(20):
            before = document.get_state()
            text.insert(0, f"{number % 10}" * 1_000_000)
            await socket.send(messages.build_sync(messages.UPDATE, document.get_update(before)))
            await asyncio.wait_for(socket.recv(), SECONDS)
        taken = 0
        async with asyncio.timeout(SECONDS):
            while part := await reader.read(2**20):
                taken += len(part)
        assert taken < 20_000_000  # the end came before all was sent
        assert await asyncio.wait_for(await socket.ping(), SECONDS) >= 0
    writer.close()
