"""pycrdt-websocket with its SQLite store, under uvicorn: `python pycrdt_server.py PORT FILE`."""

import asyncio
import sys

import uvicorn
from pycrdt.store import SQLiteYStore, YDocNotFound
from pycrdt.websocket import ASGIServer, WebsocketServer, YRoom, exception_logger


class Store(SQLiteYStore):
    db_path = sys.argv[2]


class Server(WebsocketServer):
    """Rooms that keep what they hold: the package leaves this to its user."""

    async def get_room(self, name: str) -> YRoom:
        if name not in self.rooms:
            room = YRoom(ready=False, ystore=Store(path=name), exception_handler=exception_logger)
            self.rooms[name] = room
            await self.start_room(room)
            async with room.ystore.start_lock:
                if not room.ystore.started.is_set():
                    await self._task_group.start(room.ystore.start)
            try:
                await room.ystore.apply_updates(room.ydoc)
            except YDocNotFound:
                pass  # nobody has written it yet
            room.ready = True
        room = self.rooms[name]
        await room.ydoc_observed.wait()
        return room


async def main() -> None:
    async with Server(auto_clean_rooms=False, exception_handler=exception_logger) as rooms:
        options = {"log_level": "error", "ws": "websockets-sansio", "ws_ping_interval": None}
        await uvicorn.Server(uvicorn.Config(ASGIServer(rooms), port=int(sys.argv[1]), **options)).serve()


asyncio.run(main())
