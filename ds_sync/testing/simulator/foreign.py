"""A plain Durable Streams server that is not ours: what replicas meet elsewhere. An ASGI application over one small file.

It promises what PROTOCOL.md demands: an append is stored whole or not at all and before it is answered, bytes come back in their order,
and an offset once given is a place in the stream. It does not promise what our server does beyond that:

- Offsets are plain counts of bytes. A stream that was made anew, or set back to an older copy, is read on from the middle of its bytes
  as soon as it is longer than the reader's offset. Only an offset beyond the end shows.
- No `Stream-Incarnation`, neither told nor asked for: who writes to a stream that was made anew is not refused.
- Pages end after so many bytes, inside a frame as well, in all three ways of reading.

`Habits` says what else it does, some of it against the protocol.
"""

from __future__ import annotations

import json
from binascii import b2a_base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal
from zlib import crc32

from ds_sync.environment import Environment
from ds_sync.exceptions import InvalidRequestError, NotFoundError, ResponseError, SequenceGapError, StreamClosedError
from ds_sync.protocol import headers as h
from ds_sync.protocol.framing import parse_frames
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.protocol.sse import EVENT_CONTROL, EVENT_DATA, build_event
from ds_sync.server.live import Reader, Waiters
from ds_sync.server.requests import ClientGoneError, parse_headers, parse_query, read_body
from ds_sync.server.responses import HeaderList, Receive, Scope, Send, answer, refuse
from ds_sync.testing.simulator.ledger import Ledger

Producers = Literal["numbers", "repetitions", "mute", "swallow"]
"""What it makes of producer numbers. numbers: PROTOCOL.md section 5.2.1. repetitions: it knows those, and takes every other number.
mute: as numbers, but it answers 204 to what is new as well. swallow: it answers 204 to every append, and stores nothing."""

RunInThread = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Habits:
    """What kind of server it is. Sizes are bytes, times seconds."""

    page_bytes: int = 64
    """Every page has so many, but the last."""
    producers: Producers = "numbers"
    sse: bool = True
    long_poll: bool = True
    """Without one or the other the server answers 400 to it."""
    closes_at: int | None = None
    """It closes a stream that has so many."""
    max_body: int = 64 * 1024 * 1024


@dataclass(slots=True)
class Stream:
    """A stream, as it is kept."""

    content_type: str
    data: bytes = b""
    closed: bool = False
    producers: dict[str, int] = field(default_factory=dict)
    """The last number of each producer."""


def spell_offset(path: str, position: int) -> str:
    """Return the offset of the place after so many bytes of the stream: offsets of different streams differ, those of its lives do not."""
    return f"{crc32(path.encode()):010}_{position:012}"


class ForeignLedger(Ledger):
    """What stands before an offset in the stream as it is now: that no other stream stood there before is not proved by anything."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: Mapping[str, Stream] = {}

    def chain(self, offset: str) -> list[str]:
        return []

    def frames_between(self, first: str, last: str) -> list[bytes]:
        return self.frames(last)[len(self.frames(first)) :]

    def frames(self, offset: str) -> list[bytes]:
        name, _, position = offset.partition("_")
        for path, stream in self.streams.items():
            if spell_offset(path, 0).startswith(f"{name}_"):
                return list(parse_frames(stream.data[: int(position)]).payloads)
        return []


class ForeignApp:
    """The application. Every change is in the file before it is answered."""

    def __init__(self, path: Path, habits: Habits, environment: Environment, run_in_thread: RunInThread, random: Random) -> None:
        self.habits = habits
        self.streams = _load(path)
        self._path = path
        self._environment = environment
        self._run_in_thread = run_in_thread
        self._random = random
        self._waiters = Waiters()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path, headers = scope["path"], parse_headers(scope)
        query = {name: values[-1] for name, values in parse_query(scope["query_string"]).items()}
        try:
            body = await read_body(receive, headers, self.habits.max_body) if scope["method"] in ("PUT", "POST") else b""
            if scope["method"] == "PUT":
                created = await self._run_in_thread(self._create, path, headers.get("content-type", ""))
                await answer(send, 201 if created else 200, self._say(path))
            elif scope["method"] == "POST":
                fresh = await self._run_in_thread(self._append, path, headers, body)
                await answer(send, 200 if fresh else 204, self._say(path))
            elif scope["method"] == "DELETE":
                await self._run_in_thread(self._delete, path)
                await answer(send, 204, [])
            elif scope["method"] == "HEAD":
                await answer(send, 200, self._say(path))
            else:
                await self._read(path, query, receive, send)
        except ClientGoneError:
            return
        except ResponseError as error:
            await refuse(send, error)

    # Writing

    def _create(self, path: str, content_type: str) -> bool:
        if path in self.streams:
            return False
        self.streams[path] = Stream(content_type)
        self._save(path)
        return True

    def _append(self, path: str, headers: Mapping[str, str], body: bytes) -> bool:
        stream, name, producers = self._find(path), headers.get(h.PRODUCER_ID), self.habits.producers
        if producers == "swallow":
            return False
        if stream.closed:
            raise StreamClosedError("the stream is closed", tail=spell_offset(path, len(stream.data)))
        if name is not None:
            seq, last = int(headers[h.PRODUCER_SEQ]), stream.producers.get(name, -1)
            if seq <= last:
                return False
            if seq > last + 1 and producers != "repetitions":
                raise SequenceGapError("appends are missing before this one", expected=last + 1, received=seq)
            stream.producers[name] = seq
        stream.data += body
        stream.closed = self.habits.closes_at is not None and len(stream.data) >= self.habits.closes_at
        self._save(path)
        return name is not None and producers != "mute"

    def _delete(self, path: str) -> None:
        self._find(path)
        del self.streams[path]
        self._save(path)

    def _find(self, path: str) -> Stream:
        if path not in self.streams:
            raise NotFoundError("there is no such stream")
        return self.streams[path]

    def _save(self, path: str) -> None:
        kept = {name: [stream.content_type, stream.data.hex(), stream.closed, stream.producers] for name, stream in self.streams.items()}
        self._path.write_text(json.dumps(kept))
        self._waiters.wake((path,))

    # Reading

    def _say(self, path: str, position: int | None = None, *, live: bool = False) -> HeaderList:
        """Return the headers of an answer that ends at `position`, by default the end."""
        stream = self._find(path)
        end = len(stream.data) if position is None else position
        headers: HeaderList = [(b"content-type", stream.content_type.encode()), (b"stream-next-offset", spell_offset(path, end).encode())]
        if position is not None and end >= len(stream.data):
            headers.append((b"stream-up-to-date", b"true"))
        if live:
            headers.append((b"stream-cursor", b"%d" % self._random.randrange(1000)))
        if stream.closed and end == len(stream.data):
            headers.append((b"stream-closed", b"true"))
        return headers

    async def _read(self, path: str, query: Mapping[str, str], receive: Receive, send: Send) -> None:
        offset, live, stream = query.get(h.QUERY_OFFSET, BEGINNING), query.get(h.QUERY_LIVE), self._find(path)
        at = 0 if offset == BEGINNING else int(offset.partition("_")[2])
        if at > len(stream.data):
            at = len(stream.data)  # as the reference server does: an offset beyond the end is answered with the end
        if live == h.LIVE_SSE and self.habits.sse:
            await self._follow(path, at, receive, send)
        elif live is None or (live == h.LIVE_LONG_POLL and self.habits.long_poll):
            deadline = self._environment.monotonic() + 20.0
            reader = Reader(receive)
            with self._waiters.waiting(path, reader):
                while live and not reader.gone and at == len(self._find(path).data) and not self._find(path).closed:
                    reader.changed = False
                    if not await reader.wait(deadline - self._environment.monotonic()):
                        break
            await reader.stop()
            data = self._find(path).data[at : at + self.habits.page_bytes]
            await answer(send, 200, self._say(path, at + len(data), live=live is not None), data)
        else:
            raise InvalidRequestError("this server does not offer that")

    async def _follow(self, path: str, at: int, receive: Receive, send: Send) -> None:
        fields = [(b"content-type", b"text/event-stream"), (b"stream-sse-data-encoding", b"base64")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        reader, deadline, told = Reader(receive), self._environment.monotonic() + 60.0, False
        with self._waiters.waiting(path, reader):
            while not reader.gone and self._environment.monotonic() < deadline:
                reader.changed = False
                stream = self.streams.get(path)
                if stream is None or at > len(stream.data):
                    break
                data = stream.data[at : at + self.habits.page_bytes]
                if data or not told:
                    at += len(data)
                    told = at == len(stream.data)
                    control = {h.CONTROL_NEXT_OFFSET: spell_offset(path, at), h.CONTROL_CURSOR: "7", h.CONTROL_UP_TO_DATE: told}
                    if told and stream.closed:
                        control[h.CONTROL_CLOSED] = True
                    event = build_event(EVENT_DATA, b2a_base64(data, newline=False).decode()) if data else b""
                    event += build_event(EVENT_CONTROL, json.dumps(control))
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                if told:
                    if stream.closed:
                        break
                    told = await reader.wait(min(15.0, deadline - self._environment.monotonic()))
        await reader.stop()
        await send({"type": "http.response.body", "body": b""})


def _load(path: Path) -> dict[str, Stream]:
    if not path.exists():
        path.write_text("{}")
    kept = json.loads(path.read_text())
    return {name: Stream(kind, bytes.fromhex(data), closed, producers) for name, (kind, data, closed, producers) in kept.items()}


def draw_habits(random: Random, max_body: int) -> Habits:
    """Return the habits of the server of one run."""
    live = random.choice(((True, True), (True, True), (True, False), (False, True)))
    return Habits(
        page_bytes=random.choice((7, 64, 1024 * 1024)),
        producers=random.choice(("numbers", "numbers", "repetitions", "mute", "swallow")),
        sse=live[0],
        long_poll=live[1],
        closes_at=random.choice((None, None, None, 500)),
        max_body=max_body,
    )
