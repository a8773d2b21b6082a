"""What is edited in a simulation: a CRDT behind its adapter. Authors of adapters write a Subject for theirs."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ds_sync.crdt import CrdtAdapter, load_adapter
from ds_sync.testing.simulator.text import TextSubject


class Subject(Protocol):
    """A kind of document, as the simulation uses it. All randomness comes from the generators passed in."""

    name: str

    def make_adapter(self, random: random.Random) -> CrdtAdapter:
        """Return an adapter whose documents take their identity from `random`."""

    def edit(self, doc: Any, random: random.Random) -> str:
        """Make one edit, deletions among them; return what it was, in a few words. Every edit must change something."""

    def transaction(self, doc: Any) -> AbstractContextManager[object] | None:
        """Return a transaction of the application, inside which it will make several edits and wait for other things; None: there is no
        such thing here.
        """

    def content(self, doc: Any) -> str:
        """Return what a reader sees."""

    def count_edits(self, update: bytes) -> list[object]:
        """Return a name for each edit in `update` that must stand once in the log; [] if they can't be told apart."""


class YjsSubject:
    """A Yjs text, behind the installed adapter for Yjs."""

    name = "yjs"

    def make_adapter(self, random: random.Random) -> CrdtAdapter:
        adapter = load_adapter("yjs")
        document: Any = type(adapter.new())

        def new() -> Any:
            return document(client_id=random.getrandbits(31) + 1)

        adapter.new = new  # type: ignore[method-assign]
        return adapter

    def edit(self, doc: Any, random: random.Random) -> str:
        from pycrdt import Text

        text = doc.get("text", type=Text)
        length = len(text)
        if length and random.random() < 0.3:
            at = random.randrange(length)
            del text[at]
            return f"deletes at {at}"
        character, at = random.choice("abcdefghijklmnopqrstuvwxyz"), random.randint(max(0, length - 4), length)
        text.insert(at, character)
        return f"writes {character!r}"

    def transaction(self, doc: Any) -> AbstractContextManager[object]:
        transaction: AbstractContextManager[object] = doc.transaction()
        return transaction

    def content(self, doc: Any) -> str:
        from pycrdt import Text

        return str(doc.get("text", type=Text))

    def count_edits(self, update: bytes) -> list[object]:
        return []


SUBJECTS: dict[str, type[TextSubject] | type[YjsSubject]] = {"text": TextSubject, "yjs": YjsSubject}
