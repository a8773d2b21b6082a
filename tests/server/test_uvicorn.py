"""The same application on another server: nothing in it leans on Granian."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from pycrdt import Doc, Text, create_sync_message, create_update_message
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from ds_sync.server.app import create_app
from ds_sync.server.engines.memory import MemoryEngine

pytestmark = pytest.mark.anyio

TEXT = {"content-type": "text/plain"}


@pytest.fixture
async def url() -> AsyncIterator[str]:
    app = create_app(MemoryEngine(), long_poll_timeout=0.3)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", ws="websockets-sansio", loop="asyncio", http="h11"))
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    await app.drain(5)
    server.should_exit = True
    await serving
    listener.close()


async def test_streams_live_and_at_rest(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.put("/v1/stream/a%2Fb", headers=TEXT)).status_code == 201
        assert (await client.head("/v1/stream/a/b")).status_code == 200
        async with client.stream("GET", "/v1/stream/a/b", params={"offset": "-1", "live": "sse"}) as events:
            lines = events.aiter_lines()
            assert await anext(lines) == "event: control"
            assert (await client.post("/v1/stream/a/b", headers=TEXT, content=b"hello")).status_code == 204
            seen = [await anext(lines) for _ in range(4)]
            assert seen[2:] == ["event: data", "data:hello"]
        quiet = await client.get("/v1/stream/a/b", params={"offset": "now", "live": "long-poll"})
        assert quiet.status_code == 204
        assert (await client.get("/v1/stream/a/b")).content == b"hello"
        assert (await client.delete("/v1/stream/a/b")).status_code == 204


async def test_rooms(url: str) -> None:
    room = f"{url.replace('http', 'ws', 1)}/v1/ws/default/a%20b"
    async with connect(room, subprotocols=["one"]) as ann, connect(room, subprotocols=["one"]) as bob:  # type: ignore[list-item]
        assert ann.subprotocol == "one"
        for client in (ann, bob):
            assert bytes(await client.recv())[:2] == b"\x00\x00"  # type: ignore[arg-type]  # sync step 1
        document: Doc[Any] = Doc({"body": Text("x" * 100_000)})
        frame = create_update_message(document.get_update())
        await ann.send(frame)
        assert [await asyncio.wait_for(client.recv(), 5) for client in (ann, bob)] == [frame, frame]
    async with connect(room) as late:
        await late.send(create_sync_message(Doc()))
        assert [len(await asyncio.wait_for(late.recv(), 5)) > 100_000 for _ in range(2)] == [False, True]
    async with connect(f"{url.replace('http', 'ws', 1)}/v1/ws/default/.hidden") as client:
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == 4400
