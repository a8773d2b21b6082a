"""Where streams of updates were read of late: what somebody may be about to go on from is not dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

SPAN: Final = 600.0
"""Seconds for which a position counts, at least; at most twice as long."""


class ReadPositions:
    """The oldest position that was read of each stream, lately. In memory: after a restart nothing is known until SPAN is over."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.span = SPAN
        """Shorter where time is simulated."""
        self._monotonic = monotonic
        self._begun = self._turned = monotonic()
        self._now: dict[str, int] = {}
        self._before: dict[str, int] = {}

    def note(self, path: str, position: int) -> None:
        """Somebody reads `path` from `position` on."""
        self._turn()
        known = self._now.get(path)
        if known is None or position < known:
            self._now[path] = position

    def oldest(self, path: str) -> int | None:
        """Return the oldest position from which `path` was read of late; None: it was not read. Before SPAN is over, 0."""
        self._turn()
        if self._monotonic() - self._begun < self.span:
            return 0
        return min((noted[path] for noted in (self._now, self._before) if path in noted), default=None)

    def _turn(self) -> None:
        late = self._monotonic() - self._turned
        if late >= self.span:
            self._before, self._now = (self._now if late < 2 * self.span else {}), {}
            self._turned = self._monotonic()
