"""The network of one process: a TCP relay on a port of its own that can be cut, in the middle of whatever passes, and mended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

_PIECE = 65_536


class Relays:
    """The event loop, on a thread of its own, in which relays work; end it with `close`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._relays: list[Relay] = []

    def open(self, url: str) -> Relay:
        """Return a new relay to the server at `url`."""
        relay = Relay(url, self._do)
        self._do(relay.listen())
        self._relays.append(relay)
        return relay

    def close(self) -> None:
        """Cut and forget all of them."""
        for relay in self._relays:
            self._do(relay.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()


class Relay:
    """Passes bytes on, both ways, until it is cut. Made by `Relays.open`."""

    def __init__(self, url: str, do: Any) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 80)
        self._do = do
        self._cuts = 0
        self._passing: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""
        """Where to connect instead."""

    def cut(self) -> None:
        """End all connections, where they are, and new ones at once, until `mend`. What the server was given it may have done."""
        self._do(self._start_cut())

    def mend(self) -> None:
        """End one cut; those that overlap it go on."""
        self._do(self._end_cut())

    async def listen(self) -> None:
        """Take connections."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Cut, and listen no more."""
        await self._start_cut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _start_cut(self) -> None:
        self._cuts += 1
        passing = list(self._passing)
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)

    async def _end_cut(self) -> None:
        self._cuts -= 1

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._pass_on(reader, writer))
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            if self._cuts:
                raise ConnectionAbortedError("the network is cut")
            up_reader, up_writer = await asyncio.open_connection(*self._target)
            writers.append(up_writer)
            await asyncio.gather(_pump(reader, up_writer), _pump(up_reader, writer))
        except (OSError, asyncio.CancelledError):  # either side is gone, or the network was cut
            for each in writers:
                each.transport.abort()
        else:
            for each in writers:
                each.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
    writer.write_eof()
