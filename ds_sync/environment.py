"""The world outside, injected: clocks, sleep, randomness, threads. The simulator passes its own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class RunInThread(Protocol):
    """Run a blocking call off the event loop and return its result."""

    def __call__(self, call: Callable[..., T], /, *args: Any) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Environment:
    """What a program may ask of the world. Times are seconds."""

    monotonic: Callable[[], float] = time.monotonic
    """A clock that never goes back: for waiting and ages within one process."""
    now: Callable[[], float] = time.time
    """Seconds since 1970: for what is written down and read by another process."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: random.Random = field(default_factory=random.SystemRandom)
    run_in_thread: RunInThread = asyncio.to_thread
