"""When to try again: exponential backoff with full jitter. Pure: randomness is passed in, and the caller sleeps."""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass

from ds_sync.exceptions import DsSyncError, ResponseError, TransportError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently. Times are seconds."""

    max_attempts: int = 5
    """Of one request, the first included; 1 never retries. Following a stream has no such limit."""
    first_delay: float = 0.5
    """The longest delay before the second attempt."""
    max_delay: float = 30.0
    max_retry_after: float = 300.0
    """A server that asks for more patience than this is asked again after this long."""
    multiplier: float = 2.0
    """What the longest delay grows by with each further attempt."""
    resend_unknown: bool = False
    """Send an append without a producer again also if nobody knows what became of it: it may then stand in the stream twice."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError("max_attempts must be at least 1")
        if self.first_delay <= 0:
            raise ValueError("first_delay must be above 0")
        if self.max_delay < self.first_delay:
            raise ValueError("max_delay must not be below first_delay")
        if self.multiplier < 1:
            raise ValueError("multiplier must be at least 1")


class Backoff:
    """The delays between attempts at one thing, from the first failure on; `reset` after a success."""

    def __init__(self, policy: RetryPolicy, random: random.Random) -> None:
        self._policy = policy
        self._random = random
        self.reset()

    def reset(self) -> None:
        self._delays = _generate_delays(self._policy, self._random)
        next(self._delays)

    def next_delay(self, retry_after: float | None = None) -> float:
        """Return the seconds to wait now; never less than `retry_after`, what the server asked for (within the policy's bound)."""
        return self._delays.send(retry_after)


def _generate_delays(policy: RetryPolicy, random: random.Random) -> Generator[float, float | None, None]:
    # Full jitter (any delay from 0 to the bound) spreads a herd best: AWS Architecture Blog, "Exponential Backoff And Jitter".
    bound = policy.first_delay
    asked = yield 0.0
    while True:
        bound = min(bound, policy.max_delay)
        # The jitter comes on top of what the server asked for, or all whom it sent away would be back in the same moment.
        delay = random.uniform(0.0, bound) + min(max(asked or 0.0, 0.0), policy.max_retry_after)
        bound *= policy.multiplier
        asked = yield delay


_TRANSIENT_STATUSES = frozenset({408, 425, 429})
_LASTING_STATUSES = frozenset({501, 505})
"""The 5xx that no repetition changes."""
UNDONE_STATUSES = frozenset({429, 500, 503})
"""With these a server says that it has not acted: also what is not idempotent may be sent again."""


def is_transient(error: DsSyncError, *, idempotent: bool) -> bool:
    """Return whether the same request may be sent again and may then succeed."""
    if isinstance(error, ResponseError):
        if not idempotent:
            return error.status in UNDONE_STATUSES
        return error.status in _TRANSIENT_STATUSES or (error.status >= 500 and error.status not in _LASTING_STATUSES)
    return idempotent and isinstance(error, TransportError)
