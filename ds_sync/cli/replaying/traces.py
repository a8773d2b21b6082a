"""Recorded editing sessions: reading them, and their positions in UTF-8 bytes.

A sequential trace is gzipped JSON, `{startContent, endContent, txns: [{patches: [[position, deleted, inserted], ...]}]}`; positions and
lengths are code points, and patches apply in order. In a concurrent trace each transaction also has an `agent`, who typed it, and
`parents`, the indexes of earlier transactions: its positions hold in the text that these and all before them merge to.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds_sync.exceptions import TraceError

Patch = tuple[int, int, str]
"""Position, how much is deleted there, what is inserted."""

_CHUNK = 1024

MAX_PEOPLE = 100
"""In one session."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One person's session: replayed from `start`, it ends at `end`."""

    start: str
    end: str
    transactions: tuple[tuple[Patch, ...], ...]

    @property
    def edits(self) -> int:
        """The number of patches."""
        return sum(map(len, self.transactions))

    def in_bytes(self) -> Iterator[list[Patch]]:
        """Yield each transaction with positions and lengths in UTF-8 bytes, which is how pycrdt counts."""
        if self.start.isascii() and all(patch[2].isascii() for patches in self.transactions for patch in patches):
            for patches in self.transactions:
                yield list(patches)
            return
        text = PositionedText(self.start)
        for patches in self.transactions:
            converted = []
            for position, deleted, inserted in patches:
                first, length = text.splice(position, deleted, inserted)
                converted.append((first, length, inserted))
            yield converted

    def as_shared(self) -> SharedTrace:
        """Return the same as a session of one person, who types `start` first."""
        patches = ([((0, 0, self.start),)] if self.start else []) + list(self.transactions)
        return SharedTrace(self.end, 1, tuple(Transaction(0, (number,), some) for number, some in enumerate(patches)))


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a person did in one go, beginning from what that person saw."""

    person: int
    seen: tuple[int, ...]
    """How many transactions of each person the text held to which `patches` belong; of their own, all earlier ones."""
    patches: tuple[Patch, ...]


@dataclass(frozen=True, slots=True)
class SharedTrace:
    """What several people wrote, at once: from the empty text, all of it together ends at `end`."""

    end: str
    people: int
    transactions: tuple[Transaction, ...]
    """Each after all that it has seen."""


class PositionedText:
    """A text under edit that knows the byte position of each code point: chunks of some hundred characters with their sizes."""

    def __init__(self, text: str) -> None:
        self._length = len(text)
        self._chunks = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
        self._bytes = [len(chunk.encode()) for chunk in self._chunks]

    def __str__(self) -> str:
        return "".join(self._chunks)

    def splice(self, position: int, deleted: int, inserted: str) -> tuple[int, int]:
        """Replace `deleted` code points at `position`; return both in bytes. Raises TraceError beyond the end."""
        if position < 0 or deleted < 0 or position + deleted > self._length:
            raise TraceError(f"an edit of {deleted} at position {position} in a text of {self._length} characters")
        self._length += len(inserted) - deleted
        first = self._cut(position)
        last = self._cut(position + deleted) if deleted else first
        before, length = sum(self._bytes[:first]), sum(self._bytes[first:last])
        new = [inserted[start : start + _CHUNK] for start in range(0, len(inserted), _CHUNK)]
        if first and len(new) == 1 and len(self._chunks[first - 1]) + len(inserted) <= _CHUNK:
            self._chunks[first - 1] += inserted
            self._bytes[first - 1] += len(inserted.encode())
            new = []
        self._chunks[first:last] = new
        self._bytes[first:last] = [len(chunk.encode()) for chunk in new]
        self._join(first)
        return before, length

    def _cut(self, position: int) -> int:
        """Make `position` a boundary between chunks, and return the index of the chunk after it."""
        for index, chunk in enumerate(self._chunks):
            if position == 0:
                return index
            if position < len(chunk):
                left, right = chunk[:position], chunk[position:]
                self._chunks[index : index + 1] = [left, right]
                self._bytes[index : index + 1] = [len(left.encode()), len(right.encode())]
                return index + 1
            position -= len(chunk)
        return len(self._chunks)

    def _join(self, index: int) -> None:
        """Keep the number of chunks small: merge the two around `index` where they fit into one."""
        if 0 < index < len(self._chunks) and len(self._chunks[index - 1]) + len(self._chunks[index]) <= _CHUNK:
            self._chunks[index - 1 : index + 1] = [self._chunks[index - 1] + self._chunks[index]]
            self._bytes[index - 1 : index + 1] = [self._bytes[index - 1] + self._bytes[index]]


def load_trace(path: Path, *, verify: bool = True) -> Trace:
    """Read a sequential trace and, if `verify`, check that it leads to its own end. Raises TraceError, in one line."""
    trace = read_trace(path)
    if isinstance(trace, SharedTrace):
        raise TraceError(f"{path}: a concurrent trace (its transactions have parents), where a sequential one is needed")
    if not verify:
        return trace
    text = PositionedText(trace.start)
    for number, patches in enumerate(trace.transactions):
        for position, deleted, inserted in patches:
            try:
                text.splice(position, deleted, inserted)
            except TraceError as error:
                raise TraceError(f"{path}: transaction {number}: {error}") from error
    if str(text) != trace.end:
        raise TraceError(f"{path}: its edits do not lead to its endContent")
    return trace


def load_shared_trace(path: Path) -> SharedTrace:
    """Read a trace of either kind as a session; where it leads is not checked. Raises TraceError, in one line."""
    trace = read_trace(path)
    return trace if isinstance(trace, SharedTrace) else trace.as_shared()


def read_trace(path: Path) -> Trace | SharedTrace:
    """Read a trace: a SharedTrace if it is concurrent, else a Trace. Where it leads is not checked. Raises TraceError, in one line."""
    try:
        data = json.loads(gzip.decompress(path.read_bytes()))
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or 'not a gzip file'}") from error
    except (EOFError, zlib.error) as error:
        raise TraceError(f"{path}: a damaged gzip file") from error
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: not JSON") from error
    if not isinstance(data, dict) or not isinstance(data.get("txns"), list) or not isinstance(data.get("endContent"), str):
        raise TraceError(f"{path}: not an editing trace (no txns and endContent)")
    start = data.get("startContent", "")
    if not isinstance(start, str):
        raise TraceError(f"{path}: startContent is no text")
    entries = data["txns"]
    transactions = [_read_patches(entry, number, path) for number, entry in enumerate(entries)]
    try:
        (start + data["endContent"] + "".join(patch[2] for patches in transactions for patch in patches)).encode()
    except UnicodeEncodeError as error:
        raise TraceError(f"{path}: half a surrogate pair, which no UTF-8 text can hold") from error
    if not any("parents" in entry for entry in entries):
        return Trace(start, data["endContent"], tuple(transactions))
    if start:
        raise TraceError(f"{path}: a concurrent trace begins with the empty text, and this one has a startContent")
    return _read_people(entries, transactions, data, path)


def _read_patches(entry: Any, number: int, path: Path) -> tuple[Patch, ...]:
    if not isinstance(entry, dict) or not isinstance(entry.get("patches"), list):
        raise TraceError(f"{path}: transaction {number} has no patches")
    for patch in entry["patches"]:
        if not isinstance(patch, list) or [type(part) for part in patch] != [int, int, str]:
            raise TraceError(f"{path}: transaction {number}: a patch is not [position, deleted, inserted]")
    return tuple((patch[0], patch[1], patch[2]) for patch in entry["patches"])


def _read_people(entries: list[dict[str, Any]], patches: list[tuple[Patch, ...]], data: dict[str, Any], path: Path) -> SharedTrace:
    """Who typed each transaction, and what had been seen. People are numbered in the order of their agents."""
    agents = [_read_agent(entry, number, data.get("numAgents"), path) for number, entry in enumerate(entries)]
    people = {agent: person for person, agent in enumerate(sorted(set(agents)))}
    if len(people) > MAX_PEOPLE:
        raise TraceError(f"{path}: {len(people)} people; more than {MAX_PEOPLE} can't be replayed")
    typed: list[list[int]] = [[] for _ in people]
    after: list[tuple[int, ...]] = []
    transactions = []
    for number, (entry, agent) in enumerate(zip(entries, agents, strict=True)):
        person = people[agent]
        parents = [after[parent] for parent in _read_parents(entry, number, len(entries), path)]
        seen = tuple(map(max, zip(*parents, strict=True))) if len(parents) > 1 else parents[0] if parents else (0,) * len(people)
        mine = typed[person]
        if seen[person] < len(mine):
            raise TraceError(f"{path}: transaction {number} of agent {agent} does not come after {mine[-1]}, which is the same agent's")
        mine.append(number)
        after.append((*seen[:person], len(mine), *seen[person + 1 :]))
        transactions.append(Transaction(person, seen, patches[number]))
    return SharedTrace(data["endContent"], len(people), tuple(transactions))


def _read_agent(entry: dict[str, Any], number: int, count: Any, path: Path) -> int:
    agent = entry.get("agent")
    if type(agent) is not int or agent < 0:
        raise TraceError(f"{path}: transaction {number}: its agent is not a number from 0: {agent!r:.40}")
    if type(count) is int and agent >= count:
        raise TraceError(f"{path}: transaction {number}: agent {agent}, but numAgents is {count}")
    return agent


def _read_parents(entry: dict[str, Any], number: int, total: int, path: Path) -> list[int]:
    parents = entry.get("parents")
    if not isinstance(parents, list) or any(type(parent) is not int for parent in parents):
        raise TraceError(f"{path}: transaction {number}: its parents are not a list of transactions")
    for parent in parents:
        if not 0 <= parent < total:
            raise TraceError(f"{path}: transaction {number}: its parent {parent} does not exist")
        if parent >= number:
            raise TraceError(f"{path}: transaction {number}: its parent {parent} is not before it (a cycle, or out of order)")
    return parents
