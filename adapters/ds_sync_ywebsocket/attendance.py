"""Who is in a room: the last word of each client, and the connection that speaks for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ds_sync.crdt import Word

FORGET_SECONDS: Final = 30.0
"""Yjs clients forget a client they have not heard of for this long."""

REMEMBER_SECONDS: Final = 60.0
"""How long it is remembered that a client left: clients repeat what they have heard of each other, and would bring it back."""


@dataclass(slots=True)
class _Entry:
    word: Word
    heard: float


class Attendance:
    """The presence of one room. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._claims: dict[int, object] = {}
        """By client: the connection that speaks for it; also of those whose first word is on its way."""

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

    def claim(self, speaker: object, words: Iterable[Word], *, first: bool) -> None:
        """Note for whom `speaker` speaks: for clients nobody knew, and with its `first` words for whomever it names.

        A client that comes back on a new connection says its old word again, before it has heard anything of the others. What it says
        later may repeat the others' words.
        """
        for word in words:
            entry = self._entries.get(word.client)
            if word.state is not None and (first or entry is None or entry.word.state is None):
                self._claims[word.client] = speaker

    def leave(self, speaker: object) -> list[Word]:
        """Return the last words of those for whom `speaker` spoke: that they are gone."""
        gone = [client for client, owner in self._claims.items() if owner is speaker]
        words = []
        for client in gone:
            del self._claims[client]
            entry = self._entries.get(client)
            if entry is not None and entry.word.state is not None:
                words.append(replace(entry.word, clock=entry.word.clock + 1, state=None))
        return words

    def hear(self, words: Sequence[Word], now: float) -> list[Word]:
        """Take in what was said; return what of it is news."""
        news = []
        for word in words:
            if self._is_news(word):
                self._entries[word.client] = _Entry(word, now)
                news.append(word)
            elif (entry := self._entries.get(word.client)) is not None and word.clock == entry.word.clock:
                entry.heard = now
        return news

    def expire(self, now: float) -> list[Word]:
        """Forget those who were not heard of for FORGET_SECONDS; return the words that say so."""
        gone = []
        for client, entry in list(self._entries.items()):
            silence = now - entry.heard
            if entry.word.state is not None and silence > FORGET_SECONDS:
                entry.word = replace(entry.word, state=None)
                self._claims.pop(client, None)
                gone.append(entry.word)
            elif silence > REMEMBER_SECONDS:
                del self._entries[client]
        return gone

    def _is_news(self, word: Word) -> bool:
        entry = self._entries.get(word.client)
        if entry is None:
            return word.state is not None
        known = entry.word
        return word.clock > known.clock or (word.clock == known.clock and word.state is None and known.state is not None)
