"""The gateway: connections find their rooms; rooms that nobody is in are let go."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ds_sync.exceptions import ForbiddenError, FramingError, InvalidUpdateError, ResponseError, UnauthorizedError, UnsupportedUpdateError
from ds_sync.server.gateway import PUSH, Access, Doorway, Receive, Scope, Send, SharedDocument
from ds_sync_ywebsocket import messages
from ds_sync_ywebsocket.attendance import Held
from ds_sync_ywebsocket.connection import FAILED, RESTART, TOO_BIG, UNSUPPORTED, Connection
from ds_sync_ywebsocket.room import CLOSE_CODES, Room

IDLE_SECONDS: Final = 30.0
"""After which a room that nobody is in is let go; the next client loads it again."""

ROUND_SECONDS: Final = 5.0
"""How often the rooms are looked after."""

TURN_SECONDS: Final = 0.003
"""For messages of one client that are there already; then it is the others' turn."""

log = logging.getLogger(__name__)


class YWebsocketGateway:
    """The y-websocket protocol (`ds_sync.server.gateway.Gateway`): the room `<service>/<room>` is the document of that path."""

    def __init__(self, doorway: Doorway) -> None:
        self._doorway = doorway
        self._environment = doorway.environment
        self._rooms: dict[str, Room] = {}
        self._ended: list[Room] = []
        """Rooms that others have taken the place of, to be closed."""
        self._presence = Held()
        self._stopping = False
        self._rounds: asyncio.Task[None] | None = None

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one client into its room, until one of us hangs up."""
        if (await receive())["type"] != "websocket.connect":
            return
        offered = scope.get("subprotocols") or [None]
        await send({"type": "websocket.accept", "subprotocol": offered[0]})
        connection = Connection(send, self._environment, (scope.get("extensions") or {}).get(PUSH))
        pumping = asyncio.ensure_future(connection.pump())
        talking = asyncio.ensure_future(self._talk(connection, scope, receive))
        try:
            await asyncio.wait((pumping, talking, connection.hung_up), return_when=asyncio.FIRST_COMPLETED)
            if talking.done() and talking.exception() is not None:
                log.error("%s: a conversation failed", scope["path"], exc_info=talking.exception())
                connection.close(FAILED, "the server failed")
            if connection.closing:
                talking.cancel()  # Granian sends no close frame while somebody waits for a message
                await asyncio.wait((talking,))
                await connection.say_goodbye(pumping)
        except (OSError, RuntimeError) as error:  # what HTTP servers raise for a client that is gone differs
            log.debug("%s: the client is gone: %s", scope["path"], error)
        finally:
            pumping.cancel()
            talking.cancel()
            for outcome in await asyncio.gather(pumping, talking, return_exceptions=True):
                log.debug("%s: ended: %r", scope["path"], outcome)

    def stop(self) -> None:
        """Hang up on everybody; clients come back by themselves."""
        self._stopping = True
        for room in self._rooms.values():
            room.end(RESTART, "the server restarts")

    async def aclose(self) -> None:
        """Hang up, and let all rooms go."""
        self.stop()
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.wait((self._rounds,))
        for room in (*self._rooms.values(), *self._ended):
            await room.aclose()

    async def _talk(self, connection: Connection, scope: Scope, receive: Receive) -> None:
        try:
            document = self._doorway.open("yjs", scope)
            connection.may_write = await self._doorway.admit(scope, document) is Access.WRITE
        except ResponseError as error:
            if isinstance(error, ForbiddenError | UnauthorizedError):
                connection.post(messages.build_refusal(str(error)))
            connection.close(CLOSE_CODES + (error.status or 400), _shorten(str(error)))
            return
        room = self._find_room(document)
        try:
            await room.enter(connection)
            await self._listen(connection, room, receive)
        finally:
            await room.leave(connection)

    async def _listen(self, connection: Connection, room: Room, receive: Receive) -> None:
        complained = False
        monotonic = self._environment.monotonic
        turn = monotonic()
        while not connection.closing:
            if monotonic() - turn > TURN_SECONDS:
                await asyncio.sleep(0)
                turn = monotonic()
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            data: bytes | None = message.get("bytes")
            if data is None:
                data = b""  # text means nothing here
            if len(data) > self._doorway.max_frame:
                connection.close(TOO_BIG, f"a message has at most {self._doorway.max_frame} bytes")
                return
            try:
                await room.receive(connection, data)
            except UnsupportedUpdateError as error:
                # What its client writes next depends on it: it would wait here for ever, and the client would never know.
                log.warning("%s: a client is sent away: %s", room.path, error)
                connection.close(UNSUPPORTED, _shorten(str(error)))
                return
            except (FramingError, InvalidUpdateError) as error:
                log.log(logging.DEBUG if complained else logging.WARNING, "%s: a client sent what means nothing: %s", room.path, error)
                complained = True

    def _find_room(self, document: SharedDocument) -> Room:
        room = self._rooms.get(document.path)
        if room is not None and room.over:
            self._ended.append(room)
            room = None
        if room is None:
            room = self._rooms[document.path] = Room(document, self._doorway, self._presence)
            if self._stopping:
                room.end(RESTART, "the server restarts")
        if self._rounds is None:
            self._rounds = asyncio.ensure_future(self._make_rounds())
        return room

    async def _make_rounds(self) -> None:
        while True:
            await self._environment.sleep(ROUND_SECONDS)
            now = self._environment.monotonic()
            for path, room in tuple(self._rooms.items()):
                if room.over or (room.empty_since is not None and now - room.empty_since > IDLE_SECONDS):
                    del self._rooms[path]
                    self._ended.append(room)
                else:
                    room.look_after(now)
            while self._ended:
                await self._ended.pop().aclose()


def _shorten(reason: str) -> str:
    """A close frame has room for 123 bytes."""
    return reason.encode()[:123].decode(errors="ignore")
