"""Long-polls in the express lane: who waits is a small object, not a task; one pass after a commit answers all (PROTOCOL.md section 5.6).

Whatever is not plain waiting and an answer from memory is passed on to the application: as if it had been asked at that moment.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ds_sync.protocol.cursor import build_cursor
from ds_sync.protocol.state import require_stream
from ds_sync.server.answers import build_page, build_silence
from ds_sync.server.front.exchange import PromptExchange
from ds_sync.server.front.head import Head
from ds_sync.server.lane import Lane
from ds_sync.server.requests import ReadRequest
from ds_sync.server.responses import encode_head

_SOME_CURSOR: Final = "@"
_CURSOR_LINE: Final = b"\r\nstream-cursor: @\r\n"
"""In an answer that is kept for all readers of one place: each has a cursor of its own."""


class PlainPoll:
    """Long-polls from one offset."""

    __slots__ = ("_asked", "_if_none_match", "_key", "_lane", "head", "path")

    def __init__(self, lane: Lane, head: Head, path: str, asked: ReadRequest, if_none_match: str | None) -> None:
        self._lane = lane
        self._asked = asked
        self._if_none_match = if_none_match
        self._key = path, b"long-poll " + asked.offset.encode(), if_none_match
        self.head = head
        self.path = path

    def serve(self, body: bytes, exchange: PromptExchange) -> bool:
        """Answer what memory holds, or wait for it."""
        lane = self._lane
        began = lane.environment.monotonic()
        try:
            found = self.find(final=lane.waiters.stopping)
        except Exception:
            return False  # a refusal, a fault, or a page in a file: the ordinary way meets it again, and answers
        if found is None:
            WaitingPoll(lane, self, exchange, began)
            return True
        status, head, page = found
        exchange.reply(head, page)
        lane.note(self.head, exchange, status, len(page), began, live=True)
        return True

    def find(self, *, final: bool) -> tuple[int, bytes, bytes] | None:
        """Return the answer (status, head, body); None if there is no news and it is not the `final` look.

        Raises what reading raises, and LookupError if memory does not hold it.
        """
        lane = self._lane
        state = lane.engine.state_of(self.path)
        held = lane.held.get(self._key)
        if held is not None and held[0] is state:
            _, status, head, page = held
        else:
            run = lane.engine.read_now(self.path, self._asked.after, lane.limits.page_bytes)
            if run is None or run.state is None or run.state.deadline is not None:
                raise LookupError(self.path)  # in a file, or renewed by being waited for
            state = require_stream(run.state, 0.0)
            if run.records:
                status, fields, page = build_page(run, self._asked.offset, _SOME_CURSOR, self._if_none_match, lane.pages, 0.0)
            elif state.closed or final:
                status, fields, page = build_silence(run, _SOME_CURSOR)
            else:
                return None
            head = encode_head(status, fields, page)
            if run.records:
                lane.hold(self._key, state, status, head, page)
        world = lane.environment
        cursor = build_cursor(self._asked.cursor, world.now(), world.random.randrange)
        return status, head.replace(_CURSOR_LINE, b"\r\nstream-cursor: %b\r\n" % cursor.encode(), 1), page


class WaitingPoll:
    """One long-poll that waits, until it is answered, passed on, or its time is over."""

    __slots__ = ("_began", "_exchange", "_lane", "_plan", "_timer")

    def __init__(self, lane: Lane, plan: PlainPoll, exchange: PromptExchange, began: float) -> None:
        self._lane = lane
        self._plan = plan
        self._exchange = exchange
        self._began = began
        self._timer: asyncio.TimerHandle | None = exchange.loop.call_later(lane.limits.long_poll_timeout, self.end)
        lane.under_way.enter()
        lane.waiters.add(plan.path, self)
        exchange.on_hangup(self._pass_on)

    def notice(self) -> None:
        """There was a commit. An engine may not be asked while it tells that."""
        woken = self._lane.woken
        if not woken:
            self._exchange.loop.call_soon(self._lane.answer_woken)
        woken[self] = None

    def end(self) -> None:
        """Answer, whether there is news or not."""
        self.answer(final=True)

    def answer(self, *, final: bool = False) -> None:
        """Answer if there is something to say."""
        if self._timer is None:
            return
        plan, lane, exchange = self._plan, self._lane, self._exchange
        try:
            found = plan.find(final=final)
        except Exception:
            self._pass_on()
            return
        if found is None:
            return
        self._leave()
        status, head, page = found
        exchange.reply(head, page)
        lane.note(plan.head, exchange, status, len(page), self._began, live=True)

    def _pass_on(self) -> None:
        if self._timer is not None:
            self._leave()
            self._exchange.pass_on()

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._lane.waiters.remove(self._plan.path, self)
        self._lane.under_way.leave()
