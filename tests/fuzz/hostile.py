"""A malicious server, and what it answers."""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from findings import Finding
from mutator import mutate
from pycrdt import Doc, Text

from ds_sync.protocol.framing import build_frame

OFFSET = b"stream-next-offset: 0000000000000005_0000000000000007\r\n"
ENDLESS = b"\n\nENDLESS\n\n"
"""From here on the answer is repeated until the client hangs up or has had ENDLESS_BYTES."""

ENDLESS_BYTES = 4_000_000

NEXT = b"\n\nNEXT\n\n"
"""Between the answers to one request and the next."""

_DOC: Doc[Any] = Doc(client_id=5)
_DOC.get("text", type=Text).insert(0, "from the server")
FRAME = build_frame(bytes(_DOC.get_update()))

ANSWERS = [
    b"HTTP/1.1 200 OK\r\n" + OFFSET + b"stream-up-to-date: true\r\ncontent-length: %d\r\n\r\n" % len(FRAME) + FRAME,
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nstream-sse-data-encoding: base64\r\n\r\nevent: data\ndata: "
    + base64.b64encode(FRAME)
    + b'\n\nevent: control\ndata: {"streamNextOffset":"7_7","upToDate":true}\n\n',
    b"HTTP/1.1 200 OK\r\n" + OFFSET + b"stream-up-to-date: true\r\ncontent-length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\n" + OFFSET + b"stream-closed: true\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello",
    b"HTTP/1.1 204 No Content\r\n" + OFFSET + b"stream-up-to-date: true\r\nstream-cursor: 7\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + OFFSET + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + OFFSET + b"content-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: data\ndata: hello\n\n"
    b'event: control\ndata: {"streamNextOffset":"5_5","streamCursor":"1","upToDate":true}\n\n',
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nstream-sse-data-encoding: base64\r\n\r\nevent: data\ndata: aGVsbG8=\n\n"
    b'event: control\ndata: {"streamNextOffset":"6_6","streamClosed":true}\n\n',
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: " + ENDLESS + b"x" * 4000,
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + ENDLESS + b": nothing\n\n",
    b"HTTP/1.1 200 OK\r\n" + OFFSET + b"content-length: 99999999999\r\n\r\n" + ENDLESS + b"y" * 4000,
    b"HTTP/1.1 200 OK\r\nx: " + ENDLESS + b"z" * 4000,
    b"HTTP/1.1 201 Created\r\nlocation: /else\r\n" + OFFSET + b"content-length: 0\r\n\r\n",
    b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /v1/stream/else\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nlocation: //example.com/x\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 308 Permanent Redirect\r\nlocation: http://[::1/\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 409 Conflict\r\nproducer-expected-seq: 9\r\nproducer-received-seq: 1\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 409 Conflict\r\nstream-closed: true\r\n" + OFFSET + b"content-length: 0\r\n\r\n",
    b"HTTP/1.1 403 Forbidden\r\nproducer-epoch: 7\r\ncontent-length: 0\r\n\r\n",
    b'HTTP/1.1 410 Gone\r\ncontent-type: application/json\r\ncontent-length: 35\r\n\r\n{"error":{"code":"STREAM_EXPIRED"}} ',
    b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: Wed, 21 Oct 2015 07:28:00 GMT\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nwithout a length",
    b"",
    b"\x00\x00\x06\x04\x00\x00\x00\x00\x00",
]

WORDS = [
    *(
        b"\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"event: control\n",
        b"data: {",
        b'"streamNextOffset":"',
        b"content-length: ",
        OFFSET,
    ),
    *(b"location: ", b"retry-after: 99999999999999999999\r\n", b"content-encoding: deflate\r\n", b"transfer-encoding: chunked\r\n"),
    *(
        b"HTTP/1.1 999 \r\n",
        b"HTTP/1.1 199 \r\n",
        b"content-type: \r\n",
        b"stream-next-offset: -1\r\n",
        b"stream-next-offset: now\r\n",
        ENDLESS,
    ),
]


def make_answers(rng: random.Random) -> bytes:
    """Return one to four answers, most of them damaged."""
    answers = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        answer = rng.choice(ANSWERS)
        if rng.random() < 0.2:
            answer += rng.choice(ANSWERS)
        answers.append(mutate(rng, answer, WORDS) if rng.random() < 0.7 else answer)
    return NEXT.join(answers)


@asynccontextmanager
async def serve(answers: bytes) -> AsyncIterator[str]:
    """Serve, each request the next of the answers, over and over; yield the URL. Raises Finding if the block leaves tasks behind."""
    serving: set[asyncio.Task[None]] = set()
    turns = itertools.cycle(answers.split(NEXT))

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("this is a task")
        serving.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await _answer(writer, next(turns))
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the client had enough, or we
        finally:
            writer.close()

    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(repr(context)))
    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)
    left: set[asyncio.Task[Any] | None] = set()
    for _ in range(50):  # generators that were given up are closed by tasks of asyncio's
        await asyncio.sleep(0.002)
        left = asyncio.all_tasks() - {asyncio.current_task()} - serving
        if not left:
            break
    if left or complaints:
        raise Finding(f"left behind: {left}; complaints: {complaints}")


async def _answer(writer: asyncio.StreamWriter, answer: bytes) -> None:
    first, mark, rest = answer.partition(ENDLESS)
    writer.write(first + rest)
    await writer.drain()
    many, sent = rest * (64_000 // max(1, len(rest)) + 1), 0
    while mark and rest and sent < ENDLESS_BYTES:
        writer.write(many)
        await writer.drain()
        sent += len(many)
