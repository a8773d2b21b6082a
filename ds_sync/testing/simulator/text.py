"""A small text CRDT in pure Python, fast and seeded, that has what makes Yjs hard.

An insertion has the number (client, clock) and names the character it stands behind; it waits for that, and for all earlier ones of
its client. A deletion has no clock, so that equal versions do not prove equal documents. An update is JSON:
[[client, clock, parent's client, parent's clock, character], ...], [[client, clock], ...].
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ds_sync.exceptions import DocumentBusyError, InvalidUpdateError

Number = tuple[int, int]
ROOT: Number = (0, 0)


class TextDoc:
    """A text; edited by `insert` and `delete`, several of which are one update inside `transaction`."""

    def __init__(self, client: int) -> None:
        self.client = client
        self.placed: dict[Number, tuple[Number, str]] = {}
        self.waiting: dict[Number, tuple[Number, str]] = {}
        self.deleted: dict[Number, None] = {}
        self.clocks: dict[int, int] = {}
        self.observers: list[Callable[[bytes], None]] = []
        self.pending: tuple[dict[Number, tuple[Number, str]], list[Number]] | None = None
        """What the open transaction has made."""

    def visible(self) -> list[Number]:
        """Return the characters that are there, in the order they came."""
        return [number for number in self.placed if number not in self.deleted]

    def insert(self, parent: Number, character: str) -> None:
        """Put `character` behind `parent` (ROOT: at the beginning)."""
        number = (self.client, self.clocks.get(self.client, 0) + 1)
        self.placed[number] = (parent, character)
        self.clocks[self.client] = number[1]
        self._announce({number: self.placed[number]}, [])

    def delete(self, number: Number) -> None:
        """Take a character away."""
        self.deleted[number] = None
        self._announce({}, [number])

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Make one update of the edits inside; what raises inside undoes nothing. Transactions don't nest."""
        pending: tuple[dict[Number, tuple[Number, str]], list[Number]] = {}, []
        self.pending = pending
        try:
            yield
        finally:
            self.pending = None
            if any(pending):
                self._announce(*pending)

    def _announce(self, inserted: dict[Number, tuple[Number, str]], deleted: list[Number]) -> None:
        if self.pending is not None:
            self.pending[0].update(inserted)
            self.pending[1].extend(deleted)
            return
        for observer in tuple(self.observers):
            observer(encode(inserted, deleted))

    def __str__(self) -> str:
        children: dict[Number, list[Number]] = {}
        for number, (parent, _) in self.placed.items():
            children.setdefault(parent, []).append(number)
        text, stack = [], sorted(children.get(ROOT, ()))
        while stack:
            number = stack.pop()  # the youngest first, as in RGA
            if number not in self.deleted:
                text.append(self.placed[number][1])
            stack += sorted(children.get(number, ()))
        return "".join(text)


def encode(inserted: dict[Number, tuple[Number, str]], deleted: Iterable[Number]) -> bytes:
    """Return an update."""
    return json.dumps([[[*number, *parent, character] for number, (parent, character) in inserted.items()], list(deleted)]).encode()


def decode(update: bytes, index: int = 0) -> tuple[dict[Number, tuple[Number, str]], list[Number]]:
    """Read an update. Raises InvalidUpdateError."""
    try:
        inserted, deleted = json.loads(update)
        return {(a, b): ((c, d), character) for a, b, c, d, character in inserted}, [(a, b) for a, b in deleted]
    except (ValueError, TypeError) as error:
        raise InvalidUpdateError(f"not a text update: {error}", index=index) from error


class TextAdapter:
    """A CrdtAdapter whose documents take their client ids from `random`."""

    name, format, content_type = "simulated", "simulated-text-v1", "application/octet-stream"

    def __init__(self, random: random.Random) -> None:
        self._random = random

    def new(self) -> TextDoc:
        return TextDoc(self._random.getrandbits(40) + 1)

    def apply(self, doc: TextDoc, updates: Sequence[bytes]) -> bool:
        _refuse_open_transaction(doc)
        news = False
        try:
            for index, update in enumerate(updates):
                news = self._take(doc, *decode(update, index)) or news
        finally:
            self._place(doc)
        return news

    @staticmethod
    def _take(doc: TextDoc, inserted: dict[Number, tuple[Number, str]], deleted: Iterable[Number]) -> bool:
        news = False
        for number, entry in inserted.items():
            if number not in doc.placed and number not in doc.waiting:
                doc.waiting[number] = entry
                news = True
        for number in deleted:
            if number not in doc.deleted:
                doc.deleted[number] = None
                news = True
        return news

    @staticmethod
    def _place(doc: TextDoc) -> None:
        moved = bool(doc.waiting)
        while moved:
            moved = False
            for number, entry in sorted(doc.waiting.items()):
                client, clock = number
                if doc.clocks.get(client, 0) == clock - 1 and (entry[0] == ROOT or entry[0] in doc.placed):
                    doc.placed[number] = doc.waiting.pop(number)
                    doc.clocks[client] = clock
                    moved = True

    def version(self, doc: TextDoc) -> bytes:
        _refuse_open_transaction(doc)
        return json.dumps(list(doc.clocks.items())).encode()

    def missing(self, doc: TextDoc, since: bytes | None) -> bytes:
        _refuse_open_transaction(doc)
        known = {} if since is None else dict(json.loads(since))
        beyond = {number: entry for number, entry in doc.placed.items() if number[1] > known.get(number[0], 0)}
        return encode(beyond | doc.waiting, doc.deleted)

    def snapshot(self, doc: TextDoc) -> bytes:
        return self.missing(doc, None)

    def merge(self, updates: Sequence[bytes]) -> bytes:
        inserted: dict[Number, tuple[Number, str]] = {}
        deleted: dict[Number, None] = {}
        for index, update in enumerate(updates):
            more, gone = decode(update, index)
            inserted |= more
            deleted |= dict.fromkeys(gone)
        return encode(inserted, deleted)

    def observe(self, doc: TextDoc, callback: Callable[[bytes], None]) -> Callable[[], None]:
        doc.observers.append(callback)
        return lambda: doc.observers.remove(callback)


def _refuse_open_transaction(doc: TextDoc) -> None:
    if doc.pending is not None:
        raise DocumentBusyError("a transaction is open on this document")


class TextSubject:
    """The text as a subject of the simulation (`ds_sync.testing.simulator.subjects.Subject`)."""

    name = "text"

    def make_adapter(self, random: random.Random) -> TextAdapter:
        return TextAdapter(random)

    def edit(self, doc: Any, random: random.Random) -> str:
        visible = doc.visible()
        if visible and random.random() < 0.3:
            number = random.choice(visible)
            doc.delete(number)
            return f"deletes {doc.placed[number][1]!r}"
        character = random.choice("abcdefghijklmnopqrstuvwxyz")
        doc.insert(random.choice(visible[-4:]) if visible and random.random() < 0.9 else ROOT, character)
        return f"writes {character!r}"

    def transaction(self, doc: Any) -> AbstractContextManager[object]:
        transaction: AbstractContextManager[object] = doc.transaction()
        return transaction

    def content(self, doc: Any) -> str:
        return str(doc)

    def count_edits(self, update: bytes) -> list[object]:
        return list(decode(update)[0])
