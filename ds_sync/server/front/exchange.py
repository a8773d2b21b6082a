"""One HTTP/1.1 request and its answer, as an ASGI application sees them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from ds_sync.server.front.head import Head
from ds_sync.server.front.port import Connection
from ds_sync.server.live import LIVE
from ds_sync.server.responses import LINES, Message, Scope

log = logging.getLogger(__name__)

PENDING_BYTES: Final = 256 * 1024
"""Bytes of a body, or of requests sent ahead, that are held before the connection is no longer read."""

COPIED_BYTES: Final = 64 * 1024
"""A larger body is sent behind its head, not copied to it."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Exchange:
    """One request and its answer, as the application sees them."""

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_connection",
        "_ended",
        "_finished",
        "_gone",
        "_head",
        "_on_hangup",
        "_parts",
        "_scope",
        "_start",
        "_told",
        "_waiter",
        "_waiting_bytes",
        "_wants_continue",
        "complete",
        "last",
        "pushed",
        "refused",
        "started",
    )

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self._head = head
        self._parts: list[bytes] = []
        self._waiting_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._start: Message | None = None
        self._bodiless = False
        self._chunked = False
        self._told = False
        """The application has the whole body."""
        self._finished = False
        self._gone = False
        self._ended = False
        """The client closed its sending side."""
        self._wants_continue = head.expects_continue
        self._on_hangup: Callable[[], None] | None = None
        self.pushed = self.refused = 0
        self.complete = False
        """The whole body is here."""
        self.started = False
        """Some of the answer is on its way."""
        self.last = not head.keep_alive
        """The connection ends with this answer."""

    async def run(self) -> None:
        """Have the application answer."""
        head, connection = self._head, self._connection
        scope = connection.build_scope(head)
        scope["extensions"] = {LIVE: self}
        try:
            await connection.server.app(scope, self.receive, self.send)
        except Exception:
            if not self._gone:
                log.exception("%s %s failed", head.method, head.path)
        if self._finished or self._gone:
            return
        if self.started or self._ended:
            connection.transport.abort()  # the answer is cut off, and must not look whole
        else:
            self.last = True
            await self.send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]})
            await self.send({"type": "http.response.body"})

    async def receive(self) -> Message:
        """Return more of the body, or that the client is gone."""
        while True:
            if self._parts or (self.complete and not self._told):
                body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts.clear()
                self._told = self.complete
                if self._waiting_bytes > PENDING_BYTES:
                    self._waiting_bytes = 0
                    self._connection.read_on()
                self._waiting_bytes = 0
                return {"type": "http.request", "body": body, "more_body": not self._told}
            if self._gone or self._finished or self._ended:
                return {"type": "http.disconnect"}
            if self._wants_continue and not self.complete and not self.started:
                self._wants_continue = False
                self._connection.transport.write(_CONTINUE)
            self._waiter = self._connection.loop.create_future()
            await self._waiter

    async def send(self, message: Message) -> None:
        """Send some of the answer; return when more of it may follow."""
        if self._gone or self._finished:
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        body: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        if not more and not self.complete:
            self.last = True
        if self._start is not None:
            data = self._begin_answer(self._start, body, more=more)
            self._start = None
            if len(body) > COPIED_BYTES and not self._bodiless and not self._chunked:
                self._connection.transport.write(data)
                data = body
        elif self._bodiless:
            data = b""
        elif self._chunked:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                data += b"0\r\n\r\n"
        else:
            data = body
        connection = self._connection
        if data:
            connection.transport.write(data)
        if not more:
            self._finished = True
            self._wake()
            connection.finish(self)
        elif connection.paused:
            await connection.drain()

    def push(self, data: bytes) -> bool:
        """Send more of an answer at once; return False if there is none under way, or its client is behind."""
        connection = self._connection
        if not self._chunked or self._finished or self._gone or self._ended or connection.paused:
            return False
        connection.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.pushed += len(data)
        return True

    def on_hangup(self, call: Callable[[], None]) -> None:
        """Call `call` when the client sends nothing more, or is gone: what `receive` would say."""
        if self._gone or self._ended:
            call()
        else:
            self._on_hangup = call

    def receive_part(self, data: bytes, *, complete: bool) -> None:
        """Take some of the body."""
        self.complete = complete
        if data:
            self._parts.append(data)
            self._waiting_bytes += len(data)
            if self._waiting_bytes > PENDING_BYTES:
                self._connection.transport.pause_reading()
        self._wake()

    def end_input(self) -> None:
        """The client sends nothing more. It may still want an answer that is on its way; who waits for it is told that it is gone."""
        self._ended = True
        self.last = True
        self._wake()

    def hang_up(self) -> None:
        """Nobody is there any more."""
        self._gone = True
        self._wake()

    def _wake(self) -> None:
        if self._on_hangup is not None and (self._gone or self._ended):
            self._on_hangup()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _begin_answer(self, start: Message, body: bytes, *, more: bool) -> bytes:
        """Return the head, and the first of the body unless that is better sent by itself."""
        self.started = True
        status: int = start["status"]
        fields: list[tuple[bytes, bytes]] = start.get("headers", [])
        text = b"".join([b"%b: %b\r\n" % field for field in fields])
        if text.count(b"\n") != len(fields):
            raise AssertionError("a header of an answer holds a line break")
        line = LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        head = line + text
        end = self._connection.server.date
        self._bodiless = status in (204, 304) or self._head.method == "HEAD"
        if b"\r\ncontent-length: " not in head and status not in (204, 304):
            if not more:
                end += b"content-length: %d\r\n" % len(body)
            elif self._head.minor:
                self._chunked = True
                end += b"transfer-encoding: chunked\r\n"
            else:
                self.last = True
        if self._connection.server.closing:
            self.last = True
        if self.last:
            end += b"connection: close\r\n"
        elif not self._head.minor:
            end += b"connection: keep-alive\r\n"
        if self._bodiless:
            body = b""
        elif self._chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        elif len(body) > COPIED_BYTES:
            body = b""
        return b"%b%b\r\n%b" % (head, end, body)


class PromptExchange:
    """One request that is here whole, and its whole answer."""

    __slots__ = ("_connection", "_ended", "_gone", "_on_hangup", "last")

    complete = True
    started = False

    def __init__(self, connection: Connection, *, last: bool) -> None:
        self._connection = connection
        self._ended = False
        self._gone = False
        self._on_hangup: Callable[[], None] | None = None
        self.last = last
        """The connection ends with this answer."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the connection."""
        return self._connection.loop

    def reply(self, head: bytes, body: bytes) -> None:
        """Answer: `head` is the first line and all headers but those of the connection."""
        connection = self._connection
        if self._gone:
            return
        if connection.server.closing:
            self.last = True
        end = connection.server.date + b"connection: close\r\n" if self.last else connection.server.date
        if len(body) > COPIED_BYTES:
            connection.transport.write(b"%b%b\r\n" % (head, end))
            connection.transport.write(body)
        else:
            connection.transport.write(b"%b%b\r\n%b" % (head, end, body))
        connection.finish(self)

    def build_scope(self, head: Head) -> Scope:
        """Return the request as an ASGI application would see it."""
        return self._connection.build_scope(head)

    def on_hangup(self, call: Callable[[], None]) -> None:
        """Call `call` when the client sends nothing more, or is gone."""
        self._on_hangup = call

    def pass_on(self) -> None:
        """Have the application answer after all."""
        exchange = self._connection.pass_on(self)
        if exchange is not None and self._ended:
            exchange.end_input()
        if exchange is not None and self._gone:
            exchange.hang_up()

    def end_input(self) -> None:
        """The client sends nothing more."""
        self._ended = True
        self.last = True
        if self._on_hangup is not None:
            self._on_hangup()

    def hang_up(self) -> None:
        """Nobody is there any more."""
        self._gone = True
        if self._on_hangup is not None:
            self._on_hangup()


class PlainRequest(Protocol):
    """What the head of a request asks for, where that can be answered without a task."""

    def serve(self, body: bytes, exchange: PromptExchange) -> bool:
        """Answer, now or later; return False, with nothing done, if the application has to."""
        ...


class Express(Protocol):
    """Finds requests that the application need not see."""

    def plan(self, head: Head) -> PlainRequest | None:
        """Return how requests with this head are served, or None."""
        ...
