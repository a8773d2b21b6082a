"""Offsets: opaque positions in a stream (PROTOCOL.md section 6).

A client stores an offset, compares it for equality and sends it back; it never looks inside. What the inside of *our*
server's offsets means is `ds_sync.protocol.history`'s business alone.
"""

from __future__ import annotations

from typing import NewType

from ds_sync.exceptions import InvalidRequestError, ProtocolError

Offset = NewType("Offset", str)
"""A position in a stream, as some server spelled it."""

BEGINNING = Offset("-1")
"""Sentinel: before the first byte."""

NOW = Offset("now")
"""Sentinel: the tail at the moment the server answers."""

MAX_OFFSET_LENGTH = 256
"""PROTOCOL.md section 6: offsets should stay under 256 characters."""

_FORBIDDEN = frozenset(",&=?/ ")


def _is_token(text: str) -> bool:
    return 0 < len(text) <= MAX_OFFSET_LENGTH and text.isascii() and text.isprintable() and _FORBIDDEN.isdisjoint(text) and ".." not in text


def parse_request_offset(text: str) -> Offset:
    """Return the offset a client asked for. Raises InvalidRequestError unless it is a single token."""
    if not _is_token(text):
        raise InvalidRequestError("the offset is empty, too long, or holds a character that offsets may not have")
    return Offset(text)


def parse_response_offset(text: str | None) -> Offset:
    """Return the offset a server answered with. Raises ProtocolError if there is none, or it is a sentinel."""
    if text is None:
        raise ProtocolError("the answer carries no Stream-Next-Offset")
    if not _is_token(text) or text in (BEGINNING, NOW):
        raise ProtocolError(f"the answer's Stream-Next-Offset is not an offset: {text[:80]!r}")
    return Offset(text)
