"""Yjs awareness on the wire (y-protocols/awareness.js): the number of clients; for each its id, its clock, and its state as JSON text.

Written here because pycrdt's own coder counts characters where bytes are meant, and reads a number of any length.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from typing import Any, Final, NoReturn

from pycrdt import Doc

from ds_sync.crdt import Word
from ds_sync.exceptions import InvalidUpdateError
from ds_sync.protocol.framing import build_frame, build_varint
from ds_sync_yjs.wire import Reader, WireError

MAX_CLIENT: Final = 2**53 - 1
"""The largest number JavaScript knows exactly; its clients fail on a larger one."""

MAX_CLOCK: Final = 2**52
"""Nobody comes near it. There must be room above it: who is spoken for by another answers with a later clock."""


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
            return [_read_word(reader) for _ in range(reader.count())]
        except (WireError, IndexError, ValueError, RecursionError) as error:
            raise InvalidUpdateError(f"these bytes are no presence update: {error}") from error


def _read_word(reader: Reader) -> Word:
    client, clock = reader.varint(), reader.varint()
    if client > MAX_CLIENT or clock > MAX_CLOCK:
        raise WireError("a client or a clock beyond what JavaScript can count")
    return Word(client, clock, _read_state(reader))


def _read_state(reader: Reader) -> Any:
    size = reader.count()
    reader.skip(size)
    text = reader.data[reader.at - size : reader.at]
    if not text:
        return None
    state = json.loads(text, parse_constant=_refuse_number, parse_float=_read_float)
    if b"\\u" in text:
        json.dumps(state, ensure_ascii=False).encode()  # half a character can be escaped, and not be written: a ValueError
    return state


def _read_float(spelled: str) -> float:
    number = float(spelled)
    return number if isfinite(number) else _refuse_number(spelled)


def _refuse_number(spelled: str) -> NoReturn:
    raise ValueError(f"{spelled[:20]} is no number that JSON can spell")
