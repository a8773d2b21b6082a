"""HTTP/1.1 as cheaply as Python can speak it: requests are prebuilt bytes, answers are counted, and read only where they have to be.

The load generator shares a small machine with the server it measures, so it must cost little, and the same for every server. It reads
answers with Content-Length and chunked ones, and refuses everything it does not expect.
"""

from __future__ import annotations

import asyncio
import re
from typing import cast

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_NEXT = re.compile(rb"\r\nstream-next-offset: *([^\r]+)", re.IGNORECASE)
_UP_TO_DATE = re.compile(rb"\r\nstream-up-to-date: *true", re.IGNORECASE)

_HEAD, _LENGTH_BODY, _CHUNK_SIZE, _CHUNK_DATA, _TRAILER = range(5)


PATIENCE = 60.0
"""Seconds after which an answer that is needed does not come any more."""


class BrokenAnswerError(Exception):
    """The server answered something else than was expected, or hung up."""


def build_request(method: str, path: str, *, body: bytes = b"", headers: tuple[str, ...] = ()) -> bytes:
    """Return a whole request."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", *headers]
    if method in ("POST", "PUT"):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def next_offset(head: bytes) -> str:
    """Return the offset to read on from. Raises BrokenAnswerError without one."""
    match = _NEXT.search(head)
    if match is None:
        raise BrokenAnswerError(f"no Stream-Next-Offset in {head!r}")
    return match[1].decode()


def is_up_to_date(head: bytes) -> bool:
    """Whether nothing is left to read."""
    return _UP_TO_DATE.search(head) is not None


class Connection(asyncio.BaseProtocol):
    """One connection with one request at a time. Subclasses say what is sent, and what becomes of the answers."""

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done
        """Finished by the subclass; broken by whatever goes wrong."""
        self._state = _HEAD
        self._rest = b""
        self._left = 0
        self._head = b""

    def begin(self) -> None:
        """The connection stands: send something, now or later."""

    def receive_head(self, status: int, head: bytes) -> None:
        """An answer begins. `head` ends with its blank line."""

    def receive_part(self, data: bytes) -> None:
        """Some of its body came."""

    def receive_end(self, head: bytes) -> None:
        """The answer is complete."""

    def send(self, request: bytes) -> None:
        """Send prebuilt bytes."""
        self.transport.write(request)

    def finish(self) -> None:
        """Nothing more is wanted of this connection; it stays open until `close`."""
        if not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """Report what went wrong."""
        if not self.done.done():
            self.done.set_exception(error)
        self.transport.close()

    def close(self) -> None:
        """Hang up."""
        self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or BrokenAnswerError("the server hung up"))

    def eof_received(self) -> None:
        """The server sends nothing more: `connection_lost` follows."""

    def data_received(self, data: bytes) -> None:
        try:
            if self._state == _HEAD and not self._rest and data.startswith(b"HTTP/1.1 204") and data.find(b"\r\n\r\n") == len(data) - 4:
                self.receive_head(204, data)
                self.receive_end(data)
            else:
                self._parse(data)
        except BrokenAnswerError as error:
            self.fail(error)

    def _count_part(self, size: int) -> bool:
        """Take `size` bytes of a body that goes on after them; False if it does not."""
        if self._state not in (_LENGTH_BODY, _CHUNK_DATA) or size >= self._left:
            return False
        self._left -= size
        return True

    def _parse(self, data: bytes) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        while data:
            if self._state == _LENGTH_BODY or self._state == _CHUNK_DATA:
                part = data if len(data) <= self._left else data[: self._left]
                self._left -= len(part)
                data = data[len(part) :]
                self.receive_part(part)
                if self._left:
                    return
                if self._state == _LENGTH_BODY:
                    self._end()
                else:
                    self._state = _TRAILER
                continue
            mark = b"\r\n\r\n" if self._state == _HEAD else b"\r\n"
            end = data.find(mark)
            if end < 0:
                self._rest = data
                return
            line, data = data[: end + len(mark)], data[end + len(mark) :]
            if self._state == _HEAD:
                self._begin_answer(line)
            elif self._state == _CHUNK_SIZE:
                self._left = int(line.split(b";")[0], 16)
                self._state = _CHUNK_DATA if self._left else _TRAILER
                self._last = not self._left
            elif self._last:  # the empty line after the last chunk
                self._end()
            else:
                self._state = _CHUNK_SIZE

    def _begin_answer(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 "):
            raise BrokenAnswerError(f"no HTTP: {head[:100]!r}")
        self._head = head
        status = int(head[9:12])
        self.receive_head(status, head)
        length = _LENGTH.search(head)
        if status in (204, 304) or (length is not None and not int(length[1])):
            self._end()
        elif length is not None:
            self._state, self._left = _LENGTH_BODY, int(length[1])
        elif _CHUNKED.search(head):
            self._state, self._last = _CHUNK_SIZE, False
        else:
            raise BrokenAnswerError(f"an answer without a length: {head!r}")

    def _end(self) -> None:
        self._state = _HEAD
        self.receive_end(self._head)


class Exchange(Connection):
    """A request whose answer is wanted whole."""

    def __init__(self, done: asyncio.Future[None], request: bytes) -> None:
        super().__init__(done)
        self._request = request
        self.status = 0
        self.head = b""
        self.parts: list[bytes] = []

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.parts)

    def begin(self) -> None:
        self.send(self._request)

    def receive_head(self, status: int, head: bytes) -> None:
        self.status, self.head = status, head

    def receive_part(self, data: bytes) -> None:
        self.parts.append(data)

    def receive_end(self, head: bytes) -> None:
        self.finish()
        self.close()


async def ask(port: int, request: bytes, *statuses: int) -> Exchange:
    """Send a request on a connection of its own. Raises BrokenAnswerError for a status that is not among `statuses`."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    _, exchange = await loop.create_connection(lambda: Exchange(done, request), "127.0.0.1", port)
    async with asyncio.timeout(PATIENCE):
        await done
    if exchange.status not in statuses:
        raise BrokenAnswerError(f"{exchange.status} instead of {statuses}: {request[:60]!r}: {exchange.body[:200]!r}")
    return exchange


async def read_all(port: int, path: str) -> bytes:
    """Read a stream from its beginning to its tail; pages of JSON are joined by newlines."""
    pages: list[bytes] = []
    offset = "-1"
    while True:
        page = await ask(port, build_request("GET", f"{path}?offset={offset}"), 200)
        pages.append(page.body)
        offset = next_offset(page.head)
        if is_up_to_date(page.head):
            return (b"\n" if b"application/json" in page.head else b"").join(pages)
