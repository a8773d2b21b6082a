"""An event loop in which time is only a number: it jumps to the next timer as soon as nobody has anything left to do.

No sockets, no threads, no clock of the machine: with the same program and the same seed, everything happens in the same order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import Context, ContextVar
from itertools import count
from typing import Any, Final, Protocol

MAX_TURNS: Final = 2_000_000
"""Turns of the loop in one run; more is taken for a program that goes round in circles."""


class Owner(Protocol):
    """A simulated process: whatever is started inside it can be ended with it."""

    tasks: list[asyncio.Task[Any]]


OWNER: Final[ContextVar[Owner | None]] = ContextVar("OWNER", default=None)
"""The simulated process that the running code belongs to."""


class StuckError(Exception):
    """Nothing can happen any more, or the program goes round in circles."""


class _Future(asyncio.Future[Any]):
    """Hashed by its number: the order in a set must not depend on addresses in memory."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class _Task(asyncio.Task[Any]):
    def __init__(self, number: int, work: Any, loop: asyncio.AbstractEventLoop, name: str | None, context: Context | None) -> None:
        self.number = number
        super().__init__(work, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.BaseEventLoop):
    """`time()` begins at 0, in seconds, and passes only while everybody waits."""

    def __init__(self, *, max_turns: int = MAX_TURNS) -> None:
        super().__init__()
        self._clock = 0.0
        self._turns = max_turns
        self._numbers = count()
        self._selector = self  # what BaseEventLoop asks to wait for sockets and for the next timer
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._clock

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(next(self._numbers), self)

    def select(self, timeout: float | None) -> list[Any]:
        """Pass the time. Raises StuckError if no timer is set either."""
        self._turns -= 1
        if timeout is None:
            raise StuckError("everybody waits, and no timer is set")
        if self._turns < 0:
            raise StuckError("the turns are used up: something goes round in circles")
        self._clock += timeout
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody has to be woken: there is one thread."""

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        task = _Task(next(self._numbers), work, loop, name, context)
        owner = OWNER.get() if context is None else context.get(OWNER)
        if owner is not None:
            owner.tasks.append(task)
        return task
