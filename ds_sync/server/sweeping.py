"""Ends streams whose time is over although nobody asks for them: what they hold would stay on the disk.

A read ends an expired stream that it finds. This does the same for the others, one after the other and slowly: nobody waits for it. It
learns of a stream's deadline from the engine's commits, so it asks for the list of all streams only once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from ds_sync.environment import Environment
from ds_sync.exceptions import StoreError
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.lives import Lives

ROUND_SECONDS: Final = 10.0
"""Between two looks."""
PAUSE_SECONDS: Final = 0.01
"""After each stream that is ended: each is a commit."""
RETRY_SECONDS: Final = 300.0
"""After which a stream that could not be ended is tried again."""
_BREATH: Final = 200
"""Streams looked at before others get their turn."""

log = logging.getLogger(__name__)


class Sweeper:
    """Sweeps one engine from `start` to `aclose`."""

    def __init__(self, engine: StorageEngine, environment: Environment) -> None:
        self._engine = engine
        self._environment = environment
        self._lives = Lives(engine, environment)
        self._touched: set[str] = set()
        """Paths to look at: their deadlines may have changed."""
        self._due: list[tuple[float, str]] = []
        """A heap of deadlines. Those that were moved back are only noticed when they come up."""
        self._planned: dict[str, float] = {}
        """By path: which entry of the heap counts."""
        self._task: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], None] | None = None

    async def start(self) -> None:
        """Begin, with a look at all streams there are. Further calls do nothing. Raises StoreError."""
        if self._unwatch is not None:
            return
        self._unwatch = self._engine.watch(self._touched.update)
        self._touched.update(await self._engine.list("**"))
        self._task = asyncio.ensure_future(self._work())

    async def aclose(self) -> None:
        """Stop."""
        if self._unwatch is not None:
            self._unwatch()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _work(self) -> None:
        while True:
            try:
                await self._sweep()
            except Exception:
                # Nobody waits for this task; the next round may go well.
                log.exception("the sweep of expired streams failed")
            await self._environment.sleep(ROUND_SECONDS)

    async def _sweep(self) -> None:
        looked = 0
        while self._touched:
            path = self._touched.pop()
            try:
                await self._plan(path)
            except StoreError as error:
                log.warning("it is not known when %r expires: %s", path, error)
                self._plan_at(path, self._environment.now() + RETRY_SECONDS)
            looked += 1
            if looked % _BREATH == 0:
                await self._environment.sleep(0)
        while self._due and self._due[0][0] <= self._environment.now():
            deadline, path = heappop(self._due)
            if self._planned.get(path) != deadline:
                continue
            del self._planned[path]
            try:
                await self._lives.expire(path)
            except StoreError as error:
                log.warning("%r has expired, and stays for the time being: %s", path, error)
                self._plan_at(path, self._environment.now() + RETRY_SECONDS)
                return  # what is wrong may concern all; if not, the others come first in the next round
            self._touched.add(path)  # its deadline may have been moved back
            await self._environment.sleep(PAUSE_SECONDS)

    async def _plan(self, path: str) -> None:
        state = (await self._engine.read(path, None, 0)).state
        deadline = None if state is None or not state.listed else state.deadline
        planned = self._planned.get(path)
        if deadline is None:
            self._planned.pop(path, None)
        elif planned is None or deadline < planned:
            self._plan_at(path, deadline)

    def _plan_at(self, path: str, deadline: float) -> None:
        self._planned[path] = deadline
        heappush(self._due, (deadline, path))
