"""Cursors: what keeps a cache from answering two live requests of one client with the same page (PROTOCOL.md section 8.1).

Time is cut into intervals of 20 s since 9 October 2024. A client echoes the last cursor it was given; one that is not behind
the present moves on by a random number of intervals, so that two clients never chase each other round a cached loop.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

INTERVAL: Final = 20.0
"""Seconds."""

EPOCH: Final = 1_728_432_000.0
"""9 October 2024, 00:00 UTC, in seconds since 1970."""

MAX_JITTER: Final = 3600
"""Seconds a cursor may jump ahead."""

_CURSOR = re.compile(r"[0-9]{1,15}", re.ASCII)


def build_cursor(asked: str | None, now: float, random_below: Callable[[int], int]) -> str:
    """Return the cursor to answer with at `now` (seconds since 1970) when the client sent `asked`; garbage counts as none."""
    current = int((now - EPOCH) // INTERVAL)
    if asked is None or not _CURSOR.fullmatch(asked) or (sent := int(asked)) < current:
        return str(current)
    return str(sent + 1 + random_below(int(MAX_JITTER / INTERVAL)))


def move_cursor(cursor: str, now: float) -> str:
    """Return the cursor to go on with at `now` in an answer that has given `cursor`: it never goes back."""
    return str(max(int(cursor), int((now - EPOCH) // INTERVAL)))
