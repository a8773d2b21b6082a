"""Answers everything with 204 and does nothing: what the load generator itself can do. `python trivial_server.py`; prints its URL."""

from __future__ import annotations

import asyncio
from typing import cast


class Trivial(asyncio.Protocol):
    """Takes every piece that comes for one request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.Transport, transport).write  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        self._write(b"HTTP/1.1 204 No Content\r\nstream-next-offset: 0\r\n\r\n")


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Trivial, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:  # Windows
        asyncio.run(main())
    else:
        uvloop.run(main())
