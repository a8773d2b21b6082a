"""Producer: many appends, each exactly once and in order, several requests under way at a time (PROTOCOL.md section 5.2.1).

Items are gathered into batches, batches get numbers, and up to `max_in_flight` of them are under way. The rules when one fails:

- A gap (409) while the batch before it is under way: they overtook each other. Wait for that one, and send the same again.
- Anything else that repetition does not mend stops the launching. When nothing is under way any more, the first batch that was not
  accepted says what happens: a batch that the server refuses for its content is halved until the item is found, and that item fails;
  an epoch that somebody has taken, or numbers that the server has lost, are claimed anew if that is allowed; all else ends the producer.
- No number that a server may have accepted is given to other bytes in the same epoch. What may have been accepted in an epoch that is
  over is not sent again: it fails, because nobody knows.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import chain
from types import TracebackType
from typing import Any, Self

from ds_sync.client import answers
from ds_sync.client.batches import Batch, Item, Receipt, Waiting, check_item
from ds_sync.client.exchange import Exchange
from ds_sync.client.retry import UNDONE_STATUSES, Backoff, RetryPolicy, is_transient
from ds_sync.client.timeouts import Timeouts
from ds_sync.environment import Environment
from ds_sync.exceptions import (
    ClosedError,
    DsSyncError,
    InvalidRequestError,
    PayloadTooLargeError,
    ResponseError,
    SequenceGapError,
    StaleEpochError,
)
from ds_sync.protocol import headers as h
from ds_sync.protocol.json_mode import JSON_MEDIA_TYPE
from ds_sync.protocol.messages import AppendResult, ProducerStamp

MAX_CLAIMS = 3
"""Epochs claimed in a row without one batch accepted: then somebody else does the same, and it is raised."""

INVALID_EPOCH_SEQ = "INVALID_EPOCH_SEQ"
"""Of a 400, in our server's body: it has an older epoch than ours, so it was set back."""


class Producer:
    """Made by `StreamClient.producer`. An async context manager: leaving it sends what is left, and the stream stays open.

    When it can't go on (the stream is closed or gone, the server refuses us, or no answer comes for as long as the client's
    RetryPolicy says), every item that was not accepted fails with that error, and so does every further call.
    """

    def __init__(
        self,
        exchange: Exchange,
        find_content_type: Callable[[], Awaitable[str]],
        *,
        id: str,
        epoch: int | None,
        auto_claim: bool,
        max_batch_bytes: int,
        max_batch_items: int,
        max_in_flight: int,
        max_buffered: int,
        linger: float,
        environment: Environment,
        retry: RetryPolicy,
        timeouts: Timeouts,
    ) -> None:
        if not 0 < len(id) <= h.MAX_PRODUCER_ID or not id.isascii() or not id.isprintable() or id != id.strip():
            raise ValueError(f"id must have 1 to {h.MAX_PRODUCER_ID} printable ASCII characters")
        if epoch is not None and not 0 <= epoch <= h.MAX_INTEGER:
            raise ValueError("epoch must be from 0 to 2^53 - 1")
        settings = {"max_batch_bytes": max_batch_bytes, "max_batch_items": max_batch_items, "max_in_flight": max_in_flight}
        for name, value in {**settings, "max_buffered": max_buffered}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1")
        if linger < 0:
            raise ValueError("linger must not be negative")
        self.id = id
        self._exchange = exchange
        self._find_content_type = find_content_type
        self._content_type: str | None = None
        self._environment = environment
        self._retry = retry
        self._timeouts = timeouts
        self._auto_claim = auto_claim
        self._max_in_flight = max_in_flight
        self._max_buffered = max_buffered
        self._linger = linger
        self._clocked = epoch is None
        self._ours_alone = epoch is None
        self._epoch = self._clock() if epoch is None else epoch
        self._seq = 0
        self._accepted = False
        self._claims = 0
        self._waiting = Waiting(max_bytes=max_batch_bytes, max_items=max_batch_items)
        self._ready: deque[Batch] = deque()
        self._window: list[Batch] = []
        self._buffered = 0
        self._appended = 0
        self._flushes = 0
        self._due = False
        self._timer: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._failed: list[Receipt] = []
        self._final: Receipt | None = None
        self._changed = asyncio.Event()
        self._error: BaseException | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._epoch

    async def append(self, data: bytes | str) -> Receipt:
        """Take an item, and return at once unless `max_buffered` bytes are waiting: then wait for room.

        Text goes out as UTF-8. On a JSON stream an item is the text of one message. On others items are joined without a mark
        between them. Raises InvalidRequestError for an item that no server takes, and the error that ended the producer.
        """
        body = data.encode() if isinstance(data, str) else bytes(data)
        self._check_usable()
        if self._content_type is None:
            self._content_type = await self._find_content_type()
            self._check_usable()
        check_item(body, json_mode=self._json)
        while self._buffered > 0 and self._buffered + len(body) > self._max_buffered:
            await self._change()
            self._check_usable()
        item = Item(body, Receipt(), self._appended)
        self._appended += 1
        self._buffered += item.cost
        self._waiting.add(item)
        self._pump()
        return item.receipt

    async def append_json(self, value: Any) -> Receipt:
        """Take one message of a JSON stream: whatever `json.dumps` takes. Else like `append`."""
        return await self.append(json.dumps(value, separators=(",", ":"), allow_nan=False))

    async def flush(self) -> None:
        """Return when everything appended before is accepted.

        Raises the first error of an item that nobody has seen, with a note of how many there were; and what ended the producer.
        """
        await self._drain()
        self._raise_unseen()
        if self._error is not None:
            raise self._error

    async def close(self, data: bytes | str = b"") -> AppendResult:
        """Send what is left, and then close the stream (section 5.3), after `data` if there is any: at once or not at all.

        May be repeated: the first call counts. Raises what `flush` raises, and the stream is then not closed; and
        StreamClosedError if somebody else has closed it.
        """
        if self._final is None:
            await self.flush()
            body = data.encode() if isinstance(data, str) else bytes(data)
            if body and self._content_type is None:
                self._content_type = await self._find_content_type()
            if self._final is None:
                self._check_usable()
                if body:
                    check_item(body, json_mode=self._json)
                items = [Item(body, Receipt(), self._appended)] if body else []
                self._buffered += sum(item.cost for item in items)
                self._final = Receipt()
                self._ready.append(Batch(items, self._json, close=True))
                self._pump()
        return await self._final

    async def aclose(self) -> None:
        """Send what is left, and end. The stream stays open. Raises the first error of an item that nobody has seen."""
        if self._error is None:
            try:
                await self._drain()
            finally:
                self._stop(ClosedError("the producer was closed"))
        self._raise_unseen()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            await self.aclose()
        elif isinstance(error, Exception):
            try:
                await self.aclose()
            except DsSyncError as late:
                error.add_note(f"and not everything was appended: {late!r}")
        else:  # cancelled: there is no time left
            self._stop(ClosedError("the producer was cancelled"))

    @property
    def _json(self) -> bool:
        return h.media_type(self._content_type or "") == JSON_MEDIA_TYPE

    def _clock(self) -> int:
        # Later than that of any earlier run, so a program that starts again with the same id neither meets its old numbers nor is
        # taken for a repetition of itself. Of two that begin in the same millisecond, the digits below it tell one from the other: the
        # batches of the second would pass for repetitions of the first's, and be lost. Below 2^53 until the year 2255.
        return int(self._environment.now() * 1000) * 1000 + self._environment.random.randrange(1000)

    def _check_usable(self) -> None:
        if self._error is not None:
            raise self._error
        if self._final is not None:
            raise ClosedError("the producer has closed the stream")

    def _oldest(self) -> int:
        """The number of the oldest item that is neither accepted nor failed."""
        batches = chain(self._window, self._ready)
        waiting = (item.number for item in chain((item for batch in batches for item in batch.items), self._waiting.items))
        return next(waiting, self._appended)

    async def _drain(self) -> None:
        target = self._appended
        self._flushes += 1
        self._pump()
        try:
            while self._oldest() < target:
                await self._change()
        finally:
            self._flushes -= 1

    def _raise_unseen(self) -> None:
        unseen = [error for receipt in self._failed if not receipt.seen and (error := receipt.error) is not None]
        self._failed.clear()
        if unseen:
            if len(unseen) > 1:
                unseen[0].add_note(f"{len(unseen)} items were not accepted; this is the error of the first")
            raise unseen[0]

    async def _change(self) -> None:
        await self._changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # Launching

    def _pump(self) -> None:
        """Launch what may be launched."""
        if self._recovery is not None or self._error is not None:
            return
        # Who claims an epoch waits for the first answer: all that went out beside it would be refused with it.
        room = self._max_in_flight if self._accepted or not self._auto_claim else 1
        while len(self._window) < room and (batch := self._next_batch()) is not None:
            batch.stamp = ProducerStamp(self.id, self._epoch, self._seq)
            batch.doubtful = False
            batch.before = self._window[-1] if self._window else None
            self._seq += 1
            self._window.append(batch)
            batch.task = asyncio.create_task(self._deliver(batch, batch.stamp))
            batch.task.add_done_callback(lambda task, batch=batch: self._finish(batch, task))  # type: ignore[misc]

    def _next_batch(self) -> Batch | None:
        if self._ready:
            return self._ready.popleft()
        if not self._waiting.items:
            return None
        if self._waiting.full or self._flushes or self._due or self._linger == 0:
            self._due = False
            return self._waiting.take(json=self._json)
        if self._timer is None:
            self._timer = asyncio.create_task(self._wait_for_more())
        return None

    async def _wait_for_more(self) -> None:
        await self._environment.sleep(self._linger)
        self._timer = None
        self._due = bool(self._waiting.items)
        self._pump()

    async def _deliver(self, batch: Batch, stamp: ProducerStamp) -> AppendResult:
        """Send it until it is accepted, or repetition is of no use."""
        backoff, attempt = Backoff(self._retry, self._environment.random), 1
        while True:
            try:
                result = await self._send(batch, stamp)
            except SequenceGapError:
                before, batch.before = batch.before, None
                if before is None or before.task is None:
                    raise
                await asyncio.wait({before.task})
                if before.task.cancelled() or before.task.exception() is not None:
                    raise
                continue
            except DsSyncError as error:
                if not is_transient(error, idempotent=True):
                    raise
                undone = isinstance(error, ResponseError) and error.status in UNDONE_STATUSES
                batch.doubtful = batch.doubtful or not undone
                if attempt >= self._retry.max_attempts:
                    raise
                delay = backoff.next_delay(error.retry_after if isinstance(error, ResponseError) else None)
            else:
                if result.duplicate and stamp.seq == 0 and not (batch.close or batch.doubtful or self._ours_alone) and self._auto_claim:
                    # We have never sent this number before: it is another's, and so are the bytes that stand under it.
                    raise StaleEpochError("the server had this number from somebody else", current_epoch=stamp.epoch)
                return result
            await self._environment.sleep(delay)
            attempt += 1

    async def _send(self, batch: Batch, stamp: ProducerStamp) -> AppendResult:
        sent = {h.PRODUCER_ID: stamp.id, h.PRODUCER_EPOCH: str(stamp.epoch), h.PRODUCER_SEQ: str(stamp.seq)}
        if batch.body and self._content_type is not None:
            sent["content-type"] = self._content_type
        if batch.close:
            sent[h.STREAM_CLOSED] = "true"
        response = await self._exchange.request("POST", headers=sent, body=batch.body, timeout=self._timeouts.request)
        if not 200 <= response.status < 300:
            raise answers.build_error(response, now=self._environment.now())
        return answers.parse_append(response, producer=bool(batch.body))

    # What became of it

    def _finish(self, batch: Batch, task: asyncio.Task[AppendResult]) -> None:
        batch.before = None
        if task.cancelled() or self._error is not None:
            return
        if task.exception() is None:
            self._window.remove(batch)
            self._accepted, self._claims = True, 0
            for item in batch.items:
                self._buffered -= item.cost
                item.receipt.settle(task.result())
            if batch.close and self._final is not None:
                self._final.settle(task.result())
            self._notify()
            self._pump()
        elif self._recovery is None:
            self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        """When nothing is under way any more, decide what becomes of what was not accepted."""
        await asyncio.wait({batch.task for batch in self._window if batch.task is not None})
        if self._error is not None:
            return
        left, self._window = self._window, []
        first = left[0]
        if first.task is None or first.stamp is None:
            raise AssertionError("what is in the window was launched")
        error = first.task.exception()
        lost = isinstance(error, StaleEpochError | SequenceGapError) or getattr(error, "code", None) == INVALID_EPOCH_SEQ
        if error is not None and lost and self._auto_claim and self._claims < MAX_CLAIMS:
            self._ready.extendleft(reversed(self._claim(left, error)))
        elif isinstance(error, InvalidRequestError | PayloadTooLargeError) and not (first.close or lost):
            self._seq = first.stamp.seq  # refused, so this number is free, and none above it was ever accepted
            if len(first.items) > 1:
                left[:1] = first.split()
            else:
                self._fail(left.pop(0), error)
            self._ready.extendleft(reversed(left))
        else:
            self._ready.extendleft(reversed(left))
            self._stop(error or AssertionError("a batch that is left has failed"))
        self._recovery = None
        self._notify()
        self._pump()

    def _claim(self, left: list[Batch], error: BaseException) -> list[Batch]:
        """Begin a new epoch; return what is to be sent in it."""
        found = [batch.task.exception() for batch in left if batch.task is not None]
        taken = [self._epoch, *(one.current_epoch for one in found if isinstance(one, StaleEpochError))]
        self._epoch = max(taken) + 1
        self._ours_alone = self._clocked and self._clock() > self._epoch
        if self._ours_alone:
            self._epoch = self._clock()
        self._seq, self._accepted = 0, False
        self._claims += 1
        for batch in left:
            if batch.doubtful:
                self._fail(batch, error)
        return [batch for batch in left if not batch.doubtful]

    def _fail(self, batch: Batch, error: BaseException) -> None:
        self._failed = [receipt for receipt in self._failed if not receipt.seen]
        for item in batch.items:
            self._buffered -= item.cost
            item.receipt.fail(error)
            if not batch.close:
                self._failed.append(item.receipt)
        if batch.close and self._final is not None:
            self._final.fail(error)

    def _stop(self, error: BaseException) -> None:
        """End it: everything that was not accepted fails."""
        if self._error is not None:
            return
        self._error = error
        for task in (self._timer, *(batch.task for batch in self._window)):
            if task is not None:
                task.cancel()
        left = [*self._window, *self._ready, Batch(list(self._waiting.items), self._json)]
        self._window.clear()
        self._ready.clear()
        self._waiting.items.clear()
        for batch in left:
            self._fail(batch, error)
        self._notify()
