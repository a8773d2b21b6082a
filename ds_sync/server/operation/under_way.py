"""How many requests are under way, and when the last of them is done."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class UnderWay:
    """Counts requests that are not done, live ones included."""

    def __init__(self) -> None:
        self.count = 0
        self._idle: asyncio.Event | None = None

    def enter(self) -> None:
        """One more."""
        self.count += 1

    def leave(self) -> None:
        """One is done."""
        self.count -= 1
        if self._idle is not None and not self.count:
            self._idle.set()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """One more, until the block ends."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    async def drain(self, seconds: float) -> bool:
        """Wait up to `seconds` until nothing is under way; return whether that is so."""
        if self.count:
            self._idle = asyncio.Event()
            waiting = asyncio.ensure_future(self._idle.wait())
            await asyncio.wait((waiting,), timeout=seconds)
            waiting.cancel()
        return not self.count
