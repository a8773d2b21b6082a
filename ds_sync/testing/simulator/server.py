"""The real server application over the real SQLite engine, as a process that dies and comes back, now and then from a backup.

Or a server that is not ours, in the same process and under the same deaths.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from ds_sync.environment import Environment
from ds_sync.exceptions import TransportError
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.protocol.retention import KeepUpdates
from ds_sync.server.app import create_app
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.server.responses import Message
from ds_sync.testing.inline_worker import open_inline
from ds_sync.testing.simulator.disk import Disk, Image
from ds_sync.testing.simulator.foreign import ForeignApp, ForeignLedger, Habits
from ds_sync.testing.simulator.ledger import Ledger, ObservedEngine
from ds_sync.testing.simulator.process import Process, ProcessDiedError
from ds_sync.testing.simulator.trace import Trace

EPOCH = 1_800_000_000.0
"""Seconds since 1970 at which simulated time begins."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How the server of one run is set up. Sizes are bytes, times seconds."""

    page_bytes: int = 1024 * 1024
    max_body: int = 64 * 1024 * 1024
    long_poll_timeout: float = 30.0
    sse_seconds: float = 60.0
    settle_rows: int = 10_000
    ttl: int | None = None
    """The time to live that the stream is made with, before any replica knows it."""
    compact_after: int | None = None
    keep_updates: int | None = None
    """Bytes of updates that are kept although a snapshot has them."""
    read_span: float = 600.0
    """For how long a place that was read is safe."""
    foreign: Habits | None = None
    """A server that is not ours, and what it does; the sizes above then mean nothing."""


TRIMMED: Final = b'{"error":{"code":"OFFSET_EXPIRED","message":"this part of the stream is kept no longer"}}'


class Call:
    """One request inside the server, and what has come out of it so far."""

    def __init__(self, body: bytes, *, whole: bool = True) -> None:
        """`whole`: more than `body` does not come, and nothing is missing."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self.ended = False
        self.cut = False
        """The connection is gone before the answer's end."""
        self._body: bytes | None = body
        self._whole = whole
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Wait until something more came out, the answer ended, or the connection was cut."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def hang_up(self) -> None:
        """The client is gone, or the server."""
        if not self.ended:
            self.cut = True
        if not self._gone.done():
            self._gone.set_result(None)
        self._move()

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": not self._whole}
        if self._whole:
            await asyncio.wait((self._gone,))
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.cut:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {str(name, "latin-1"): str(value, "latin-1") for name, value in message["headers"]}
        else:
            if message.get("body"):
                self.chunks.append(message["body"])
            self.ended = not message.get("more_body", False)
        self._move()

    def answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> Call:
        """Answer it without any server; return it."""
        self.status, self.headers, self.chunks, self.ended = status, dict(headers), [body] if body else [], True
        return self

    def _move(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Server:
    """The server's machine: its file, and the process of the moment."""

    def __init__(self, path: Path, trace: Trace, ledger: Ledger, random: random.Random, options: ServerOptions) -> None:
        self.path = path
        self.disk = Disk(path)
        self.options = options
        self.ledger = ForeignLedger() if options.foreign else ledger
        self.process: Process | None = None
        self.engine: SqliteEngine | None = None
        self._trace = trace
        self._random = random
        self._app: Any = None
        self.trimmed: dict[str, frozenset[str]] = {}
        """By URL: the offsets before the earliest that is kept."""
        self._calls: dict[Call, None] = {}

    @property
    def up(self) -> bool:
        """Whether a process is running."""
        return self.process is not None and not self.process.dead

    def start(self) -> None:
        """Start a process on the file."""
        process = self.process = Process("server", self.path, self._trace, self.disk, self._random)
        process.on_death = self._lose_connections
        process.run(self._open)
        self._trace.note("server", "starts")

    def _open(self) -> None:
        options, loop = self.options, asyncio.get_running_loop()
        environment = Environment(monotonic=loop.time, now=lambda: EPOCH + loop.time(), random=self._random)
        if options.foreign is not None:
            self._app = foreign = ForeignApp(self.path, options.foreign, environment, self._run_in_thread, self._random)
            if isinstance(self.ledger, ForeignLedger):
                self.ledger.streams = foreign.streams
            return
        self.engine = SqliteEngine(self.path, run_in_thread=self._run_in_thread, settle_rows=options.settle_rows)
        self.engine._writer = self.disk.watch(self.engine._writer)
        keep = None if options.keep_updates is None else KeepUpdates(size=options.keep_updates)
        app = create_app(
            ObservedEngine(self.engine, self.ledger),
            environment=environment,
            long_poll_timeout=options.long_poll_timeout,
            sse_seconds=options.sse_seconds,
            max_body=options.max_body,
            page_bytes=options.page_bytes,
            compact_after=options.compact_after,
            keep_updates=keep,
            open_worker=open_inline,
        )
        app._documents._streams.reads.span = options.read_span
        self._app = app

    async def bury(self) -> Image:
        """Wait until nothing of the dead process runs any more; return what it left of the file."""
        process, engine = self.process, self.engine
        if process is None or not process.dead or process.image is None:
            raise AssertionError("the server lives")
        await process.buried
        if engine is not None:
            engine._reader.close()
            engine._writer.close()
            engine._ownership.release()
        self.process = self.engine = None
        process.image.restore(self.path)
        return process.image

    def is_closed(self, path: str) -> bool:
        """Whether a server that is not ours has closed a stream."""
        return isinstance(self.ledger, ForeignLedger) and any(
            stream.closed for name, stream in self.ledger.streams.items() if name.endswith(f"/{path}")
        )

    def trim(self, url: str, tail: str) -> None:
        """Keep nothing that stands before `tail`. Somebody before the server answers 410 with the code."""
        self.trimmed[url] = frozenset((*self.ledger.chain(tail)[:-1], str(BEGINNING), f"{0:016}_{0:016}"))

    def open(self, method: str, url: str, headers: Mapping[str, str], body: bytes, *, missing: int = 0) -> Call:
        """Begin a request, whose last `missing` bytes never come. Raises TransportError if no process is there."""
        if self.process is None or self.process.dead:
            raise TransportError("no connection")
        parts = urlsplit(url)
        trimmed = self.trimmed.get(url.partition("?")[0]) if self.trimmed and method == "GET" else None
        if trimmed and parse_qs(parts.query)["offset"][-1] in trimmed:
            return Call(b"").answer(410, {"content-type": "application/json", "cache-control": "no-store"}, TRIMMED)
        scope = {
            "type": "http",
            "method": method,
            "scheme": parts.scheme,
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "headers": [
                (b"host", parts.netloc.encode()),
                *((name.encode(), value.encode()) for name, value in headers.items()),
                (b"content-length", b"%d" % len(body)),
            ],
        }
        call = Call(body[: len(body) - missing], whole=not missing)
        self._calls[call] = None
        self.process.start(self._serve(call, scope))
        return call

    async def _serve(self, call: Call, scope: dict[str, Any]) -> None:
        try:
            await self._app(scope, call.receive, call.send)
        finally:
            self._calls.pop(call, None)
            call.hang_up()

    def _lose_connections(self) -> None:
        for call in list(self._calls):
            call.hang_up()

    async def _run_in_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        process = self.process
        if process is None:
            raise ProcessDiedError("server")
        name = call.__name__
        await asyncio.sleep(self._random.expovariate(500.0))  # what an fsync takes, and others queue up meanwhile
        process.step(f"before {name}")
        result = call(*args)
        process.step(f"after {name}, before it is told")
        return result
