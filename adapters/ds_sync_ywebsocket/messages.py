"""The y-websocket protocol on the wire (y-protocols/PROTOCOL.md): each WebSocket message is one of these.

A message is a kind; for a sync message a step; then a length as a lib0 varint and that many bytes. All kinds and steps are below 128: one
byte each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ds_sync.exceptions import FramingError
from ds_sync.protocol.framing import build_frame, parse_frames

SYNC: Final = 0
PRESENCE: Final = 1
AUTH: Final = 2
ASK_PRESENCE: Final = 3

STEP_1: Final = 0
"""A state vector: "send me what I lack"."""
STEP_2: Final = 1
"""The answer: one update."""
UPDATE: Final = 2

NOTHING: Final = b"\x00\x00"
"""The update that changes nothing."""

HEARTBEAT: Final = bytes((PRESENCE, 1, 0))
"""Presence of nobody: y-websocket clients hang up after 30 s without a message."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a client sent."""

    kind: int
    step: int
    """Of a sync message."""
    body: bytes


def parse_message(data: bytes) -> Message | None:
    """Return the message, None for a kind we don't know. Raises FramingError for bytes that are none."""
    if not data:
        raise FramingError("an empty message", at=0)
    kind = data[0]
    if kind == SYNC:
        if len(data) < 2:
            raise FramingError("the message ends early", at=1)
        return None if data[1] > UPDATE else Message(SYNC, data[1], _only_frame(data[2:]))
    if kind == PRESENCE:
        return Message(PRESENCE, 0, _only_frame(data[1:]))
    return Message(kind, 0, b"") if kind == ASK_PRESENCE else None


def build_sync(step: int, body: bytes) -> bytes:
    """Return a sync message."""
    return bytes((SYNC, step)) + build_frame(body)


def build_presence(update: bytes) -> bytes:
    """Return the message that says who is there."""
    return bytes((PRESENCE,)) + build_frame(update)


def build_refusal(reason: str) -> bytes:
    """Return the message that denies permission."""
    return bytes((AUTH, 0)) + build_frame(reason.encode())


def _only_frame(data: bytes) -> bytes:
    frames = parse_frames(data)
    if len(frames.payloads) != 1 or frames.rest:
        raise FramingError("a message holds one run of bytes, whole", at=0)
    return frames.payloads[0]
