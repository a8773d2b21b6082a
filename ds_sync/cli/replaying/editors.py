"""What the people of a session have on their screens: for each a plain Yjs document, which shows exactly what the trace says they saw.

The positions of a transaction hold in the text that its parents merge to, and in no other. A replica can't be held at that text: it
merges whatever arrives. So each person types into a document of their own, that has merged what the parents contain and no more; the
Yjs update of that edit is what the replica is given. It names the characters it stands between, and Yjs places it in whatever
the replica has merged beyond.

Two people who type at one place at the same time: Yjs puts the lower client id first (what one of them deletes there stays as a mark,
and may make two places one). The trace's end has decided that. So a person's document has a client id that the trace gives, always the
same one; it never gives two contents to one clock, because the trace never does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pycrdt import Doc, Map, Text, TransactionEvent

from ds_sync.cli.replaying.traces import PositionedText, SharedTrace, Transaction
from ds_sync.exceptions import TraceError

Clocks = dict[int, int]
"""How much of each client is there: {client id: the next clock}, what Yjs calls a state vector."""


class _Editor:
    """One person's document."""

    def __init__(self, client: int, *, ascii_only: bool) -> None:
        self.doc: Doc[Any] = Doc(client_id=client)
        self.text = self.doc.get("body", type=Text)
        self.marks = self.doc.get("marks", type=Map)
        self.positioned = None if ascii_only else PositionedText("")
        """Where code points begin; None if each is a byte."""
        self.update = b""
        """Of the last edit."""
        self.doc.observe(self._keep)

    def _keep(self, event: TransactionEvent) -> None:
        self.update = bytes(event.update)

    def show(self, updates: list[bytes]) -> None:
        """Merge what others typed."""
        with self.doc.transaction():
            for update in updates:
                self.doc.apply_update(update)
        if self.positioned is not None:
            self.positioned = PositionedText(str(self.text))

    def type(self, transaction: Transaction) -> bytes:
        """Carry out the patches; return their update. Raises TraceError for a position beyond the text."""
        with self.doc.transaction():
            for position, deleted, inserted in transaction.patches:
                if self.positioned is not None:
                    position, deleted = self.positioned.splice(position, deleted, inserted)
                elif position < 0 or deleted < 0 or position + deleted > len(self.text):
                    raise TraceError(f"an edit of {deleted} at position {position} in a text of {len(self.text)} characters")
                if deleted:
                    del self.text[position : position + deleted]
                if inserted:
                    self.text.insert(position, inserted)
            if not _clocks_taken(transaction):
                self.marks[str(self.doc.client_id)] = transaction.seen[transaction.person]
        return self.update


def _clocks_taken(transaction: Transaction) -> int:
    """Return how many clocks the patches take: one for each UTF-16 unit that is inserted."""
    return sum(len(inserted) if inserted.isascii() else len(inserted.encode("utf-16-le")) // 2 for _, _, inserted in transaction.patches)


class Editors:
    """All people's documents, moved on together: `type` each transaction in the order of the trace.

    Yjs counts no clock for a deletion, so that nobody could tell whether it has arrived. Where nothing is inserted the person therefore
    also sets a mark, in a map beside the text. Then the clocks say exactly which transactions a document has.
    """

    def __init__(self, trace: SharedTrace, *, last_first: bool) -> None:
        """`last_first`: at one place, the text of the person with the higher number comes first."""
        self._trace = trace
        ascii_only = all(patch[2].isascii() for transaction in trace.transactions for patch in transaction.patches)
        self.clients = [trace.people - person if last_first else person + 1 for person in range(trace.people)]
        """The client id of each person's document."""
        self._editors = [_Editor(client, ascii_only=ascii_only) for client in self.clients]
        self._updates: list[list[bytes]] = [[] for _ in range(trace.people)]
        self._all: list[bytes] = []
        self._clocks = [[0] for _ in range(trace.people)]
        """Of each person: the clock after each number of transactions."""
        self._shown = [[0] * trace.people for _ in range(trace.people)]
        self.clocks_in_all = sum(_clocks_taken(transaction) or 1 for transaction in trace.transactions)
        """The sum of the clocks at the session's end."""

    def type(self, number: int) -> bytes:
        """Let its person see what transaction `number` has seen, and type it; return the update. Raises TraceError."""
        transaction = self._trace.transactions[number]
        person, shown = transaction.person, self._shown[transaction.person]
        new = [
            update
            for other, count in enumerate(transaction.seen)
            if other != person and count > shown[other]
            for update in self._updates[other][shown[other] : count]
        ]
        editor = self._editors[person]
        try:
            if new:
                editor.show(new)
            update = editor.type(transaction)
        except TraceError as error:
            raise TraceError(f"transaction {number}: {error}") from error
        self._shown[person] = list(transaction.seen)
        self._updates[person].append(update)
        self._all.append(update)
        self._clocks[person].append(self._clocks[person][-1] + (_clocks_taken(transaction) or 1))
        return update

    def clocks_seen(self, transaction: Transaction) -> Clocks:
        """Return the clocks of a document that has exactly what a transaction has seen, all of which was typed."""
        return self._clocks_after(transaction.seen)

    def clocks_shown(self, person: int) -> Clocks:
        """Return the clocks of that person's document."""
        shown = list(self._shown[person])
        shown[person] = len(self._updates[person])
        return self._clocks_after(shown)

    def clocks_typed(self) -> Clocks:
        """Return the clocks of a document that has all that was typed so far."""
        return self._clocks_after([len(updates) for updates in self._updates])

    def _clocks_after(self, counts: Sequence[int]) -> Clocks:
        return {client: clocks[count] for client, clocks, count in zip(self.clients, self._clocks, counts, strict=True) if count}

    def text_of(self, person: int) -> str:
        """Return what that person sees."""
        return str(self._editors[person].text)

    def merge(self) -> str:
        """Return the text of a plain document that is given all that was typed so far."""
        doc: Doc[Any] = Doc()
        with doc.transaction():
            for update in self._all:
                doc.apply_update(update)
        return str(doc.get("body", type=Text))


def read_clocks(doc: Doc[Any]) -> Clocks:
    """Return what `doc` has, as its state vector says: numbers, as varints, the count of pairs first."""
    numbers = []
    value = shift = 0
    for byte in bytes(doc.get_state()):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    return dict(zip(numbers[1::2], numbers[2::2], strict=True))


def covers(clocks: Clocks, wanted: Clocks) -> bool:
    """Whether a document with `clocks` has all of `wanted`."""
    return all(clocks.get(client, 0) >= clock for client, clock in wanted.items())


def find_order(trace: SharedTrace) -> bool:
    """Return `last_first` as the session's end demands it. Raises TraceError if a plain document ends elsewhere, either way."""
    complaint = ""
    for last_first in (False, True):
        editors = Editors(trace, last_first=last_first)
        for number in range(len(trace.transactions)):
            editors.type(number)
        merged = editors.merge()
        if merged == trace.end:
            return last_first
        if not complaint:
            same = next((at for at, pair in enumerate(zip(merged, trace.end, strict=False)) if pair[0] != pair[1]), None)
            place = min(len(merged), len(trace.end)) if same is None else same
            complaint = f"{merged[place : place + 20]!r} is at {place} where endContent has {trace.end[place : place + 20]!r}"
    raise TraceError(f"in a plain Yjs document its edits do not lead to its endContent, whoever comes first at one place: {complaint}")
