"""Live reading: who waits for a stream, and the pages they share (PROTOCOL.md sections 5.6 and 5.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from ds_sync.server.responses import Receive, Scope

LIVE: Final = "ds_sync.live"
"""The name of an ASGI extension: in `scope["extensions"]`, a Wire."""


class Wire(Protocol):
    """What our HTTP server offers beside ASGI's messages: no task has to wait for a hang-up, or to run for each piece of an answer."""

    pushed: int
    """Bytes that went out by `push`."""
    refused: int
    """The status that the HTTP server answered with before the application could, because the request did not come; 0 if it did not."""

    def on_hangup(self, call: Callable[[], None]) -> None:
        """Have `call` called when the client is gone; at once if it is."""
        ...

    def push(self, data: bytes) -> bool:
        """Send more of an answer that has begun; False, with nothing sent, if the client has not read enough of it."""
        ...


def find_wire(scope: Scope) -> Wire | None:
    """Return the extension, if a request came with it."""
    wire: Wire | None = scope.get("extensions", {}).get(LIVE)
    return wire


class Reader:
    """One live request: waits for news of its stream, and notices that its client has hung up."""

    __slots__ = ("_loop", "_receive", "_waiter", "_watching", "_wire", "changed", "gone", "take")

    def __init__(self, receive: Receive, wire: Wire | None = None) -> None:
        self.changed = False
        """There was a commit. Set it back *before* reading."""
        self.gone = False
        """The client has hung up."""
        self.take: Callable[[], bool] | None = None
        """Asked at a commit while the request waits: whether it has made use of it already, and need not be woken."""
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._wire = wire
        self._watching: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self, seconds: float) -> bool:
        """Wait until there is a commit, the client is gone, or `seconds` have passed; return whether there was a commit."""
        if self._wire is not None:
            self._wire.on_hangup(self._hang_up)
        elif self._watching is None:
            self._watching = asyncio.ensure_future(self._watch())
        if not self.changed and not self.gone and seconds > 0:
            self._waiter = self._loop.create_future()
            timer = self._loop.call_later(seconds, self._wake)
            try:
                await self._waiter
            finally:
                self._waiter = None
                timer.cancel()
        return self.changed

    def notice(self) -> None:
        """There was a commit."""
        if self._waiter is not None and self.take is not None and not self._waiter.done() and self.take():
            return
        self.changed = True
        self._wake()

    def end(self) -> None:
        """Be woken for the last time."""
        self.take = None
        self.notice()

    async def stop(self) -> None:
        """Stop watching."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _hang_up(self) -> None:
        self.gone = True
        self._wake()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._hang_up()


class Waiting(Protocol):
    """Who waits for news of a stream."""

    def notice(self) -> None:
        """There was a commit."""
        ...

    def end(self) -> None:
        """Wait no more: the server stops."""
        ...


class Waiters:
    """Who waits on which path: a commit wakes all of its readers at once."""

    def __init__(self) -> None:
        self._readers: dict[str, dict[Waiting, None]] = {}  # in the order they came: who waits longest is woken first
        self.stopping = False
        """Live readers should end now."""

    @contextmanager
    def waiting(self, path: str, reader: Waiting) -> Iterator[None]:
        """Tell `reader` of the commits to `path`."""
        self.add(path, reader)
        try:
            yield
        finally:
            self.remove(path, reader)

    def add(self, path: str, reader: Waiting) -> None:
        """Tell `reader` of the commits to `path` from now on."""
        self._readers.setdefault(path, {})[reader] = None

    def remove(self, path: str, reader: Waiting) -> None:
        """Tell it no more."""
        readers = self._readers[path]
        readers.pop(reader, None)
        if not readers:
            del self._readers[path]

    def wake(self, paths: Collection[str]) -> None:
        """Wake all who wait for one of `paths`."""
        for path in paths:
            for reader in tuple(self._readers.get(path, ())):
                reader.notice()

    def stop(self) -> None:
        """Wake everybody, for the last time."""
        self.stopping = True
        for readers in tuple(self._readers.values()):
            for reader in tuple(readers):
                reader.end()

    def count(self, path: str) -> int:
        """Return how many readers wait for `path`."""
        return len(self._readers.get(path, ()))

    def __len__(self) -> int:
        """How many readers wait, on all paths."""
        return sum(map(len, self._readers.values()))


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
