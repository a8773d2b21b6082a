"""The express lane: plain reads, long-polls and appends of streams, answered without a task, a scope and messages between them.

What is asked for in an unusual way, and SSE, go through the ASGI application. Both read requests and build answers
with the same functions; tests/server/test_express.py holds the answers of both side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds_sync.exceptions import InvalidRequestError
from ds_sync.protocol import headers as names
from ds_sync.protocol.decisions import AppendOutcome, AppendRequest, decide_append
from ds_sync.protocol.state import FRAMED_SUFFIX, Decision, StreamState, StreamView, require_stream
from ds_sync.server.answers import build_appended, build_page, build_tail
from ds_sync.server.documents.routes import PRESENCE_MARK
from ds_sync.server.engines.base import Run
from ds_sync.server.front.exchange import PlainRequest, PromptExchange
from ds_sync.server.front.head import CHUNKED, Head
from ds_sync.server.lane import Lane
from ds_sync.server.operation.listing import LIST_PATH
from ds_sync.server.polls import PlainPoll
from ds_sync.server.requests import (
    RESERVED,
    STREAM_MOUNT,
    AppendFields,
    ReadRequest,
    parse_append,
    parse_headers,
    parse_read,
    parse_stream_path,
)
from ds_sync.server.responses import build_failure, encode_head
from ds_sync.server.settled import Found, PageKey, Prepared, key_of


class ExpressLane:
    """Finds the requests it can answer."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane

    def plan(self, head: Head) -> PlainRequest | None:
        """Return how to serve requests with this head; None: the ordinary way."""
        limits = self.lane.limits
        if head.length == CHUNKED or head.length > limits.max_body or head.expects_continue or not head.minor:
            return None
        if not head.raw_path.startswith(STREAM_MOUNT):
            return None
        scope = {"headers": head.headers}
        try:
            path = parse_stream_path(head.raw_path[len(STREAM_MOUNT) :])
            if path == LIST_PATH or f"{path}/".startswith(RESERVED) or PRESENCE_MARK in path:
                return None
            if head.method == "GET":
                asked = parse_read(head.query)
                if path.endswith(FRAMED_SUFFIX):
                    return None  # a document's readers are remembered
                if_none_match = parse_headers(scope).get("if-none-match")
                if not asked.live:
                    return PlainRead(self.lane, head, path, asked, if_none_match)
                if asked.live == names.LIVE_LONG_POLL and asked.after is not None and not head.length:
                    return PlainPoll(self.lane, head, path, asked, if_none_match)
                return None
            if head.method == "POST" and limits.retain_bytes is None:
                return PlainAppend(self.lane, head, path, parse_append(parse_headers(scope)))
        except InvalidRequestError:
            return None  # the ordinary way refuses it
        return None


class PlainRead:
    """Catch-up reads from one offset."""

    __slots__ = ("_asked", "_head", "_if_none_match", "_key", "_lane", "_path")

    def __init__(self, lane: Lane, head: Head, path: str, asked: ReadRequest, if_none_match: str | None) -> None:
        self._lane = lane
        self._head = head
        self._path = path
        self._asked = asked
        self._if_none_match = if_none_match
        self._key = path, head.query, if_none_match

    def serve(self, body: bytes, exchange: PromptExchange) -> bool:
        """Answer what memory holds; have it read from the file, where it is settled."""
        lane = self._lane
        began = lane.environment.monotonic()
        state = lane.engine.state_of(self._path)
        held = lane.held.get(self._key)
        if held is not None and held[0] is state:
            self._reply(exchange, held[1:], began)
            return True
        key = key_of(state, self._head.query, self._if_none_match)
        page = None if key is None else lane.settled.find(key)
        if page is not None:
            self._reply(exchange, page, began)
            return True
        try:
            run = lane.engine.read_now(self._path, self._asked.after, lane.limits.page_bytes)
            if run is None:
                return key is not None and not self._head.length and self._fetch(key, exchange, began)
            found = self._build(run)
        except Exception:
            return False  # a refusal, or a fault: the ordinary way meets it again, and answers
        if found is None:
            return False
        lane.hold(self._key, *found)
        self._reply(exchange, found[1:], began)
        return True

    def _build(self, run: Run) -> tuple[StreamState, int, bytes, bytes] | None:
        if run.state is None or run.state.deadline is not None:
            return None  # renewed by being read
        state = require_stream(run.state, 0.0)
        if self._asked.after is None:
            status, fields, page = build_tail(state)
        else:
            status, fields, page = build_page(run, self._asked.offset, None, self._if_none_match, self._lane.pages, 0.0)
        return state, status, encode_head(status, fields, page), page

    def _fetch(self, key: PageKey, exchange: PromptExchange, began: float) -> bool:
        """Answer when the file has been read; if it can't be, the application says why."""
        lane = self._lane

        async def read() -> Found:
            run = await lane.engine.read(self._path, self._asked.after, lane.limits.page_bytes)
            built = self._build(run)
            if built is None or key_of(run.state, self._head.query, self._if_none_match) != key:
                raise LookupError(self._path)  # made anew, trimmed, or given a time to live
            if run.up_to_date:
                lane.hold(self._key, *built)
            return Found(built[1:], settled=not run.up_to_date)

        def done(page: Prepared | None) -> None:
            lane.under_way.leave()
            if page is None:
                exchange.pass_on()
            else:
                self._reply(exchange, page, began)

        lane.under_way.enter()
        lane.settled.fetch(key, read, done)
        return True

    def _reply(self, exchange: PromptExchange, answer: Prepared, began: float) -> None:
        status, head, page = answer
        exchange.reply(head, page)
        self._lane.note(self._head, exchange, status, len(page), began)


class PlainAppend:
    """Appends and closings with one head."""

    __slots__ = ("_fields", "_head", "_lane", "_path")

    def __init__(self, lane: Lane, head: Head, path: str, fields: AppendFields) -> None:
        self._lane = lane
        self._head = head
        self._path = path
        self._fields = fields

    def serve(self, body: bytes, exchange: PromptExchange) -> bool:
        """Decide, and answer when it is durable."""
        lane, path, fields = self._lane, self._path, self._fields
        request = AppendRequest(path, body, *fields)
        began, now = lane.environment.monotonic(), lane.environment.now()

        def decide(views: Sequence[StreamView]) -> Decision[AppendOutcome]:
            return decide_append(views[0], request, now)

        def done(outcome: AppendOutcome | None, error: Exception | None) -> None:
            lane.under_way.leave()
            if outcome is not None and error is None:
                status, headers, text = build_appended(outcome, numbered=fields.producer is not None and bool(body))
            else:
                status, headers, text = build_failure(error or AssertionError("no outcome"), "POST", self._head.path)
            exchange.reply(encode_head(status, headers, text), text)
            lane.note(self._head, exchange, status, len(text), began)

        lane.under_way.enter()
        lane.engine.submit(path, decide, done)
        return True
