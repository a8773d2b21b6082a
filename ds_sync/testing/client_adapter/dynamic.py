"""Headers and parameters that the suite wants to be new with every command."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(slots=True)
class DynamicValue:
    """A counter, the time in milliseconds, or a token."""

    kind: str
    token: str
    count: int = 0

    def next(self) -> str:
        """Return the value for one more command."""
        if self.kind == "counter":
            self.count += 1
            return str(self.count)
        return str(time.time_ns() // 1_000_000) if self.kind == "timestamp" else self.token


def evaluate(values: dict[str, DynamicValue]) -> dict[str, str]:
    """Return what one command sends."""
    return {name: value.next() for name, value in values.items()}
