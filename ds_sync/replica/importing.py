"""One document from another system's store into a place: as one update, or not at all; and the proof that it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ds_sync.crdt import CrdtAdapter
from ds_sync.replica.places import OpenPlace
from ds_sync.replica.records import DocumentKey


@dataclass(frozen=True, slots=True)
class Found:
    """How a place stands to what is to be imported."""

    exists: bool
    complete: bool
    """Everything that is imported is there."""
    equal: bool
    """And nothing else is."""


class Imported:
    """What a document is made of, outside: checked, merged, never part of a place until `write`."""

    def __init__(self, adapter: CrdtAdapter, updates: Sequence[bytes]) -> None:
        """Merge and check. Raises InvalidUpdateError if one of the updates is none, or contradicts the others."""
        self._adapter = adapter
        self._empty = adapter.version(adapter.new())
        self._update = adapter.merge(updates) if updates else adapter.snapshot(adapter.new())
        self._doc: Any = adapter.new()
        self.empty = not adapter.apply(self._doc, [self._update])
        """Whether there is nothing in it."""

    @property
    def size(self) -> int:
        """Bytes, as one update."""
        return len(self._update)

    async def write(self, place: OpenPlace, key: DocumentKey) -> bool:
        """Put what the place lacks of it there, in one piece; return whether that was anything. Raises DsSyncError."""
        return await place.write(key, self._content)

    def _content(self, version: bytes) -> bytes:
        # Into an empty document it goes as it is: a live document would drop what was deleted, which a store may keep for its history.
        return self._update if version == self._empty else self._adapter.missing(self._doc, version)

    async def compare(self, place: OpenPlace, key: DocumentKey) -> Found:
        """Read the document from the place, and compare it whole: by what it holds, not by versions. Raises DsSyncError."""
        held = await place.read(key)
        if held is None:
            return Found(exists=False, complete=self.empty, equal=self.empty)
        there = self._adapter.new()
        self._adapter.apply(there, [held])
        here = self._adapter.new()
        self._adapter.apply(here, [self._update])
        complete = not self._adapter.apply(there, [self._update])
        return Found(exists=True, complete=complete, equal=complete and not self._adapter.apply(here, [held]))
