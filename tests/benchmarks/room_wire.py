"""A WebSocket client in a room, as cheaply as Python can be one: the y-websocket protocol, or Hocuspocus' around it.

Frames are read only until the room's content has come. After that a client looks for what it knows must come in the bytes themselves, so
that 1,000 readers cost the load generator little, and the same for every server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

from wire import BrokenAnswerError

STEP_1, STEP_2, UPDATE = b"\x00\x00", b"\x00\x01", b"\x00\x02"
"""The kinds of sync messages of y-protocols."""

SYNC_REPLY = 4
"""Hocuspocus: a sync message that is an answer."""

NOTHING = b"\x00\x00"
"""The update that changes nothing; also the state vector of an empty document is its first byte."""

PONG = b"\x8a\x80\x00\x00\x00\x00"
PONG_SECONDS = 4.0
"""Servers ask for a sign of life; it may also be given unasked (RFC 6455, 5.5.3)."""


def build_varint(number: int) -> bytes:
    """Return a lib0 variable integer."""
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    data.append(number)
    return bytes(data)


def read_varint(data: bytes, start: int) -> tuple[int, int]:
    """Return a lib0 variable integer and where it ends."""
    number = shift = 0
    while True:
        byte = data[start]
        number |= (byte & 127) << shift
        start, shift = start + 1, shift + 7
        if byte < 128:
            return number, start


def build_string(data: bytes) -> bytes:
    """Return bytes with their length before them."""
    return build_varint(len(data)) + data


def build_frame(payload: bytes) -> bytes:
    """Return a binary frame of a client. Its mask is zero, which is allowed and costs nothing."""
    size = len(payload)
    if size < 126:
        head = bytes((0x82, 0x80 | size))
    elif size < 65536:
        head = b"\x82\xfe" + size.to_bytes(2)
    else:
        head = b"\x82\xff" + size.to_bytes(8)
    return head + b"\x00\x00\x00\x00" + payload


class RoomClient(asyncio.Protocol):
    """One connection to a room. It is `ready` when the room's content has come; then everything goes to `receive`."""

    def __init__(self, path: str, envelope: str) -> None:
        loop = asyncio.get_running_loop()
        self._path = path
        self._envelope = build_string(envelope.encode()) if envelope else b""
        """Hocuspocus: the document's name, before each message."""
        self._data = b""
        self._open = False
        self._writable = asyncio.Event()
        self._writable.set()
        self.ready: asyncio.Future[bytes] = loop.create_future()
        """The content, as one update."""
        self.done: asyncio.Future[None] = loop.create_future()
        """Finished by the subclass; broken when the server hangs up."""

    def receive(self, data: bytes) -> None:
        """Bytes came, after the content."""

    def frame_update(self, update: bytes) -> bytes:
        """Return the frame that tells the room of an update."""
        return build_frame(self._envelope + UPDATE + build_string(update))

    def write(self, frames: bytes) -> None:
        """Send prebuilt frames. When the server has hung up nothing is sent, and `done` says so."""
        if not self.transport.is_closing():
            self.transport.write(frames)

    async def drain(self) -> None:
        """Wait until the server takes more."""
        await self._writable.wait()

    def finish(self) -> None:
        """Nothing more is wanted; the connection stays open until `close`."""
        if not self.done.done():
            self.done.set_result(None)

    def close(self) -> None:
        """Hang up."""
        self.finish()
        self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(
            f"GET {self._path} HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        for future in (self.ready, self.done):
            if not future.done():
                future.set_exception(exc or BrokenAnswerError(f"the server hung up on {self._path}"))
                future.exception()  # it may well be that nobody asks

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self.ready.done():
            self.receive(data)
            return
        self._data += data
        try:
            self._shake_hands()
        except BrokenAnswerError as error:
            self.ready.set_exception(error)
            self.transport.close()
        if self.ready.done() and self._data:
            self.receive(self._data)
            self._data = b""

    def _shake_hands(self) -> None:
        if not self._open:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                raise BrokenAnswerError(f"a WebSocket was answered {head!r}")
            self._open, self._data = True, rest
            if self._envelope:
                # Authentication, with a token that nobody checks.
                self.write(build_frame(self._envelope + b"\x02\x00" + build_string(b"token")))
            self.write(build_frame(self._envelope + STEP_1 + build_string(NOTHING[:1])))
        for opcode, payload in self._frames():
            if opcode == 8:
                raise BrokenAnswerError(f"the server closed: {payload!r}")
            if opcode == 2 and payload.startswith(self._envelope):
                self._receive_message(payload[len(self._envelope) :])
            if self.ready.done():
                return

    def _receive_message(self, message: bytes) -> None:
        step = message[:2].replace(bytes((SYNC_REPLY,)), STEP_1[:1], 1)
        if step == STEP_1:
            self.write(build_frame(self._envelope + STEP_2 + build_string(NOTHING)))
        elif step == STEP_2:
            size, start = read_varint(message, 2)
            if start + size != len(message):
                raise BrokenAnswerError("the content does not fill its message")
            self.ready.set_result(message[start:])
            self._sign_of_life()

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        while len(self._data) >= 2:
            size, start = self._data[1], 2
            if size >= 126:
                start = 4 if size == 126 else 10
                size = int.from_bytes(self._data[2:start])
            if len(self._data) < start + size or start > len(self._data):
                return
            if not self._data[0] & 0x80:
                raise BrokenAnswerError("a message came in several frames")
            frame = self._data[0] & 15, self._data[start : start + size]
            self._data = self._data[start + size :]
            yield frame

    def _sign_of_life(self) -> None:
        if not self.transport.is_closing():
            self.write(PONG)
            asyncio.get_running_loop().call_later(PONG_SECONDS, self._sign_of_life)
