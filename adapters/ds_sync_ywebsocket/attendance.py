"""Who is in a room: the last word of each client, and the connection that speaks for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ds_sync.crdt import Word

FORGET_SECONDS: Final = 30.0
"""Yjs clients forget a client they have not heard of for this long."""

REMEMBER_SECONDS: Final = 60.0
"""How long it is remembered that a client left: clients repeat what they have heard of each other, and would bring it back."""

PEOPLE: Final = 5_000
"""In one room, those counted of whom it is remembered that they left."""

ROOM_BYTES: Final = 4 * 1024 * 1024
"""Of all states in one room, as JSON: what a newcomer is sent."""

ALL_BYTES: Final = 64 * 1024 * 1024
"""Of all rooms."""

SPOKEN_FOR: Final = 100
"""Clients that one connection may speak for: its own, and those of whom it was the first to know."""


@dataclass(slots=True)
class Held:
    """How much of something is held, by whoever shares it."""

    size: int = 0


@dataclass(slots=True)
class _Entry:
    word: Word
    heard: float
    size: int
    """Of its state."""


class Attendance:
    """The presence of one room. Times are seconds of one clock.

    It is bounded. What is beyond is not taken, and nobody hears of it: who is there already is not driven out by strangers, and all can go
    on editing.
    """

    def __init__(self, all_rooms: Held) -> None:
        self._entries: dict[int, _Entry] = {}
        self._gone: dict[int, None] = {}
        """Of them: those who left, the first first."""
        self._size = 0
        self._all_rooms = all_rooms
        self._claims: dict[int, object] = {}
        """By client: the connection that speaks for it; also of those whose first word is on its way."""
        self._spoken_for: Counter[object] = Counter()
        """By connection: how many clients it speaks for."""
        self.turned_away = 0
        """Words that were not taken, because there is no room."""

    def present(self) -> list[Word]:
        """Return the last words of those who are there."""
        return [entry.word for entry in self._entries.values() if entry.word.state is not None]

    def select_news(self, words: Iterable[Word]) -> list[Word]:
        """Return those that say more than is known."""
        return [word for word in words if self._is_news(word)]

    def select_stale(self, words: Iterable[Word]) -> list[Word]:
        """Return that those are gone of whom `words` say that they are there, as if nothing had happened.

        A client that comes back says its old word, which nobody takes. When it hears that it is gone, it counts on and says that it is not.
        """
        entries = [self._entries.get(word.client) for word in words if word.state is not None and not self._is_news(word)]
        return [entry.word for entry in entries if entry is not None and entry.word.state is None]

    def claim(self, speaker: object, words: Iterable[Word], *, first: bool) -> list[Word]:
        """Note for whom `speaker` speaks: for clients nobody knew, and with its `first` words for whomever it names.

        A client that comes back on a new connection says its old word again, before it has heard anything of the others. What it says
        later may repeat the others' words. Return the words without those of more clients than one connection may speak for.
        """
        allowed = []
        for word in words:
            entry = self._entries.get(word.client)
            is_new = word.state is not None and (first or entry is None or entry.word.state is None)
            if is_new and self._claims.get(word.client) is not speaker:
                if self._spoken_for[speaker] >= SPOKEN_FOR:
                    self.turned_away += 1
                    continue
                self._release(word.client)
                self._claims[word.client] = speaker
                self._spoken_for[speaker] += 1
            allowed.append(word)
        return allowed

    def leave(self, speaker: object) -> list[Word]:
        """Return the last words of those for whom `speaker` spoke: that they are gone."""
        gone = [client for client, owner in self._claims.items() if owner is speaker]
        words = []
        for client in gone:
            self._release(client)
            entry = self._entries.get(client)
            if entry is not None and entry.word.state is not None:
                words.append(replace(entry.word, clock=entry.word.clock + 1, state=None))
        return words

    def hear(self, words: Sequence[Word], now: float) -> list[Word]:
        """Take in what was said; return what of it is news."""
        news = []
        for word in words:
            if self._is_news(word):
                if self._keep(word, now):
                    news.append(word)
                else:
                    self.turned_away += 1
            elif (entry := self._entries.get(word.client)) is not None and word.clock == entry.word.clock:
                entry.heard = now
        return news

    def expire(self, now: float) -> list[Word]:
        """Forget those who were not heard of for FORGET_SECONDS; return the words that say so."""
        gone = []
        for client, entry in list(self._entries.items()):
            silence = now - entry.heard
            if entry.word.state is not None and silence > FORGET_SECONDS:
                word = replace(entry.word, state=None)
                self._put(_Entry(word, entry.heard, 0))
                self._release(client)
                gone.append(word)
            elif silence > REMEMBER_SECONDS:
                self._forget(client)
        return gone

    def clear(self) -> None:
        """Forget everybody."""
        for client in tuple(self._entries):
            self._forget(client)

    def _keep(self, word: Word, now: float) -> bool:
        """Take a word in, if there is room for it."""
        known = self._entries.get(word.client)
        if known is None and len(self._entries) >= PEOPLE:
            if not self._gone:
                return False
            self._forget(next(iter(self._gone)))
        size = 0 if word.state is None else len(json.dumps(word.state))
        more = size - (0 if known is None else known.size)
        if more > 0 and (self._size + more > ROOM_BYTES or self._all_rooms.size + more > ALL_BYTES):
            if known is not None:
                known.heard = now  # it is there, with what it said before
            return False
        self._put(_Entry(word, now, size))
        return True

    def _put(self, entry: _Entry) -> None:
        client = entry.word.client
        known = self._entries.get(client)
        more = entry.size - (0 if known is None else known.size)
        self._entries[client] = entry
        self._size += more
        self._all_rooms.size += more
        self._gone.pop(client, None)
        if entry.word.state is None:
            self._gone[client] = None

    def _forget(self, client: int) -> None:
        entry = self._entries.pop(client, None)
        if entry is not None:
            self._size -= entry.size
            self._all_rooms.size -= entry.size
            self._gone.pop(client, None)
            self._release(client)

    def _release(self, client: int) -> None:
        """Nobody speaks for it any more."""
        speaker = self._claims.pop(client, None)
        if speaker is not None:
            self._spoken_for[speaker] -= 1
            if not self._spoken_for[speaker]:
                del self._spoken_for[speaker]

    def _is_news(self, word: Word) -> bool:
        entry = self._entries.get(word.client)
        if entry is None:
            return word.state is not None
        known = entry.word
        return word.clock > known.clock or (word.clock == known.clock and word.state is None and known.state is not None)
