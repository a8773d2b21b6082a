"""The load generator, in a process of its own: reads one job as a line of JSON, prints its result as another.

Used by bench.py, the same for every server: `python tests/benchmarks/load.py < job.json`. Every measured answer's status is checked, and
what was acknowledged is read back and counted; whatever is not as it should be ends the process with an error.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from readers import CatchUpReader, FanOutReader, IdleReader, LongPollReader, SseReader, build_message
from wire import PATIENCE, BrokenAnswerError, Connection, ask, build_request, read_all

C = TypeVar("C", bound=Connection)

Job = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""What is done, with its parameters; its result."""

BODY = 100
"""Bytes of one append."""


class Appender(Connection):
    """Appends as fast as it is answered, until `stop` (of the monotonic clock)."""

    def __init__(self, done: asyncio.Future[None], head: bytes, tail: bytes, status: int, *, numbered: bool) -> None:
        super().__init__(done)
        self._request = head + tail
        self._before, self._after = head, tail
        self._numbered = numbered
        self._status = status
        self.stop = 0.0
        self.latencies: list[float] = []

    def start(self, stop: float) -> None:
        """Send the first one."""
        self.stop = stop
        self._next()

    def receive_head(self, status: int, head: bytes) -> None:
        if status != self._status:
            raise BrokenAnswerError(f"an append was answered {head!r}")

    def receive_end(self, head: bytes) -> None:
        now = time.perf_counter()
        self.latencies.append(now - self._sent)
        if now < self.stop:
            self._next()
        else:
            self.finish()

    def _next(self) -> None:
        self._sent = time.perf_counter()
        if self._numbered:
            self.send(b"%b%d%b" % (self._before, len(self.latencies), self._after))
        else:
            self.send(self._request)


async def connect(port: int, count: int, make: Callable[[int, asyncio.Future[None]], C]) -> list[C]:
    """Open connections, some at a time so that no listen queue overflows."""
    loop = asyncio.get_running_loop()
    made: list[C] = []
    while len(made) < count:
        numbers = range(len(made), min(count, len(made) + 100))
        pairs = await asyncio.gather(
            *(loop.create_connection(lambda number=number: make(number, loop.create_future()), "127.0.0.1", port) for number in numbers)
        )
        made += [connection for _, connection in pairs]
    return made


async def finish(connections: Sequence[Connection]) -> None:
    """Wait until all are done. Raises what the first broken one ran into."""
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(connection.done for connection in connections))


async def append(job: dict[str, Any]) -> dict[str, Any]:
    """Append with many connections, then read everything back."""
    port, count, streams, path = job["port"], job["connections"], job["streams"], job["path"]
    is_json, producers = job.get("json", False), job.get("producers", False)
    kind = "application/json" if is_json else "application/octet-stream"
    paths = [f"{path}/{number}" for number in range(streams)]
    for name in paths:
        await ask(port, build_request("PUT", name, headers=(f"content-type: {kind}",)), 201)

    def make(number: int, done: asyncio.Future[None]) -> Appender:
        body = build_body(number, is_json=is_json)
        headers = [f"content-type: {kind}"]
        if producers:
            headers += [f"producer-id: writer-{number}", "producer-epoch: 0", "producer-seq: @"]
        request = build_request("POST", paths[number % streams], body=body, headers=tuple(headers))
        before, _, after = request.partition(b"@") if producers else (request, b"", b"")
        return Appender(done, before, after, 200 if producers else 204, numbered=producers)

    writers = await connect(port, count, make)
    started = time.perf_counter()
    for writer in writers:
        writer.start(started + job["seconds"])
    await finish(writers)
    seconds = time.perf_counter() - started
    for writer in writers:
        writer.close()
    found: Counter[int] = Counter()
    for name in paths:
        found += count_bodies(await read_all(port, name), is_json=is_json)
    expected = Counter({number: len(writer.latencies) for number, writer in enumerate(writers)})
    if found != expected:
        raise BrokenAnswerError(f"{expected.total()} appends were acknowledged, {found.total()} are there")
    latencies = [latency for writer in writers for latency in writer.latencies]
    return {"count": expected.total(), "rate": expected.total() / seconds, **quantiles(latencies)}


async def flood(job: dict[str, Any]) -> dict[str, Any]:
    """Append without looking at what becomes of it: how fast the load generator is."""
    request = build_request("POST", job["path"], body=build_body(0, is_json=False), headers=("content-type: application/octet-stream",))
    writers = await connect(job["port"], job["connections"], lambda _, done: Appender(done, request, b"", 204, numbered=False))
    started = time.perf_counter()
    for writer in writers:
        writer.start(started + job["seconds"])
    await finish(writers)
    count = sum(len(writer.latencies) for writer in writers)
    return {"count": count, "rate": count / (time.perf_counter() - started)}


def build_body(number: int, *, is_json: bool) -> bytes:
    """Return the body that writer `number` appends each time."""
    if is_json:
        return json.dumps({"writer": number, "text": "x" * (BODY - 24 - len(str(number)))}).encode().ljust(BODY)
    return b"%08d" % number + b"x" * (BODY - 8)


def count_bodies(data: bytes, *, is_json: bool) -> Counter[int]:
    """Return how often each writer's body stands in `data`. Raises BrokenAnswerError for anything else."""
    if is_json:
        return Counter(message["writer"] for page in data.splitlines() if page for message in json.loads(page))
    pieces = Counter(data[start : start + BODY] for start in range(0, len(data), BODY))
    for piece in pieces:
        if not piece[:8].isdigit() or piece != build_body(int(piece[:8]), is_json=False):
            raise BrokenAnswerError(f"nobody appended {piece!r}")
    return Counter({int(piece[:8]): found for piece, found in pieces.items()})


async def fill(job: dict[str, Any]) -> dict[str, Any]:
    """Make a stream of `size` bytes, appended in records of at most `record`."""
    port, path, size = job["port"], job["path"], job["size"]
    await ask(port, build_request("PUT", path, headers=("content-type: application/octet-stream",)), 201)
    for start in range(0, size, job["record"]):
        body = bytes(index % 251 for index in range(start, min(start + job["record"], start + 251)))
        body = (body * (job["record"] // len(body) + 1))[: min(job["record"], size - start)]
        await ask(port, build_request("POST", path, body=body, headers=("content-type: application/octet-stream",)), 204)
    return {"count": 1}


async def catch_up(job: dict[str, Any]) -> dict[str, Any]:
    """Read a stream from its beginning to its tail, again and again; each reading's bytes are counted."""
    readers = await connect(job["port"], job["readers"], lambda _, done: CatchUpReader(done, job["path"], job["size"]))
    started = time.perf_counter()
    for reader in readers:
        reader.start(started + job["seconds"])
    await finish(readers)
    seconds = time.perf_counter() - started
    latencies = [latency for reader in readers for latency in reader.latencies]
    return {"count": len(latencies), "rate": len(latencies) / seconds, **quantiles(latencies)}


async def fan_out(job: dict[str, Any]) -> dict[str, Any]:
    """One writer, many readers. `per_second` paces the writer; without it, it writes as fast as it is answered, for `seconds`."""
    port, path, pace = job["port"], job["path"], job.get("per_second")
    await ask(port, build_request("PUT", path, headers=("content-type: text/plain",)), 201)
    kind: type[FanOutReader] = SseReader if job["live"] == "sse" else LongPollReader
    readers = await connect(port, job["readers"], lambda _, done: kind(done, path))
    await until_reading(readers)
    await asyncio.sleep(0.2)
    started, sent = time.perf_counter(), 0
    [writer] = await connect(port, 1, lambda _, done: SingleAppender(done))
    while time.perf_counter() - started < job["seconds"]:
        if pace is not None:
            await asyncio.sleep(max(0.0, started + sent / pace - time.perf_counter()))
        message = build_message(sent)
        await writer.append(build_request("POST", path, body=message, headers=("content-type: text/plain",)))
        sent += 1
    for reader in readers:
        reader.expect(sent)
    await finish(readers)
    seconds = time.perf_counter() - started
    for reader in readers:
        reader.close()
    latencies = [latency for reader in readers for latency in reader.latencies]
    if len(latencies) != sent * len(readers):
        raise BrokenAnswerError(f"{sent} messages to {len(readers)} readers, {len(latencies)} delivered")
    return {"count": len(latencies), "rate": len(latencies) / seconds, "sent": sent, **quantiles(latencies)}


async def until_reading(readers: Sequence[FanOutReader]) -> None:
    """Wait until all are reading live. Raises what the first broken one ran into."""
    async with asyncio.timeout(PATIENCE):
        for reader in readers:
            await asyncio.wait((reader.ready, reader.done), return_when=asyncio.FIRST_COMPLETED)
            if reader.done.done():
                reader.done.result()


class SingleAppender(Connection):
    """Appends one body at a time."""

    def begin(self) -> None:
        self._answered: asyncio.Future[None] | None = None

    async def append(self, request: bytes) -> None:
        """Return when it is acknowledged."""
        self._answered = asyncio.get_running_loop().create_future()
        self.send(request)
        await asyncio.wait((self._answered, self.done), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if not self._answered.done():
            raise BrokenAnswerError("an append was not acknowledged")

    def receive_head(self, status: int, head: bytes) -> None:
        if status != 204:
            raise BrokenAnswerError(f"an append was answered {head!r}")

    def receive_end(self, head: bytes) -> None:
        if self._answered is not None:
            self._answered.set_result(None)


async def idle(job: dict[str, Any]) -> dict[str, Any]:
    """Hold many live connections until a line comes on standard input; then wake them all by one append, and count."""
    port, path = job["port"], job["path"]
    created = await ask(port, build_request("PUT", path, headers=("content-type: text/plain",)), 201)
    readers = await connect(port, job["connections"], lambda _, done: IdleReader(done, path, created.head, live=job["live"]))
    await asyncio.sleep(1.0)
    print("held", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    held = sum(not reader.done.done() for reader in readers)
    if held != len(readers):
        raise BrokenAnswerError(f"{held} of {len(readers)} connections were still open")
    started = time.perf_counter()
    await ask(port, build_request("POST", path, body=build_message(0), headers=("content-type: text/plain",)), 204)
    await finish(readers)
    return {"count": held, "woken": time.perf_counter() - started}


async def streams(job: dict[str, Any]) -> dict[str, Any]:
    """Make many streams with one append each."""
    port, count = job["port"], job["streams"]
    body = build_body(0, is_json=False)

    async def make(first: int) -> None:
        for number in range(first, count, 16):
            await ask(port, build_request("PUT", f"{job['path']}/{number}", body=body, headers=("content-type: text/plain",)), 201)

    await asyncio.gather(*(make(first) for first in range(16)))
    return {"count": count}


def quantiles(latencies: Sequence[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum, in seconds."""
    if len(latencies) < 2:
        raise BrokenAnswerError("fewer than two answers: nothing to measure")
    cuts = statistics.quantiles(latencies, n=100)
    return {"p50": cuts[49], "p99": cuts[98], "max": max(latencies)}


JOBS = {"append": append, "flood": flood, "fill": fill, "catch_up": catch_up, "fan_out": fan_out, "idle": idle, "streams": streams}


async def carry_out(jobs: Mapping[str, Job]) -> None:
    """Do the job that standard input names, and print its result."""
    job = json.loads(sys.stdin.readline())
    began = time.perf_counter()
    result = await jobs[job["kind"]](job)
    used = resource.getrusage(resource.RUSAGE_SELF)
    result["generator_cpu"] = (used.ru_utime + used.ru_stime) / (time.perf_counter() - began)
    print(json.dumps(result), flush=True)


def run_job(jobs: Mapping[str, Job]) -> None:
    """The whole of this process's work."""
    try:
        import uvloop
    except ImportError:  # Windows
        asyncio.run(carry_out(jobs))
    else:
        uvloop.run(carry_out(jobs))


if __name__ == "__main__":
    run_job(JOBS)
