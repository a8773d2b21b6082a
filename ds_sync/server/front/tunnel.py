"""A connection handed on to another server of this machine, byte for byte."""

from __future__ import annotations

import asyncio
from typing import cast


class Tunnel(asyncio.Protocol):
    """The far end of the connection behind `client`, which it is fed from by `send` and which it writes to."""

    def __init__(self, client: asyncio.Transport, port: int, data: bytes) -> None:
        self._client = client
        self._waiting = [data]
        self._transport: asyncio.Transport | None = None
        self._closed = False
        self._connecting = asyncio.ensure_future(self._connect(port))
        client.pause_reading()

    async def _connect(self, port: int) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
        except OSError:
            self._client.close()

    def send(self, data: bytes) -> None:
        """Pass on what the client sent."""
        if self._transport is None:
            self._waiting.append(data)
        else:
            self._transport.write(data)

    def pause(self) -> None:
        """The client reads slowly."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """It has read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """The client is gone."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._closed:
            transport.close()
            return
        self._transport.writelines(self._waiting)
        self._waiting.clear()
        self._client.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def pause_writing(self) -> None:
        self._client.pause_reading()

    def resume_writing(self) -> None:
        if not self._client.is_closing():
            self._client.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.close()
