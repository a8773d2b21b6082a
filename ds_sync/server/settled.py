"""Settled pages: what stands in a file before a stream's tail, and changes no more. Read once for all who ask, and kept for a while.

Many readers catch up on the same pages: everybody who joins, and a cache in front of the server that has lost its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from ds_sync.protocol.state import StreamState

log = logging.getLogger(__name__)

CACHE_BYTES: Final = 64 * 1024 * 1024
"""Of pages that are kept."""

Prepared = tuple[int, bytes, bytes]
"""An answer: its status, its head without the headers of the connection, its body."""


class PageKey(NamedTuple):
    """What a page is of: the same key, the same bytes."""

    incarnation: str
    kept_from: int
    """The position of the first record that retention has left."""
    query: bytes
    if_none_match: str | None


def key_of(state: StreamState | None, query: bytes, if_none_match: str | None) -> PageKey | None:
    """Return the key of a page; None where pages may not be kept: the stream is gone, or its time is renewed by being read."""
    if state is None or not state.listed or state.deadline is not None:
        return None
    return PageKey(state.incarnation, 0 if state.earliest is None else state.earliest.position, query, if_none_match)


class Found(NamedTuple):
    """A page that was read."""

    answer: Prepared
    settled: bool
    """It is good for whoever asks while there is its key; if not, only for who asked before it was read."""


Done = Callable[[Prepared | None], None]


class SettledPages:
    """The pages of one application's streams."""

    def __init__(self, budget: int = CACHE_BYTES) -> None:
        self._budget = budget
        self._held = 0
        self._pages: dict[PageKey, Prepared] = {}
        """Those that were asked for last stand last."""
        self._reading: dict[PageKey, list[Done]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, key: PageKey) -> Prepared | None:
        """Return the page, if it is held."""
        found = self._pages.pop(key, None)
        if found is not None:
            self._pages[key] = found
        return found

    def fetch(self, key: PageKey, read: Callable[[], Awaitable[Found]], done: Done) -> None:
        """Have `done` called with what `read` finds. Who asks for a page that is being read gets the same one.

        None is for asking in the ordinary way: reading failed, or its page is not settled, and was begun before you asked.
        """
        joined = self._reading.get(key)
        if joined is not None:
            joined.append(done)
            return
        self._reading[key] = []
        task = asyncio.ensure_future(self._fetch(key, read, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch(self, key: PageKey, read: Callable[[], Awaitable[Found]], done: Done) -> None:
        found: Found | None = None
        try:
            found = await read()
        except Exception:  # a refusal, or a fault: the ordinary way meets it again, and answers
            log.debug("a page could not be read", exc_info=True)
        finally:
            joined = self._reading.pop(key)
            settled = None if found is None or not found.settled else found.answer
            if settled is not None:
                self._hold(key, settled)
            done(None if found is None else found.answer)
            for one in joined:
                one(settled)

    def _hold(self, key: PageKey, page: Prepared) -> None:
        size = _size(page)
        if size > self._budget // 8 or key in self._pages:
            return
        self._pages[key] = page
        self._held += size
        while self._held > self._budget:
            self._held -= _size(self._pages.pop(next(iter(self._pages))))


def _size(page: Prepared) -> int:
    return len(page[1]) + len(page[2])
