"""Live reading: who waits for a stream, and the pages they share (PROTOCOL.md sections 5.6 and 5.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from ds_sync.server.responses import Receive


class Waiters:
    """One future for each path somebody waits on: a commit wakes all of its readers at once."""

    def __init__(self) -> None:
        self._futures: dict[str, asyncio.Future[None]] = {}
        self._counts: dict[str, int] = {}
        self.stopping = False
        """Live readers should end now."""

    @contextmanager
    def waiting(self, path: str) -> Iterator[Callable[[], asyncio.Future[None]]]:
        """Give a function that returns the future of the next commit to `path`. Call it *before* reading, wait after."""
        self._counts[path] = self._counts.get(path, 0) + 1
        try:
            yield lambda: self._future(path)
        finally:
            left = self._counts[path] - 1
            if left:
                self._counts[path] = left
            else:
                del self._counts[path]
                self._futures.pop(path, None)

    def wake(self, paths: Collection[str]) -> None:
        """Wake all who wait for one of `paths`."""
        for path in paths:
            future = self._futures.pop(path, None)
            if future is not None and not future.done():
                future.set_result(None)

    def stop(self) -> None:
        """Wake everybody, for the last time."""
        self.stopping = True
        self.wake(tuple(self._futures))

    def count(self, path: str) -> int:
        """Return how many readers wait for `path`."""
        return self._counts.get(path, 0)

    def __len__(self) -> int:
        """How many readers wait, on all paths."""
        return sum(self._counts.values())

    def _future(self, path: str) -> asyncio.Future[None]:
        future = self._futures.get(path)
        if future is None:
            future = self._futures[path] = asyncio.get_running_loop().create_future()
            if self.stopping:
                future.set_result(None)
        return future


class Hangup:
    """Notices that the client of a live request has hung up."""

    def __init__(self, receive: Receive) -> None:
        self._task: asyncio.Task[None] = asyncio.ensure_future(self._watch(receive))

    @property
    def happened(self) -> bool:
        """Whether the client is gone."""
        return self._task.done() and not self._task.cancelled()

    async def wait(self, future: asyncio.Future[None], seconds: float) -> bool:
        """Wait until `future` is done, the client is gone, or `seconds` have passed; return whether `future` is done."""
        await asyncio.wait((future, self._task), timeout=max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED)
        return future.done()

    async def stop(self) -> None:
        """Stop watching."""
        self._task.cancel()
        await asyncio.wait((self._task,))

    @staticmethod
    async def _watch(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


class SharedPages:
    """Encoded pages by what they hold: encoded for the first reader, handed to the others while it is the newest."""

    def __init__(self, budget: int = 16 * 1024 * 1024) -> None:
        self._pages: dict[tuple[str, str, str, str], bytes] = {}
        self._budget = budget
        """Bytes."""
        self._held = 0

    def page(self, key: tuple[str, str, str, str], build: Callable[[], bytes]) -> bytes:
        """Return the page of `key` (incarnation, first offset, next offset, encoding), built by `build` if it is not held."""
        found = self._pages.get(key)
        if found is None:
            found = build()
            if len(found) > self._budget // 4:
                return found
            self._pages[key] = found
            self._held += len(found)
            while self._held > self._budget:
                self._held -= len(self._pages.pop(next(iter(self._pages))))
        return found
