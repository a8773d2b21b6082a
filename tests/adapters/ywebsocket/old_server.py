"""A y-websocket server as people have them: one room, in memory, each update sent to everybody at once; and its faults, on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ds_sync_yjs import YjsAdapter
from ds_sync_ywebsocket import messages
from pycrdt import Text
from websockets.asyncio.server import Server, ServerConnection, serve


class OldServer:
    def __init__(self) -> None:
        self.adapter = YjsAdapter()
        self.doc: Any = self.adapter.new()
        self.port = 0
        self.connections = 0
        self.received: list[bytes] = []
        """Updates of clients."""
        self.lose = 0
        """So many updates that clients send are dropped."""
        self.deny = False
        self.status = 101
        self.deaf = False
        self._sockets: set[ServerConnection] = set()
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/room"

    @property
    def text(self) -> str:
        return str(self.doc.get("body", type=Text))

    async def start(self) -> None:
        def respond(connection: ServerConnection, request: Any) -> Any:
            return None if self.status == 101 else connection.respond(self.status, "no\n")  # type: ignore[arg-type]

        self._server = await serve(self._talk, "127.0.0.1", self.port, max_size=None, process_request=respond, close_timeout=0.1)
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """End as a killed process does: without a goodbye."""
        if self._server is not None:
            for socket in self._sockets:
                socket.transport.abort()
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def lose_memory(self) -> None:
        await self.stop()
        self.doc = self.adapter.new()
        await self.start()

    async def say(self, data: bytes) -> None:
        for socket in tuple(self._sockets):
            await socket.send(data)

    async def edit(self, at: int, text: str) -> None:
        before = self.adapter.version(self.doc)
        self.doc.get("body", type=Text).insert(at, text)
        await self.say(messages.build_sync(messages.UPDATE, self.adapter.missing(self.doc, before)))

    async def _talk(self, socket: ServerConnection) -> None:
        self.connections += 1
        if self.deny:
            await socket.send(messages.build_refusal("not you"))
            await socket.wait_closed()
            return
        self._sockets.add(socket)
        try:
            if self.deaf:
                socket.transport.pause_reading()
                await socket.wait_closed()
            await socket.send(messages.build_sync(messages.STEP_1, self.adapter.version(self.doc)))
            async for data in socket:
                assert isinstance(data, bytes)
                await self._answer(socket, data)
        finally:
            self._sockets.discard(socket)

    async def _answer(self, socket: ServerConnection, data: bytes) -> None:
        message = messages.parse_message(data)
        assert message is not None
        if message.step == messages.STEP_1:
            await socket.send(messages.build_sync(messages.STEP_2, self.adapter.missing(self.doc, message.body)))
        elif self.lose:
            self.lose -= 1
        else:
            self.received.append(message.body)
            if self.adapter.apply(self.doc, [message.body]):
                await self.say(messages.build_sync(messages.UPDATE, message.body))


@asynccontextmanager
async def old_server() -> AsyncIterator[OldServer]:
    server = OldServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
