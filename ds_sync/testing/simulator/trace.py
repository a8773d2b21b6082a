"""What happened in one run, in words, with the simulated time."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Violation:
    """A law was broken."""

    law: str
    details: str

    def __str__(self) -> str:
        return f"{self.law}: {self.details}"


@dataclass(slots=True)
class Trace:
    """The lines, oldest first; and the violations, which don't stop the run at once."""

    lines: list[tuple[float, str, str]] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """How often what happened."""

    def note(self, actor: str, text: str) -> None:
        """Write down what `actor` did, or what happened to it."""
        self.lines.append((asyncio.get_running_loop().time(), actor, text))

    def count(self, what: str) -> None:
        """Count something that happened, for the summary of many runs: a fault that never happens tests nothing."""
        self.counts[what] += 1

    def accuse(self, law: str, details: str) -> None:
        """Write down that a law was broken. The first is the one to look at."""
        self.violations.append(Violation(law, details))
        self.note("LAW", f"{law}: {details}")

    def __str__(self) -> str:
        return "\n".join(f"{at:10.3f}  {actor:<8} {text}" for at, actor, text in self.lines)
