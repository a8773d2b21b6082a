"""Streams over HTTP: `/v1/stream/<path>` (PROTOCOL.md sections 5 to 8). Rules are in ds_sync.protocol.decisions."""

from __future__ import annotations

import binascii
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ds_sync.environment import Environment
from ds_sync.exceptions import GoneError, InvalidRequestError, NotFoundError, StaleEpochError, StoreError
from ds_sync.protocol import headers as names
from ds_sync.protocol.caching import NO_STORE, build_etag
from ds_sync.protocol.cursor import build_cursor, move_cursor
from ds_sync.protocol.decisions import (
    AppendOutcome,
    AppendRequest,
    CreateRequest,
    decide_append,
)
from ds_sync.protocol.endings import decide_renew
from ds_sync.protocol.expiry import parse_expiry
from ds_sync.protocol.forks import ForkRequest, parse_fork_offset, parse_sub_offset
from ds_sync.protocol.history import START, Place, spell_place
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.protocol.retention import KeepUpdates
from ds_sync.protocol.sse import EVENT_CONTROL, EVENT_DATA, build_event
from ds_sync.protocol.state import FRAMED_SUFFIX, Decision, StreamState, StreamView, is_expired, require_stream
from ds_sync.server.answers import build_appended, build_page, build_silence, build_state_fields, build_tail, join_records
from ds_sync.server.documents.read_positions import ReadPositions
from ds_sync.server.engines.base import PromptEngine, Run, StorageEngine
from ds_sync.server.live import Reader, SharedPages, Waiters, find_wire
from ds_sync.server.lives import Lives
from ds_sync.server.requests import (
    DEFAULT_CONTENT_TYPE,
    ClientGoneError,
    ReadRequest,
    find_header,
    parse_append,
    parse_headers,
    parse_read,
    parse_source,
    read_body,
)
from ds_sync.server.responses import COMMON_HEADERS, HeaderList, Receive, Scope, Send, answer
from ds_sync.server.retention import Retention
from ds_sync.server.settled import CACHE_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may take."""

    max_body: int = 64 * 1024 * 1024
    """Bytes of a request's body."""
    page_bytes: int = 1024 * 1024
    """About how many bytes of data an answer holds; a single larger record is answered whole."""
    long_poll_timeout: float = 30.0
    """Seconds a long-poll waits."""
    sse_seconds: float = 60.0
    """Seconds after which an SSE answer ends, so that caches and balancers can move it; clients come back at once."""
    retain_bytes: int | None = None
    """How many of a stream's last bytes are kept at least; None keeps everything."""
    max_streams: int | None = None
    """How many living streams clients may make; None: any number."""
    request_timeout: float | None = None
    """Seconds that a body in HTTP/2 may fall behind; None: any number."""
    sse_heartbeat: float = 15.0
    """Seconds of silence after which an SSE answer repeats its control event."""
    cache_bytes: int = CACHE_BYTES
    """Of pages read from the file, how many are kept in memory."""
    keep_updates: KeepUpdates | None = None
    """How much of a document's updates is kept although a snapshot has them; None keeps everything."""


class _News(NamedTuple):
    """One commit, as an SSE answer tells it."""

    state: StreamState
    """Good as long as this is the stream's."""
    start: Place
    asked: str
    """The cursor given before."""
    end: Place
    cursor: str
    event: bytes


class Streams:
    """The requests on streams, over one engine."""

    def __init__(
        self, engine: StorageEngine, environment: Environment, limits: Limits, waiters: Waiters, *, public_url: str | None = None
    ) -> None:
        self._engine = engine
        self._public_url = None if public_url is None else public_url.rstrip("/")
        self._prompt = engine if isinstance(engine, PromptEngine) else None
        self._environment = environment
        self._limits = limits
        self._waiters = waiters
        self.pages = SharedPages()
        """What was encoded last."""
        self.reads = ReadPositions(environment.monotonic)
        """Of streams of updates."""
        self._news: dict[str, _News] = {}
        """By path: what followers were told last."""
        self._lives = Lives(engine, environment, limits.max_streams)
        keep = limits.retain_bytes
        self._retention = None if keep is None else Retention(engine, environment, keep, limits.page_bytes)

    async def put(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """PUT: create (section 5.1)."""
        headers = parse_headers(scope)
        get = headers.get
        expiry = parse_expiry(get(names.STREAM_TTL), get(names.STREAM_EXPIRES_AT))
        closed = names.parse_flag(get(names.STREAM_CLOSED))
        fresh = self._draw_incarnation()
        proposed = names.parse_incarnation(get(names.STREAM_INCARNATION))
        forked_from, sub_offset = get(names.STREAM_FORKED_FROM), parse_sub_offset(get(names.STREAM_FORK_SUB_OFFSET))
        if forked_from is not None:
            source, place = parse_source(forked_from), parse_fork_offset(get(names.STREAM_FORK_OFFSET))
            body = await read_body(receive, headers, self._limits.max_body)
            kind = _content_type(get("content-type"))
            outcome = await self._lives.fork(
                ForkRequest(path, source, fresh, place, sub_offset, kind, proposed, body, closed=closed, expiry=expiry)
            )
        elif names.STREAM_FORK_OFFSET in headers or names.STREAM_FORK_SUB_OFFSET in headers:
            raise InvalidRequestError("Stream-Fork-Offset and Stream-Fork-Sub-Offset need a Stream-Forked-From")
        else:
            body = await read_body(receive, headers, self._limits.max_body)
            kind = _content_type(get("content-type")) or DEFAULT_CONTENT_TYPE
            outcome = await self._lives.create(CreateRequest(path, kind, fresh, proposed, body, closed=closed, expiry=expiry))
        fields = build_state_fields(outcome.state)
        if outcome.created:
            base = self._public_url or f"{scope.get('scheme', 'http')}://{headers.get('host', 'localhost')}"
            fields.append((b"location", base.encode("latin-1") + raw_path(scope)))
        await answer(send, 201 if outcome.created else 200, fields)

    async def post(self, path: str, scope: Scope, receive: Receive, send: Send, *, document: bool = False) -> None:
        """POST: append, close (sections 5.2 and 5.3).

        `document`: the type of what is appended is given, a producer that began again is rescued, and nobody can close it. The official
        Yjs provider asks for that whenever it disconnects, and may not be refused: it is answered as if it had been done, with no
        effect on its numbers. The first update makes the document.
        """
        headers = parse_headers(scope)
        asked = parse_append(headers, document=document)
        closing = names.parse_flag(headers.get(names.STREAM_CLOSED))
        body = await read_body(receive, headers, self._limits.max_body)
        if document and closing and not body:
            state = await self._require(path, await self._engine.read(path, None, 0))
            await answer(send, 204, [(b"stream-next-offset", state.tail.encode()), (b"stream-incarnation", state.incarnation.encode())])
            return
        request, producer = AppendRequest(path, body, *asked), asked.producer
        try:
            outcome = await self._append(request, document=document)
        except StaleEpochError as error:
            if producer is None or not (document and closing) or error.current_epoch != producer.epoch:
                raise
            # These are the last words of a producer that began again. It is not there to claim an epoch.
            outcome = await self._append(replace(request, producer=None), document=document)
        await answer(send, *build_appended(outcome, numbered=producer is not None and bool(body)))
        if self._retention is not None:
            await self._retention.tend(path, outcome.state)

    async def _append(self, request: AppendRequest, *, document: bool) -> AppendOutcome:
        now = self._environment.now()

        def decide(views: Sequence[StreamView]) -> Decision[AppendOutcome]:
            return decide_append(views[0], request, now)

        producer = None if request.producer is None else request.producer.id
        try:
            return await self._engine.transact((request.path,), decide, producer=producer)
        except NotFoundError as error:
            if not document or not request.path.endswith(FRAMED_SUFFIX) or error.incarnation is not None:
                raise
        return await self._lives.append_first(request, self._draw_incarnation())

    def _draw_incarnation(self) -> str:
        return f"{self._environment.random.getrandbits(128):032x}"

    async def delete(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """DELETE (section 5.4 of the protocol's operations)."""
        ended = await self._lives.delete(path)
        await answer(send, 204, [(b"stream-incarnation", ended.incarnation.encode())])

    async def head(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """HEAD: what the stream is now; never cached."""
        state = await self._require(path, await self._engine.read(path, None, 0))
        fields = build_state_fields(state)
        fields.append((b"cache-control", NO_STORE.encode()))
        fields.append((b"etag", build_etag(state.incarnation, BEGINNING, state.tail, closed=state.closed).encode()))
        await answer(send, 200, fields)

    async def get(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """GET: catch-up, long-poll, SSE (sections 5.5 to 5.7)."""
        asked = parse_read(scope["query_string"])
        after = asked.after
        while True:
            try:
                await self._answer_read(path, asked, after, scope, receive, send)
                return
            except GoneError as error:
                # The beginning is the beginning of what is left; any other offset before that is gone (nothing was sent yet). A document
                # is not whole without what was dropped: a snapshot has that.
                if asked.offset != BEGINNING or error.code != "OFFSET_EXPIRED" or path.endswith(FRAMED_SUFFIX):
                    raise
            state = (await self._engine.read(path, None, 0)).state
            after = START if state is None or state.earliest is None else state.earliest

    async def _answer_read(self, path: str, asked: ReadRequest, after: Place | None, scope: Scope, receive: Receive, send: Send) -> None:
        if after is not None:
            self._note_read(path, after)
        if asked.live == names.LIVE_SSE:
            await self._follow(path, after, asked.cursor, scope, receive, send)
        elif asked.live == names.LIVE_LONG_POLL:
            await self._long_poll(path, asked.offset, after, asked.cursor, scope, receive, send)
        else:
            run = await self._engine.read(path, after, self._limits.page_bytes)
            state = await self._require(path, run, renew=True)
            if after is None:
                await answer(send, *build_tail(state))
            else:
                await self._answer_page(run, asked.offset, None, scope, send)

    def _note_read(self, path: str, after: Place) -> None:
        if path.endswith(FRAMED_SUFFIX):
            self.reads.note(path, after.position)

    async def _require(self, path: str, run: Run, *, renew: bool = False) -> StreamState:
        """Return the living stream's state; a read renews its time to live. Raises NotFoundError."""
        state = run.state
        if state is None or state.deadline is None:
            return require_stream(state, 0.0)
        now = self._environment.now()
        if not state.listed:
            return require_stream(state, now)
        if is_expired(state, now):
            await self._lives.expire(path)
        elif renew:
            await self._renew(path, state)
        return require_stream(state, now)

    async def _renew(self, path: str, state: StreamState) -> None:
        if state.ttl is not None:
            now = self._environment.now()
            await self._engine.transact((path,), lambda views: decide_renew(views[0], now))

    async def _answer_page(self, run: Run, offset: str, cursor: str | None, scope: Scope, send: Send) -> None:
        if_none_match = find_header(scope, b"if-none-match")
        await answer(send, *build_page(run, offset, cursor, if_none_match, self.pages, self._environment.now()))

    async def _long_poll(
        self, path: str, offset: str, after: Place | None, cursor: str | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        deadline = self._environment.monotonic() + self._limits.long_poll_timeout
        reader = Reader(receive, find_wire(scope))
        with self._waiters.waiting(path, reader):
            try:
                while True:
                    reader.changed = False
                    run = await self._engine.read(path, after, self._limits.page_bytes)
                    state = await self._require(path, run, renew=True)
                    if after is None:
                        after = run.end
                    left = deadline - self._environment.monotonic()
                    if run.records or state.closed or left <= 0 or self._waiters.stopping:
                        break
                    await reader.wait(min(left, _half_life(state)))
                    if reader.gone:
                        raise ClientGoneError
            finally:
                await reader.stop()
        moved = build_cursor(cursor, self._environment.now(), self._environment.random.randrange)
        if run.records:
            await self._answer_page(run, offset, moved, scope, send)
            return
        await answer(send, *build_silence(run, moved))

    async def _follow(self, path: str, after: Place | None, asked: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        now = self._environment.monotonic
        run = await self._engine.read(path, after, self._limits.page_bytes)
        state = await self._require(path, run, renew=True)
        after = run.end if after is None else after
        base64 = not (state.is_json or names.media_type(state.content_type).startswith("text/"))
        fields: HeaderList = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            (b"stream-incarnation", state.incarnation.encode()),
        ]
        if base64:
            fields.append((b"stream-sse-data-encoding", b"base64"))
        await send({"type": "http.response.start", "status": 200, "headers": COMMON_HEADERS + fields})
        cursor = build_cursor(asked, self._environment.now(), self._environment.random.randrange)
        deadline, told = now() + self._limits.sse_seconds, False
        wire = find_wire(scope)
        reader = Reader(receive, wire)

        def take() -> bool:
            nonlocal after, cursor
            if wire is None or after is None or (news := self._find_news(path, state.incarnation, after, cursor, base64=base64)) is None:
                return False
            if not wire.push(news.event):
                return False
            after, cursor = news.end, news.cursor
            self._note_read(path, after)
            return True

        reader.take = take
        with self._waiters.waiting(path, reader):
            try:
                while not reader.gone:
                    reader.changed = False
                    self._note_read(path, after)
                    try:
                        run = await self._engine.read(path, after, self._limits.page_bytes)
                    except (GoneError, StoreError):
                        break  # the client asks again, and is told with a status
                    life = run.state
                    if (
                        life is None
                        or not life.listed
                        or life.incarnation != state.incarnation
                        or is_expired(life, self._environment.now())
                    ):
                        break
                    ended = life.closed and run.up_to_date
                    if run.records or ended or not told:
                        cursor = move_cursor(cursor, self._environment.now())
                        event = self._build_events(run, life, after, cursor, base64=base64)
                        await send({"type": "http.response.body", "body": event, "more_body": True})
                        after, told = run.end, run.up_to_date
                    left = deadline - now()
                    if ended or left <= 0 or self._waiters.stopping:
                        break
                    if told:
                        await self._renew(path, life)
                        told = await reader.wait(min(left, self._limits.sse_heartbeat, _half_life(life)))
            finally:
                await reader.stop()
        if not self._waiters.count(path):
            self._news.pop(path, None)
        if not reader.gone:
            await send({"type": "http.response.body", "body": b""})

    def _find_news(self, path: str, incarnation: str, after: Place, cursor: str, *, base64: bool) -> _News | None:
        """Return what a commit brought to all who followed up to `after`, encoded once; None if it is more than another page."""
        engine = self._prompt
        life = None if engine is None else engine.state_of(path)
        if engine is None or life is None or life.incarnation != incarnation or not life.listed or life.closed or life.deadline is not None:
            return None
        news = self._news.get(path)
        if news is not None and news.state is life and news.start == after and news.asked == cursor:
            return news
        try:
            run = engine.read_now(path, after, self._limits.page_bytes)
        except (GoneError, StoreError):
            return None  # whoever follows meets it again, and ends
        if run is None or not run.records or not run.up_to_date:
            return None
        moved = move_cursor(cursor, self._environment.now())
        event = self._build_events(run, life, after, moved, base64=base64)
        news = self._news[path] = _News(life, after, cursor, run.end, moved, event)
        return news

    def _build_events(self, run: Run, state: StreamState, start: Place, cursor: str, *, base64: bool) -> bytes:
        control: dict[str, object] = {names.CONTROL_NEXT_OFFSET: run.next_offset}
        if state.closed and run.up_to_date:
            control[names.CONTROL_CLOSED] = True
        else:
            control[names.CONTROL_CURSOR] = cursor
            if run.up_to_date:
                control[names.CONTROL_UP_TO_DATE] = True
        event = build_event(EVENT_CONTROL, json.dumps(control, separators=(",", ":")))
        if run.records:
            key = (state.incarnation, spell_place(start), run.next_offset, "sse")
            event = self.pages.page(key, lambda: _build_data_event(join_records(state, run.records), base64=base64)) + event
        return event


def raw_path(scope: Scope) -> bytes:
    """Return the request's path as it came, still percent-encoded."""
    raw: bytes | None = scope.get("raw_path")
    return (raw if raw is not None else scope["path"].encode()).partition(b"?")[0]


def _content_type(text: str | None) -> str | None:
    if text is None or not text.strip():
        return None
    kind, slash, detail = names.media_type(text).partition("/")
    # PROTOCOL.md is silent on malformed types; the suite wants the default instead of a refusal.
    return text if kind and slash and detail and " " not in kind + detail else DEFAULT_CONTENT_TYPE


def _half_life(state: StreamState) -> float:
    """Return after how many seconds a waiting reader has to renew the stream's time to live."""
    return math.inf if state.ttl is None else state.ttl / 2


def _build_data_event(data: bytes, *, base64: bool) -> bytes:
    # A text stream may hold bytes that are no UTF-8, or end inside a character; an event can't carry them.
    text = binascii.b2a_base64(data, newline=False).decode() if base64 else data.decode("utf-8", "replace")
    return build_event(EVENT_DATA, text)
