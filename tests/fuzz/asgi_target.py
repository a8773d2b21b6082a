"""The application as an ASGI server calls it: requests that a library in front of it would have let through, and its hang-ups."""

from __future__ import annotations

import asyncio
import collections
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corpus
import leases
from findings import HANG_SECONDS, Finding
from mutator import mutate

from ds_sync.server.app import create_app
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.server.subscriptions.targets import TargetPolicy

INTACT = "intact-by-the-fuzzer"
LIFE = 10_000

TASKS = 200
"""More of them after a request has ended are a leak."""


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


class AsgiTarget:
    """An application over one engine in this process. The inputs are those of HttpTarget, taken apart leniently."""

    share = 2.0

    def __init__(self, engine: str) -> None:
        self.name = f"asgi-{engine}"
        self.statuses: collections.Counter[int] = collections.Counter()
        self._kind = engine
        self._log = _Log()
        self._records: list[bytes] = []

    def open(self, folder: Path) -> None:
        self._path = folder / "server.db"
        self._runner = asyncio.Runner()
        self._leases = leases.Leases()
        logging.getLogger("ds_sync").addHandler(self._log)
        self._runner.run(self._start())
        self._leases.prepare(self._call)

    def make(self, rng: random.Random) -> bytes:
        data = leases.make_request(rng) if rng.random() < 0.15 else corpus.make_request(rng)
        return mutate(rng, data, corpus.WORDS) if rng.random() < 0.6 else data

    def check(self, data: bytes) -> None:
        self._count += 1
        data = self._leases.fill(data, self._call)
        status = self._runner.run(self._ask(data))
        self.statuses[status] += 1
        if self._log.records:
            raise Finding(self._log.records.pop())
        if status >= 500 and status not in (503, 507):
            raise Finding(f"the answer is {status}")
        if self._count % 100 == 0:
            self._runner.run(self._append())
            self._leases.prepare(self._call)
        if self._count % LIFE == 0:
            self._runner.run(self._end())
            self._runner.run(self._start())
            self._leases.prepare(self._call)

    def close(self) -> None:
        self._leases.close()
        self._runner.run(self._end())
        self._runner.close()
        logging.getLogger("ds_sync").removeHandler(self._log)

    def _call(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        return self._runner.run(self._ask(corpus.build_request(method, path, headers, body))), self._content

    async def _start(self) -> None:
        self._count = 0
        self._engine: StorageEngine = (
            MemoryEngine() if self._kind == "memory" else SqliteEngine(self._path, recent_bytes=5000, settle_rows=50)
        )
        self._app = create_app(
            self._engine,
            long_poll_timeout=0.02,
            sse_seconds=0.02,
            max_body=100_000,
            page_bytes=1000,
            webhook_targets=TargetPolicy(allow_http=True),
        )
        if self._kind == "memory":
            self._records = []
        await self._ask(corpus.build_request("PUT", f"/v1/stream/{INTACT}", {"Content-Type": "text/plain"}, b""))
        await self._prepare()

    async def _prepare(self) -> None:
        for method, path, headers, body in corpus.SETUP:
            await self._ask(corpus.build_request("DELETE", path, {}, b""))
            await self._ask(corpus.build_request(method, path, headers, body))

    async def _append(self) -> None:
        await self._prepare()
        if len(asyncio.all_tasks()) > TASKS:
            raise Finding(f"{len(asyncio.all_tasks())} tasks have gathered: {asyncio.all_tasks()}"[:2000])
        self._records.append(b"record %d;" % len(self._records))
        await self._ask(corpus.build_request("POST", f"/v1/stream/{INTACT}", {"Content-Type": "text/plain"}, self._records[-1]))

    async def _end(self) -> None:
        await self._app.aclose()
        records, after = list[bytes](), None
        run = await self._engine.read(INTACT, (await self._engine.read(INTACT, None, 0)).end, 0)
        while run.state is not None and (after is None or not run.up_to_date):
            run = await self._engine.read(INTACT, after or _start_place(), 1000)
            records += run.records
            after = run.end
        await self._engine.aclose()
        if records != self._records:
            raise Finding(f"of {len(self._records)} records {len(records)} are there, or they are others")

    async def _ask(self, data: bytes) -> int:
        """Call the application; return its status. Raises Finding unless it gives one whole answer."""
        scope, parts = build_call(data)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not parts:
                await asyncio.sleep(0.05)
                return {"type": "http.disconnect"}
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        try:
            async with asyncio.timeout(HANG_SECONDS):
                await self._app(scope, receive, send)
        except TimeoutError:
            raise Finding(f"a hang: no end after {HANG_SECONDS} s") from None
        if [message["type"] for message in sent[:1]] != ["http.response.start"] or sent[-1].get("more_body"):
            raise Finding(f"no whole answer: {[message['type'] for message in sent]}")
        for name, value in sent[0]["headers"]:
            if not name.islower() or b"\n" in value or b"\r" in value or b"\0" in value:
                raise Finding(f"a header that can't be sent: {name!r}: {value!r}")
        self._content = b"".join(message.get("body", b"") for message in sent[1:])
        return int(sent[0]["status"])


def _start_place() -> Any:
    from ds_sync.protocol.history import START

    return START


def build_call(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Take a request apart as far as it goes; return the scope and the chunks of the body."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, _, rest = first.partition(b" ")
    target = rest.removesuffix(b" HTTP/1.1").replace(b"http://127.0.0.1", b"")
    path, _, query = target.partition(b"?")
    scope = {
        "type": "http",
        "method": method.decode("latin-1").upper(),
        "scheme": "http",
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "headers": list(_fields(lines)),
    }
    if len(body) % 5 == 0:
        return scope, [body[:3], b"", body[3:]]
    return scope, [body]


def _fields(lines: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The header fields that an HTTP library lets through (RFC 9110 section 5.5)."""
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon and name and name.replace(b"-", b"").replace(b"_", b"").isalnum():
            yield name.lower(), bytes(byte for byte in value.strip(b" \t") if (byte >= 32 and byte != 127) or byte == 9)
