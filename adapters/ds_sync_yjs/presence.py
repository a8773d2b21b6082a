"""Yjs awareness on the wire (y-protocols/awareness.js): the number of clients; for each its id, its clock, and its state as JSON text.

Written here because pycrdt's own coder counts characters where bytes are meant, and reads a number of any length.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pycrdt import Doc

from ds_sync.crdt import Word
from ds_sync.exceptions import InvalidUpdateError
from ds_sync.protocol.framing import build_frame, build_varint
from ds_sync_yjs.wire import Reader, WireError


class YjsPresence:
    """`ds_sync.crdt.PresenceAdapter` for Yjs."""

    def client(self, doc: Doc[Any]) -> int:
        """Return the document's client id."""
        return int(doc.client_id)

    def encode(self, words: Sequence[Word]) -> bytes:
        """Return the update."""
        parts = [build_varint(len(words))]
        for word in words:
            text = json.dumps(word.state, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            parts += (build_varint(word.client), build_varint(word.clock), build_frame(text.encode()))
        return b"".join(parts)

    def decode(self, update: bytes) -> list[Word]:
        """Return the words. Raises InvalidUpdateError."""
        reader = Reader(update)
        try:
            return [Word(reader.varint(), reader.varint(), _read_state(reader)) for _ in range(reader.count())]
        except (WireError, IndexError, ValueError, RecursionError) as error:
            raise InvalidUpdateError(f"these bytes are no presence update: {error}") from error


def _read_state(reader: Reader) -> Any:
    size = reader.count()
    reader.skip(size)
    text = reader.data[reader.at - size : reader.at]
    return json.loads(text) if text else None
