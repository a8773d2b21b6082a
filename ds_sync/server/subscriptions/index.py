"""Which subscriptions a path concerns: asked for every commit, so the answer is remembered."""

from __future__ import annotations

import asyncio
from typing import Final

from ds_sync.protocol.patterns import compile_pattern
from ds_sync.protocol.subscription import Subscription, Tail
from ds_sync.server.subscriptions.shelf import Kept

MAX_REMEMBERED: Final = 20_000
"""Paths whose answer is remembered."""


class Entry:
    """A subscription in this process."""

    __slots__ = ("again", "delivery", "gone", "kept", "lock", "pending", "task", "timer", "touched", "unannounced", "watched")

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.lock = asyncio.Lock()
        """Held while its state is decided on and stored."""
        self.pending: dict[str, Tail] = {}
        """Streams with something beyond what was acknowledged, and their tails when they were last looked at."""
        self.touched: set[str] = set()
        """Streams to look at."""
        self.again = False
        self.task: asyncio.Task[None] | None = None
        self.delivery: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.unannounced = False
        """Its wake stream could not take the last wake's event."""
        self.gone = False
        self.watched: tuple[str, ...] = ()
        """The paths it stands under in the index, beside its pattern."""

    @property
    def sub(self) -> Subscription:
        """Its newest durable state."""
        return self.kept.sub


class SubscriptionIndex:
    """Entries by pattern and by path."""

    def __init__(self) -> None:
        self._by_pattern: dict[str, set[Entry]] = {}
        self._by_path: dict[str, set[Entry]] = {}
        self._known: dict[str, tuple[Entry, ...]] = {}

    def __bool__(self) -> bool:
        """Whether anybody wants to hear of anything."""
        return bool(self._by_pattern or self._by_path)

    def add(self, entry: Entry) -> None:
        """Take up a subscription, or what is new of it."""
        self.remove(entry)
        config = entry.sub.config
        if config.pattern is not None:
            self._by_pattern.setdefault(config.pattern, set()).add(entry)
        named = {path for path, link in entry.sub.links.items() if link.explicit} | set(config.streams)
        entry.watched = tuple(named if config.wake_stream is None else named | {config.wake_stream})
        for path in entry.watched:
            self._by_path.setdefault(path, set()).add(entry)

    def remove(self, entry: Entry) -> None:
        """Forget a subscription."""
        self._known.clear()
        places = [(self._by_path, path) for path in entry.watched]
        if entry.sub.config.pattern is not None:
            places.append((self._by_pattern, entry.sub.config.pattern))
        for table, key in places:
            entries = table.get(key)
            if entries is not None:
                entries.discard(entry)
                if not entries:
                    del table[key]
        entry.watched = ()

    def find(self, path: str) -> tuple[Entry, ...]:
        """Return the subscriptions that want to hear of `path`."""
        found = self._known.get(path)
        if found is None:
            entries = set(self._by_path.get(path, ()))
            for pattern, those in self._by_pattern.items():
                if compile_pattern(pattern).matches(path):
                    entries |= those
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            found = self._known[path] = tuple(entries)
        return found
