"""What a producer sends: items, gathered into batches, and the receipts for them."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from ds_sync.exceptions import InvalidRequestError
from ds_sync.protocol.messages import AppendResult, ProducerStamp

ITEM_COST = 256
"""Bytes that an item takes beside its data."""


class Receipt:
    """Await it for the answer to one item: the AppendResult of the request it went with, or the error that it met.

    It need not be awaited: an error that nobody has seen is raised by the producer's next `flush` or its end.
    """

    def __init__(self) -> None:
        self.seen = False
        """True once somebody has awaited it."""
        self._future: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()

    def __await__(self) -> Generator[object, None, AppendResult]:
        self.seen = True
        # Whoever gives up waiting does not cancel it for the others.
        return asyncio.shield(self._future).__await__()

    @property
    def done(self) -> bool:
        """True when the answer or the error is there."""
        return self._future.done()

    @property
    def error(self) -> BaseException | None:
        """The error, if it failed."""
        return self._future.exception() if self._future.done() else None

    def settle(self, result: AppendResult) -> None:
        self._future.set_result(result)

    def fail(self, error: BaseException) -> None:
        self._future.set_exception(error)
        self._future.exception()  # looked at: whether anybody else does is `seen`


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One append of the caller."""

    data: bytes
    receipt: Receipt
    number: int

    @property
    def cost(self) -> int:
        return len(self.data) + ITEM_COST


@dataclass(slots=True, eq=False)
class Batch:
    """What goes out under one number."""

    items: Sequence[Item]
    json: bool
    close: bool = False
    stamp: ProducerStamp | None = None
    doubtful: bool = False
    """An attempt under this number may have been accepted without our hearing of it."""
    task: asyncio.Task[AppendResult] | None = None
    before: Batch | None = None
    """The batch with the number before, while it is under way."""
    body: bytes = field(init=False)

    def __post_init__(self) -> None:
        data = [item.data for item in self.items]
        self.body = b"[" + b",".join(data) + b"]" if self.json and data else b"".join(data)

    def split(self) -> list[Batch]:
        """Return two halves."""
        middle = len(self.items) // 2
        return [Batch(self.items[:middle], self.json), Batch(self.items[middle:], self.json)]


class Waiting:
    """The items that no batch has taken yet."""

    def __init__(self, *, max_bytes: int, max_items: int) -> None:
        self.items: deque[Item] = deque()
        self._size = 0
        self._max_bytes = max_bytes
        self._max_items = max_items

    def add(self, item: Item) -> None:
        self.items.append(item)
        self._size += len(item.data)

    @property
    def full(self) -> bool:
        """True if there is enough for a batch."""
        return self._size >= self._max_bytes or len(self.items) >= self._max_items

    def take(self, *, json: bool) -> Batch:
        """Return the next batch: as many items as fit, and at least one."""
        taken: list[Item] = []
        size = 0
        while self.items and len(taken) < self._max_items and (not taken or size + len(self.items[0].data) <= self._max_bytes):
            item = self.items.popleft()
            size += len(item.data)
            taken.append(item)
        self._size -= size
        return Batch(taken, json)


def check_item(data: bytes, *, json_mode: bool) -> None:
    """Raises InvalidRequestError for what no server takes, before it spoils a batch: nothing at all, or text that is not one JSON value."""
    if not data:
        raise InvalidRequestError("an empty item can't be appended")
    if json_mode:
        try:
            json.loads(data)
        except (ValueError, RecursionError):
            raise InvalidRequestError("an item of a JSON stream must be one JSON value", code="INVALID_JSON") from None
