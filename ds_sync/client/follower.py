"""Follower: carries out the machine in ds_sync.protocol.tail.

A task of its own runs the machine, one more the request of the moment; pages come through a queue of one. So a consumer that is
cancelled loses nothing, a slow one holds the connection back instead of filling memory, and a request can be abandoned at any time.
The offset moves on at the very moment a page enters the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from ds_sync.client import answers
from ds_sync.client.exchange import Exchange
from ds_sync.client.retry import Backoff, RetryPolicy, is_transient
from ds_sync.client.timeouts import Timeouts
from ds_sync.client.transport import Response, StreamingResponse
from ds_sync.client.views import Interruption as Interruption
from ds_sync.client.views import Views
from ds_sync.environment import Environment
from ds_sync.exceptions import DsSyncError, InvalidRequestError, ProtocolError, ResponseError, TransportError, TransportTimeoutError
from ds_sync.protocol import headers as h
from ds_sync.protocol.json_mode import JSON_MEDIA_TYPE
from ds_sync.protocol.messages import Page
from ds_sync.protocol.offsets import Offset
from ds_sync.protocol.sse import SsePage, SsePageParser, is_cursor
from ds_sync.protocol.tail import Event, Live, Mode, State, Tail

MAX_PROTOCOL_ERRORS = 3
"""In a row, with no progress between: then it is no accident, and is raised."""

MAX_HASTY_ENDS = 3
"""SSE answers in a row that ended too soon: then long-poll is the better way."""

MAX_REST = 5.0
"""Seconds to rest at most: the server is there, it is only in a hurry."""


@dataclass(frozen=True, slots=True)
class _Delivered:
    page: Page
    generation: int


class _End:
    """The iteration's end."""


class Follower(Views):
    """The pages of a stream as they come about, and Interruptions. An async iterator and an async context manager.

    `pages`, `chunks`, `text` and `json` are other ways to iterate over the same: use one of the five. It ends with the stream's
    end; without `live`, at the first page that is up to date. It raises what no repetition will change: 400, 401 after asking for
    new credentials, 403, 404, 410, and a ProtocolError that repeats. Leaving the context cancels the request at once; without a
    context, call `aclose`.
    """

    def __init__(
        self,
        exchange: Exchange,
        offset: Offset,
        *,
        live: Live,
        catch_up: bool = True,
        content_type: str = "",
        environment: Environment,
        retry: RetryPolicy,
        timeouts: Timeouts,
    ) -> None:
        super().__init__(offset)
        self.generation = 0
        """Of the request that the last page came from; see `refresh`."""
        self._exchange = exchange
        self._environment = environment
        self._timeouts = timeouts
        self._backoff = Backoff(retry, environment.random)
        self._tail = Tail(live, catch_up=catch_up)
        self._offset = offset
        self._cursor: str | None = None
        self._content_type = content_type
        self._wanted = 0
        self._proved = 0
        self._delay = 0.0
        self._protocol_errors = 0
        self._hasty_ends = 0
        self._pieces = False
        self._skip = 0
        self._queue: asyncio.Queue[_Delivered | Interruption | BaseException | _End] = asyncio.Queue(maxsize=1)
        self._runner: asyncio.Task[None] | None = None
        self._step: asyncio.Task[Event] | None = None
        self._ended = False

    def refresh(self) -> int:
        """Ask for proof of being caught up: read up to the tail again, past all caches.

        Returns a generation. A page with `up_to_date`, yielded when `generation` is at least that, proves that everything which was
        in the stream at this call has been yielded. A live request or a wait is abandoned for it; a page already on its way is
        let through first. May be called at any time and from any task of the same loop; after the end it does nothing.
        """
        self._wanted += 1
        # A catch-up read is short, and ends in reading again if it began too early. Abandoning it as well would let frequent
        # calls starve the reading.
        if self._step is not None and self._tail.state is not State.CATCH_UP:
            self._step.cancel()
        return self._wanted

    async def _next_item(self) -> Page | Interruption:
        if self._ended:
            raise StopAsyncIteration
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        item = await self._queue.get()
        if isinstance(item, _Delivered):
            self.generation = item.generation
            return item.page
        if isinstance(item, Interruption):
            return item
        self._ended = True
        if isinstance(item, _End):
            raise StopAsyncIteration
        raise item

    async def aclose(self) -> None:
        """Stop: the request is cancelled at once, and the iteration ends."""
        runner, self._runner = self._runner, None
        self._ended = True
        if runner is not None:
            runner.cancel()
            await asyncio.wait({runner})
        if self._queue.empty():
            self._queue.put_nowait(_End())  # for whoever is waiting in __anext__

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def _run(self) -> None:
        """Run the machine to its end."""
        while not self._tail.final:
            began = self._environment.monotonic()
            state = self._tail.state
            self._step = asyncio.create_task(self._perform(state))
            try:
                await asyncio.wait({self._step})
            finally:
                if not self._step.done():
                    self._step.cancel()
                    await asyncio.wait({self._step})
                if not self._step.cancelled():
                    self._step.exception()  # looked at also when we are cancelled, or asyncio complains that nobody did
            step, self._step = self._step, None
            if self._environment.monotonic() - began >= self._timeouts.steady and state in (State.SSE, State.LONG_POLL):
                self._prosper()
            if step.cancelled():
                event = Event.REFRESH
            elif (error := step.exception()) is None:
                event = step.result()
            elif isinstance(error, DsSyncError):
                event = await self._receive_error(error, state)
            else:
                # Not one of ours: a defect. It must not leave the consumer waiting for ever.
                await self._queue.put(error)
                return
            self._advance(event)
        if self._tail.state is not State.FAILED:
            await self._queue.put(_End())

    def _advance(self, event: Event) -> None:
        if event is Event.HASTY:
            self._hasty_ends += 1
            if self._tail.mode is Mode.AUTO and self._hasty_ends >= MAX_HASTY_ENDS:
                event = Event.BUFFERED
            else:
                self._delay = min(self._backoff.next_delay(), MAX_REST)
        elif event is Event.END:
            self._hasty_ends = 0
        self._tail.receive_event(event)
        if self._wanted > self._proved and self._tail.state in (State.SSE, State.LONG_POLL, State.RESTING):
            self._tail.receive_event(Event.REFRESH)  # refresh() was called when the step was over already

    async def _receive_error(self, error: DsSyncError, state: State) -> Event:
        """Return what the error means, and tell the consumer."""
        if state is State.SSE and self._tail.mode is Mode.AUTO and isinstance(error, InvalidRequestError):
            return Event.REFUSED
        if state is State.LONG_POLL and self._tail.mode is Mode.SUSPECT and isinstance(error, InvalidRequestError):
            fatal = False  # a server without long-poll, whose SSE was slow once: a bad offset is 400 to the catch-up, too
        elif isinstance(error, ProtocolError):
            self._protocol_errors += 1
            fatal = self._protocol_errors >= MAX_PROTOCOL_ERRORS
        else:
            fatal = not is_transient(error, idempotent=True)
        if fatal:
            await self._queue.put(error)
            return Event.FAIL
        self._delay = self._backoff.next_delay(error.retry_after if isinstance(error, ResponseError) else None)
        await self._queue.put(Interruption(error, self._delay))
        return Event.CUT

    async def _perform(self, state: State) -> Event:
        if state is State.CATCH_UP:
            return await self._catch_up()
        if state is State.LONG_POLL:
            return await self._long_poll()
        if state is State.SSE:
            # An event stream knows lines, not line ends: text with "\r\n" in it would arrive changed.
            is_text = self._tail.mode is Mode.AUTO and h.media_type(self._content_type).startswith("text/")
            return Event.REFUSED if is_text else await self._read_sse()
        await self._environment.sleep(self._delay)
        return Event.ELAPSED

    async def _catch_up(self) -> Event:
        generation = self._wanted
        query, headers = {h.QUERY_OFFSET: str(self._offset)}, {}
        if generation > self._proved:
            query[h.QUERY_CURSOR] = str(self._environment.random.getrandbits(48))
            headers["cache-control"] = "no-cache"
        if self._pieces:
            page = await self._read_pieces(query, headers)
        else:
            page = self._parse_page(await self._exchange.request("GET", query=query, headers=headers, timeout=self._timeouts.request))
        if not page.up_to_date and page.next_offset == self._offset:
            raise ProtocolError("a catch-up read brought nothing, and is not up to date either")
        event = await self._deliver(page, generation)
        if page.up_to_date:
            self._proved = generation
            # The proof was for an earlier call than the last: read on.
            return event if event is Event.CLOSE or self._wanted == generation else Event.PAGE
        return event

    async def _read_pieces(self, query: Mapping[str, str], headers: Mapping[str, str]) -> Page:
        """Hand out the page as it comes; return its end. A page of a JSON stream is returned whole: it is no prefix of a later one."""
        async with self._exchange.stream(query=query, headers=headers, timeout=self._timeouts.request) as response:
            if not 200 <= response.status < 300:
                raise answers.build_error(await _read_error(response), now=self._environment.now())
            page = self._parse_page(Response(response.status, response.headers))
            whole, seen = h.media_type(self._content_type) == JSON_MEDIA_TYPE, 0
            parts: list[bytes] = []
            async for chunk in response.chunks():
                seen += len(chunk)
                if whole:
                    parts.append(chunk)
                elif seen > self._skip:
                    if page.next_offset == self._offset:
                        raise ProtocolError("data came with the offset it was asked for")
                    # After a cut the same page comes again, and so does what was handed out of it.
                    fresh = chunk[self._skip - seen :]
                    await self._queue.put(
                        _Delivered(Page(fresh, self._offset, up_to_date=False, incarnation=page.incarnation), self._proved)
                    )
                    self._skip = seen
                    self._prosper()
            if seen < self._skip:
                raise ProtocolError("a page that was read again is shorter than it was")
        return replace(page, data=b"".join(parts)) if whole else page

    def _allow_pieces(self) -> None:
        self._pieces = True

    async def _long_poll(self) -> Event:
        began, before = self._environment.monotonic(), self._offset
        query = self._live_query(h.LIVE_LONG_POLL)
        response = await self._exchange.request("GET", query=query, timeout=self._timeouts.long_poll)
        page = self._parse_page(response)
        if is_cursor(cursor := response.headers.get(h.STREAM_CURSOR)):
            self._cursor = cursor
        event = await self._deliver(page, self._proved)
        if event is Event.CLOSE or self._offset != before:
            return event
        return Event.END if self._environment.monotonic() - began >= self._timeouts.hasty else Event.HASTY

    async def _read_sse(self) -> Event:
        clock = self._environment.monotonic
        began, before = clock(), self._offset
        first: float | None = None
        try:
            async with asyncio.timeout(self._timeouts.first_event) as limit:
                async with self._exchange.stream(
                    query=self._live_query(h.LIVE_SSE), headers={"accept": "text/event-stream"}, timeout=self._timeouts.silence
                ) as response:
                    async for found in self._parse_sse(response):
                        if first is None:
                            first = clock()
                            limit.reschedule(None)
                        self._cursor = found.cursor or self._cursor
                        event = await self._deliver(found.page, self._proved)
                        if event is Event.CLOSE:
                            return event
                        self._tail.receive_event(event)
        except _NotSseError:
            return Event.REFUSED
        except TimeoutError:
            if self._tail.mode is not Mode.AUTO:
                raise TransportTimeoutError("the server sent no control event") from None
            return Event.BUFFERED
        ended = clock()
        if first is not None and ended - first < self._timeouts.hasty / 10:
            # Everything came in the moment of the end: whoever held it back will do so again.
            held = first - began >= self._timeouts.hasty and self._tail.mode is Mode.AUTO
            return Event.BUFFERED if held else Event.HASTY
        if first is None:
            return Event.HASTY
        return Event.HASTY if self._offset == before and ended - began < self._timeouts.steady else Event.END

    async def _parse_sse(self, response: StreamingResponse) -> AsyncIterator[SsePage]:
        if response.status != 200:
            raise answers.build_error(await _read_error(response), now=self._environment.now())
        if h.media_type(response.headers.get("content-type", "")) != "text/event-stream":
            if self._tail.mode is Mode.AUTO:
                raise _NotSseError
            raise ProtocolError("the answer is not text/event-stream")
        parser = SsePageParser(
            content_type=self._content_type,
            encoding=response.headers.get(h.STREAM_SSE_DATA_ENCODING),
            incarnation=h.parse_incarnation(response.headers.get(h.STREAM_INCARNATION)),
        )
        async for chunk in response.chunks():
            for found in parser.receive_data(chunk):
                yield found
        if parser.pending:
            raise TransportError("the connection ended between data and its offset")

    def _live_query(self, live: str) -> dict[str, str]:
        query = {h.QUERY_LIVE: live, h.QUERY_OFFSET: str(self._offset)}
        if self._cursor is not None:
            query[h.QUERY_CURSOR] = self._cursor
        return query

    def _parse_page(self, response: Response) -> Page:
        if not 200 <= response.status < 300:
            raise answers.build_error(response, now=self._environment.now())
        page = answers.parse_page(response)
        self._content_type = response.headers.get("content-type", self._content_type)
        return page

    async def _deliver(self, page: Page, generation: int) -> Event:
        """Hand the page over, and move on behind it."""
        empty = page.data in (b"", b"[]")
        if not empty and page.next_offset == self._offset:
            raise ProtocolError("data came with the offset it was asked for")
        await self._queue.put(_Delivered(page, generation))
        # No await from here: the page is yielded and the offset moved, or neither.
        self._skip = 0
        if page.next_offset != self._offset:
            self._offset = page.next_offset
            self._prosper()
        if page.closed:
            return Event.CLOSE
        return Event.CAUGHT_UP if page.up_to_date else Event.PAGE

    def _prosper(self) -> None:
        self._backoff.reset()
        self._protocol_errors = 0


class _NotSseError(Exception):
    """The server answered without an event stream."""


async def _read_error(response: StreamingResponse) -> Response:
    body = b""
    async for chunk in response.chunks():
        body += chunk
        if len(body) >= answers.MAX_ERROR_BODY:
            break
    return Response(response.status, response.headers, body)
