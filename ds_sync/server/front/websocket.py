"""One WebSocket connection (RFC 6455), as an ASGI application sees it, on the event loop the application lives on."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
import os
import socket
from collections import deque
from typing import Final

from ds_sync.server.front.frames import (
    BINARY,
    CLOSE,
    NO_CODE,
    PING,
    PONG,
    TEXT,
    BadFrameError,
    FrameReader,
    build_close,
    build_head,
    parse_close,
)
from ds_sync.server.front.head import BadRequestError, Head
from ds_sync.server.front.port import Connection
from ds_sync.server.gateway import MAX_FRAME, PUSH
from ds_sync.server.responses import Message

log = logging.getLogger(__name__)

PING_SECONDS: Final = 2.0
"""After which a client from which nothing came is sent a ping."""

PINGS: Final = 2
"""How many a client may leave unanswered: it is gone then, or whoever is behind a proxy is."""

BYTES_PER_PING: Final = 32 * 1024
"""For every so many that were written meanwhile it may leave one more: its answer waits behind them, on a slow line."""

SILENT_SECONDS: Final = 5.0
"""After which a client whose system acknowledges nothing of what was written is gone: the kernel ends the connection (Linux)."""

CLOSE_SECONDS: Final = 2.0
"""How long a client has to answer a close frame."""

PENDING_BYTES: Final = 256 * 1024
"""Of messages the application has not taken; beyond it the connection is not read."""

MESSAGE_BYTES: Final = 100
"""What a message takes beside its own bytes: ten thousand empty ones arrive at once."""

COPIED_BYTES: Final = 64 * 1024
"""A larger message is sent behind its head, not copied to it."""

ABNORMAL: Final = 1006
"""What the application is told of a connection that broke."""

_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class WebSocket:
    """Made from the head of a request that asks for it; `run` has the application serve it. Raises BadRequestError."""

    __slots__ = (
        "_accepted",
        "_asked",
        "_closed",
        "_code",
        "_connection",
        "_descriptor",
        "_head",
        "_key",
        "_messages",
        "_pending",
        "_reader",
        "_told",
        "_unanswered",
        "_waiter",
        "_written",
    )

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self._head: Head | None = head
        self._key = _require_key(head)
        self._reader = FrameReader(MAX_FRAME)
        self._messages: deque[tuple[bytes | str, int]] = deque()
        """Each with what it takes."""
        self._pending = 0
        self._waiter: asyncio.Future[None] | None = None
        self._accepted = False
        self._closed = False
        """We have sent our close frame, or refused: nothing more goes out."""
        self._code: tuple[int, str] | None = None
        """How the client ended it."""
        self._told = False
        self._descriptor = -1
        """Of the socket, to write to it directly; -1 if that can't be done."""
        self._asked = connection.server.now
        """When something came from the client, or it was sent a ping."""
        self._unanswered = 0
        """Pings since something came."""
        self._written = 0
        """Bytes since then."""

    async def run(self) -> None:
        """Have the application serve it."""
        head, connection = self._head, self._connection
        if head is None:
            raise AssertionError("a connection is served once")
        self._head = None
        offered = [value for name, value in head.headers if name == b"sec-websocket-protocol"]
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.headers,
            "client": connection.client,
            "server": connection.endpoint,
            "subprotocols": [name.strip() for value in offered for name in value.decode("latin-1").split(",") if name.strip()],
            "extensions": {PUSH: self.push},
        }
        code = 1000
        try:
            await connection.server.app(scope, self.receive, self.send)
        except Exception:
            log.exception("%s failed", scope["path"])
            code = 1011
        if connection.paused:
            connection.transport.abort()  # what was written is not taken: a close frame would not be, either
        elif not self._closed:
            await self.send({"type": "websocket.close", "code": code})

    async def receive(self) -> Message:
        """Return the next message, or that the client is gone."""
        if not self._told:
            self._told = True
            return {"type": "websocket.connect"}
        while not self._messages:
            if self._code is not None:
                return {"type": "websocket.disconnect", "code": self._code[0], "reason": self._code[1]}
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        message, size = self._messages.popleft()
        before = self._pending
        self._pending -= size
        if before > PENDING_BYTES >= self._pending:
            self._connection.transport.resume_reading()
        return {"type": "websocket.receive", "bytes" if isinstance(message, bytes) else "text": message}

    async def send(self, message: Message) -> None:
        """Send; return when more may follow."""
        if self._closed or self._code is not None:
            return
        kind = message["type"]
        if kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._close(message.get("code", 1000), message.get("reason") or "")
        else:
            data: bytes | None = message.get("bytes")
            if data is None:
                self._write(TEXT, message["text"].encode())
            else:
                self._write(BINARY, data)
            if self._connection.paused:
                await self._connection.drain()

    def push(self, data: bytes) -> bool:
        """Send a binary message at once; or, if the client has not taken what was sent before, do nothing and return False."""
        if self._closed or self._code is not None or self._connection.paused:
            return False
        transport = self._connection.transport
        if self._descriptor < 0 or len(data) > COPIED_BYTES or transport.get_write_buffer_size() or transport.is_closing():
            self._write(BINARY, data)
            return True
        # uvloop keeps what is written to the end of the turn: of a thousand readers, the first would wait for the last.
        frame = build_head(BINARY, len(data)) + data
        self._written += len(frame)
        try:
            sent = os.write(self._descriptor, frame)
        except OSError:  # full, or broken: the transport finds out which
            sent = 0
        if sent < len(frame):
            transport.write(frame[sent:])
        return True

    def feed(self, data: bytes) -> None:
        """Take what came from the client."""
        if self._closed and self._code is not None:
            return
        self._asked = self._connection.server.now
        self._unanswered = self._written = 0
        try:
            for event in self._reader.receive(data):
                self._receive_event(event.kind, event.data)
        except BadFrameError as error:
            self._code = (error.code, str(error))
            self._close(error.code, str(error))
            self._wake()

    def lose(self) -> None:
        """The connection is gone."""
        self._closed = True
        self._descriptor = -1
        if self._code is None:
            self._code = (ABNORMAL, "")
        self._wake()

    def check(self, now: float) -> None:
        """Ask a client that is silent whether it is there; hang up on one that has not answered."""
        if not self._accepted or self._closed or now - self._asked < PING_SECONDS or self._pending > PENDING_BYTES:
            return
        if self._unanswered >= PINGS + self._written // BYTES_PER_PING:
            self._connection.transport.abort()
            return
        self._asked = now
        self._unanswered += 1
        self._write(PING, b"")

    def _receive_event(self, kind: int, data: bytes) -> None:
        if kind == PING:
            if not self._closed:
                self._write(PONG, data)
        elif kind == CLOSE:
            code, reason = parse_close(data)
            if self._code is None:
                self._code = (code, reason)
            if not self._closed:
                self._close(1000 if code == NO_CODE else code, "")
            self._connection.transport.close()
            self._wake()
        elif kind != PONG and self._code is None:
            size = len(data) + MESSAGE_BYTES
            self._messages.append((data.decode() if kind == TEXT else data, size))
            before = self._pending
            self._pending += size
            if before <= PENDING_BYTES < self._pending:
                self._connection.transport.pause_reading()
            self._wake()

    def _accept(self, message: Message) -> None:
        fields = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade"), (b"sec-websocket-accept", _answer_key(self._key))]
        subprotocol: str | None = message.get("subprotocol")
        if subprotocol is not None:
            fields.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
        fields += message.get("headers", ())
        text = b"".join([b"%b: %b\r\n" % field for field in fields])
        if text.count(b"\n") != len(fields):
            raise AssertionError("a header of an answer holds a line break")
        connection = self._connection
        sock = connection.transport.get_extra_info("socket")
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENT_SECONDS * 1000))
        if sock is not None and os.name == "posix":
            self._descriptor = sock.fileno()
        connection.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n%b%b\r\n" % (connection.server.date, text))
        self._accepted = True

    def _write(self, kind: int, data: bytes) -> None:
        connection = self._connection
        self._written += len(data)
        if len(data) <= COPIED_BYTES:
            connection.transport.write(build_head(kind, len(data)) + data)
        else:
            connection.transport.write(build_head(kind, len(data)))
            connection.transport.write(data)

    def _close(self, code: int, reason: str) -> None:
        if self._closed:
            return
        self._closed = True
        transport = self._connection.transport
        if not self._accepted:
            transport.write(b"HTTP/1.1 403 Forbidden\r\n%bcontent-length: 0\r\nconnection: close\r\n\r\n" % self._connection.server.date)
            transport.close()
            return
        transport.write(build_close(code, reason))
        self._connection.loop.call_later(CLOSE_SECONDS, transport.abort)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _require_key(head: Head) -> bytes:
    fields = dict(head.headers)
    if head.method != "GET" or not head.minor or head.length:
        raise BadRequestError(400, "a WebSocket begins with a GET of HTTP/1.1")
    if fields.get(b"sec-websocket-version") != b"13":
        raise BadRequestError(426, "Sec-WebSocket-Version is 13")
    key = fields.get(b"sec-websocket-key", b"")
    try:
        whole = len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        whole = False
    if not whole:
        raise BadRequestError(400, "Sec-WebSocket-Key is 16 bytes in base64")
    return key


def _answer_key(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest())
