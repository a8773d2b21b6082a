"""Waking whoever waits for a change, at no cost when nobody does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


class Signal:
    """Wakes all tasks that wait for the next change. `notify` may be called from any thread."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def notify(self) -> None:
        """Wake those who wait now."""
        if threading.get_ident() == self._thread:
            if self._waiters:
                self._wake()
        elif not self._loop.is_closed():
            # Even if nobody waits: somebody on the loop's thread may have looked at the state already, and be about to.
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout: float | None = None) -> None:
        """Wait for the next `notify`, or for `timeout` seconds. There must be no await between looking at the state and waiting."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            await asyncio.wait((waiter,), timeout=timeout)
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def call_later(self, delay: float, call: Callable[[], None]) -> None:
        """Call `call` on the loop's thread after `delay` seconds. May be called from any thread."""
        if threading.get_ident() == self._thread:
            self._loop.call_later(delay, call)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.call_later, delay, call)
