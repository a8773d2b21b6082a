"""HTTP/1.1 for an ASGI application, on the event loop the application lives on: no thread stands between a request and its handler.

An HTTP server that lives in threads of its own costs an append more than the append itself. WebSockets are served here, too. HTTP/2 is
handed on, byte for byte, to a server that speaks it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from email.utils import formatdate
from typing import Any, Final, cast

from ds_sync.server.front.exchange import PENDING_BYTES, Exchange, Express, PlainRequest, PromptExchange
from ds_sync.server.front.head import CHUNKED, HTTP2_PREFACE, MAX_HEAD, MAX_TARGET, BadRequestError, ChunkedBody, Head, parse_head
from ds_sync.server.front.port import App, Pending
from ds_sync.server.front.tunnel import Tunnel
from ds_sync.server.front.websocket import WebSocket
from ds_sync.server.operation.logs import access, log_refusal
from ds_sync.server.responses import COMMON_TEXT, LINES, Scope

log = logging.getLogger(__name__)

LINGER_SECONDS: Final = 2.0
"""How long the rest of a body that nobody wants is still read."""

MIN_RATE: Final = 1000.0
"""Bytes a second."""

MAX_CONNECTIONS: Final = 20_000

MAX_LATE: Final = 1000
"""Connections above the limit that are still told so; at most a tenth of the limit."""

_REFUSAL_HEADERS: Final = COMMON_TEXT + b"content-type: application/json\r\ncache-control: no-store\r\nconnection: close\r\n"


class Http1Server:
    """Serves an application on a listening socket. `start`, and `aclose` in the end.

    Times are seconds, sizes bytes: `idle` for a connection that asks nothing, `patience` for a request, or the reading of an answer,
    that falls behind `min_rate` bytes a second; every `tick` they are looked at. Of more than `max_connections` the latest are told
    to come again.
    `express` answers what it can before the application is asked.
    `beyond` is the port on this machine of the server that speaks HTTP/2; without it that is refused.
    """

    def __init__(
        self,
        app: App,
        *,
        express: Express | None = None,
        beyond: int | None = None,
        idle: float = 75.0,
        patience: float = 60.0,
        min_rate: float = MIN_RATE,
        tick: float = 1.0,
        max_head: int = MAX_HEAD,
        max_target: int = MAX_TARGET,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self.app = app
        self.express = express
        self.min_rate = min_rate
        self.max_head = max_head
        self.max_target = max_target
        self.max_connections = max_connections
        self.max_late = max(1, min(MAX_LATE, max_connections // 10))
        self.tunnels = 0
        """Connections that are handed on; each takes three of what the system calls open files."""
        self.refused: dict[int, int] = {}
        """By status: the connections that were ended with it, because of what stood on them or did not; 0 is one cut off without a word."""
        self.beyond = beyond
        self.connections: set[Connection] = set()
        self.closing = False
        self.now = time.monotonic()
        """Of the last look at the clock; good enough for what takes minutes."""
        self._idle = idle
        self._tick = tick
        self._patience = patience
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self, listener: Any) -> None:
        """Serve `listener`, a socket; it is closed with the server."""
        self.read_clock()
        self._server = await asyncio.get_running_loop().create_server(lambda: Connection(self), sock=listener, backlog=1024)
        self._sweeping = asyncio.ensure_future(self._sweep())

    def stop_accepting(self) -> None:
        """Accept nothing more; every answer from now on is its connection's last, and who asks nothing is hung up on."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.hang_up_if_idle()

    async def aclose(self) -> None:
        """Hang up on everybody, after what was written."""
        self.stop_accepting()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait((self._sweeping,))
        for connection in tuple(self.connections):
            connection.hang_up()

    def read_clock(self) -> None:
        """Look at the clock."""
        self.now = time.monotonic()
        self.date = b"date: " + formatdate(usegmt=True).encode() + b"\r\nserver: ds-sync\r\n"

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._tick)
            self.read_clock()
            for connection in tuple(self.connections):
                connection.check_reading(self.now, self._patience)
                connection.check(self.now, self._idle, self._patience)


class Connection(asyncio.Protocol):
    """One client: one request at a time, in the order they came."""

    __slots__ = (
        "_advancing",
        "_body",
        "_buffer",
        "_drained",
        "_ending",
        "_exchange",
        "_head",
        "_head_bytes",
        "_late",
        "_left",
        "_lingering",
        "_plan",
        "_since",
        "_task",
        "_tunnel",
        "_unsent",
        "_websocket",
        "client",
        "endpoint",
        "loop",
        "paused",
        "server",
        "transport",
    )

    def __init__(self, server: Http1Server) -> None:
        self.server = server
        self._buffer = b""
        self._exchange: Exchange | PromptExchange | None = None
        self._left = 0
        """Bytes of the body that are still to come."""
        self._body: ChunkedBody | None = None
        self._head_bytes = b""
        self._head: Head | None = None
        """The last head: a client often sends the same one again."""
        self._plan: PlainRequest | None = None
        """How it is served without the application."""
        self._advancing = False
        """The buffer is being read: whoever makes an end of a request need not go on with it."""
        self.paused = False
        """The client reads more slowly than it is written to."""
        self._drained: asyncio.Future[None] | None = None
        """Somebody waits until the client has read on."""
        self._lingering = False
        self._late = False
        """There were enough connections before this one."""
        self._since = server.now
        """When the last thing moved that had to move; a little before that, for what moves slowly."""
        self._ending = False
        """It is being closed, after what is written."""
        self._unsent = 0
        """Bytes that the client had not read at the last look."""
        self._tunnel: Tunnel | None = None
        self._websocket: WebSocket | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.loop = asyncio.get_running_loop()
        # Asked for once: uvloop asks the kernel each time.
        self.client = transport.get_extra_info("peername")
        self.endpoint = transport.get_extra_info("sockname")
        connections = self.server.connections
        connections.add(self)
        over = len(connections) + 2 * self.server.tunnels - self.server.max_connections
        if over > 0:
            self._late = True  # it is told, when it asks for something
            if over > self.server.max_late:
                self._cut_off()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self._buffer = b""
        self.resume_writing()
        if self._tunnel is not None:
            self.server.tunnels -= 1
            self._tunnel.close()
        if self._websocket is not None:
            self._websocket.lose()
        if self._exchange is not None:
            self._exchange.hang_up()

    def eof_received(self) -> bool:
        if self._lingering:
            return False
        if self._tunnel is not None:
            self._tunnel.close()
        if self._exchange is None:
            return False
        self._exchange.end_input()
        return True

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        if self._tunnel is not None:
            self._tunnel.send(data)
            return
        if self._websocket is not None:
            self._websocket.feed(data)
            return
        if self._buffer:
            self._buffer += data
        else:
            self._buffer = data
            if self._exchange is None:
                self._since = self.server.now
        self._advance()

    def pause_writing(self) -> None:
        self.paused = True
        self._since = self.server.now
        self._unsent = self.transport.get_write_buffer_size()
        if self._tunnel is not None:
            self._tunnel.pause()

    def resume_writing(self) -> None:
        self.paused = False
        if self._tunnel is not None:
            self._tunnel.resume()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._exchange is None and self._buffer and not self._lingering:
            self.read_on()

    async def drain(self) -> None:
        """Return when so little is left unsent that more may follow."""
        while self.paused:
            self._drained = self.loop.create_future()
            await self._drained

    def read_on(self) -> None:
        """Room was made: go on reading."""
        self.transport.resume_reading()
        self._advance()

    def finish(self, exchange: Pending) -> None:
        """The answer is out: on to the next request."""
        if self._exchange is not exchange:
            return
        if exchange.last:
            self._linger()
            return
        self._exchange = None
        self._since = self.server.now
        if self._buffer and not self._advancing:
            self.read_on()

    def pass_on(self, prompt: Pending) -> Exchange | None:
        """Have the application answer the request under way, which has no body; None if it is under way no more."""
        if self._exchange is not prompt or self._head is None:
            return None
        exchange = self._exchange = Exchange(self, self._head)
        exchange.complete = True
        self._task = self.loop.create_task(exchange.run())
        return exchange

    def build_scope(self, head: Head) -> Scope:
        """Return a request as an ASGI application sees it."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1" if head.minor else "1.0",
            "method": head.method,
            "scheme": "http",
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.headers,
            "client": self.client,
            "server": self.endpoint,
        }

    def hang_up_if_idle(self) -> None:
        """Close, if nothing is asked."""
        if self._exchange is None and self._tunnel is None and self._websocket is None and not self._buffer:
            self.transport.close()

    def hang_up(self) -> None:
        """Close, after what is written."""
        if self._tunnel is not None:
            self._tunnel.close()
        self.transport.close()

    def check_reading(self, now: float, patience: float) -> None:
        """Cut the connection off if what is written to it is read too slowly, or not at all."""
        closing = self.transport.is_closing()
        if not self.paused and not closing:
            return
        unsent = self.transport.get_write_buffer_size()
        if closing and not self._ending:
            self._ending, self._since = True, now  # it may have been quiet for long before
        self._move(max(0, self._unsent - unsent))
        self._unsent = unsent
        if unsent and now - self._since > patience:
            self._cut_off()

    def check(self, now: float, idle: float, patience: float) -> None:
        """End the connection if nothing has moved for too long."""
        if self._websocket is not None:
            self._websocket.check(now)
        if self._websocket is not None or self._tunnel is not None or self._lingering:
            return
        waited = now - self._since
        if self._exchange is None and not self._buffer:
            if waited > idle:
                self.transport.close()
        elif self.paused:
            if waited > patience:
                self.transport.abort()
        elif (self._exchange is None or not self._exchange.complete) and waited > patience:
            self._refuse(BadRequestError(408, "the request does not come"))

    def _move(self, count: int) -> None:
        """So many bytes came, or went: that is worth the time they may take."""
        self._since = min(self.server.now, self._since + count / self.server.min_rate)

    def _cut_off(self) -> None:
        self._count_refusal(0)
        self.transport.abort()

    def _count_refusal(self, status: int) -> None:
        refused = self.server.refused
        refused[status] = refused.get(status, 0) + 1
        if self._exchange is None and access.isEnabledFor(logging.INFO):  # of a request the application says how it ended
            log_refusal(self.client[0] if self.client else "-", status)

    def _advance(self) -> None:
        self._advancing = True
        try:
            while self._buffer and not self._lingering:
                exchange = self._exchange
                if exchange is None and not self.paused:
                    if not self._begin():
                        return
                elif isinstance(exchange, Exchange) and not exchange.complete:
                    if not self._feed(exchange):
                        return
                else:
                    if len(self._buffer) > PENDING_BYTES:
                        self.transport.pause_reading()
                    return
        except BadRequestError as error:
            self._refuse(error)
        finally:
            self._advancing = False

    def _begin(self) -> bool:
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or end > self.server.max_head:
            if len(buffer) > self.server.max_head:
                raise BadRequestError(431, "the head is too long")
            return False
        if self._late:
            raise BadRequestError(429, "there are too many connections")
        data = buffer[:end]
        if data == self._head_bytes and self._head is not None:
            head = self._head
        else:
            if buffer.startswith(HTTP2_PREFACE):
                self._hand_on(buffer)
                return False
            head = parse_head(data.lstrip(b"\r\n"), self.server.max_target)
            if head.upgrade:
                self._buffer = b""
                self._websocket = WebSocket(self, head)
                self._task = self.loop.create_task(self._websocket.run())
                self._websocket.feed(buffer[end + 4 :])
                return False
            self._head_bytes, self._head = data, head
            self._plan = None if self.server.express is None else self.server.express.plan(head)
        self._since = self.server.now
        end += 4
        if self._plan is not None and len(buffer) - end >= head.length:
            prompt = self._exchange = PromptExchange(self, last=not head.keep_alive)
            self._buffer = buffer[end + head.length :]
            if self._plan.serve(buffer[end : end + head.length], prompt):
                return True
        self._buffer = buffer[end:]
        exchange = self._exchange = Exchange(self, head)
        if head.length == CHUNKED:
            self._body = ChunkedBody()
        elif head.length == 0:
            exchange.complete = True
        else:
            self._left = head.length
            if self._buffer:
                self._feed(exchange)
        self._task = self.loop.create_task(exchange.run())
        return True

    def _feed(self, exchange: Exchange) -> bool:
        buffer = self._buffer
        if self._body is not None:
            part, self._buffer = self._body.receive(buffer)
            complete = self._body.done
            if complete:
                self._body = None
        else:
            part = buffer if len(buffer) <= self._left else buffer[: self._left]
            self._buffer = buffer[len(part) :]
            self._left -= len(part)
            complete = not self._left
        self._move(len(part))
        exchange.receive_part(part, complete=complete)
        return complete

    def _hand_on(self, data: bytes) -> None:
        if self.server.beyond is None:
            raise BadRequestError(505, "this is not HTTP/1.1")
        self._buffer = b""
        self.server.tunnels += 1
        self._tunnel = Tunnel(self.transport, self.server.beyond, data)

    def _refuse(self, error: BadRequestError) -> None:
        self._count_refusal(error.status)
        exchange = self._exchange
        if exchange is None or not exchange.started:
            if isinstance(exchange, Exchange):
                exchange.refused = error.status
            body = json.dumps({"error": {"code": error.code, "message": str(error)}}).encode()
            fields = _REFUSAL_HEADERS + (b"retry-after: 5\r\n" if error.status == 429 else b"")
            head = LINES[error.status] + fields + self.server.date + b"content-length: %d\r\n\r\n" % len(body)
            self.transport.write(head + body)
        if exchange is not None:
            exchange.hang_up()
        self._linger()

    def _linger(self) -> None:
        # Closing a socket with unread bytes resets it, and the answer may be lost on its way.
        self._lingering = True
        if not self._buffer and (self._exchange is None or self._exchange.complete):
            self.transport.close()
            return
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
