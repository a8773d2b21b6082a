"""WebSocket frames (RFC 6455 section 5), from a client to a server and back. Pure; what breaks the rules is refused with a close code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiled wheel for this machine
    from websockets.utils import apply_mask

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

PROTOCOL_ERROR: Final = 1002
NO_CODE: Final = 1005
"""What a close frame without a code means. Never sent."""
NOT_UTF8: Final = 1007
TOO_BIG: Final = 1009

_MAX_CONTROL: Final = 125


class BadFrameError(Exception):
    """The client broke the rules: nothing after this can be read. It is told `code` and hung up on."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Event:
    """A whole message, or a control frame."""

    kind: int
    data: bytes
    """For TEXT, proven to be UTF-8."""


class FrameReader:
    """What a client sends, cut anywhere, back to messages of at most `max_message` bytes."""

    __slots__ = ("_buffer", "_kind", "_max_message", "_parts")

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._buffer = bytearray()
        self._kind = CONTINUATION
        """Of the message whose fragments are `_parts`; CONTINUATION if there is none."""
        # Not a list: a client could send fragments without a byte for ever.
        self._parts = bytearray()

    def receive(self, data: bytes) -> list[Event]:
        """Return what is whole now. Raises BadFrameError."""
        buffer = self._buffer
        buffer += data
        events: list[Event] = []
        at = 0
        while (head := self._read_head(buffer, at)) is not None:
            first, start, length = head
            end = start + 4 + length
            if len(buffer) < end:
                break
            payload = apply_mask(buffer[start + 4 : end], buffer[start : start + 4])
            at = end
            event = self._receive_frame(first & 0x0F, payload, final=bool(first & 0x80))
            if event is not None:
                events.append(event)
        if at:
            del buffer[:at]
        return events

    def _read_head(self, buffer: bytearray, at: int) -> tuple[int, int, int] | None:
        """Return the first byte, where the mask is, and the payload's length; None if they are not all there."""
        if len(buffer) < at + 2:
            return None
        first, second = buffer[at], buffer[at + 1]
        kind, length, start = first & 0x0F, second & 0x7F, at + 2
        if first & 0x70 or kind not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise BadFrameError(PROTOCOL_ERROR, "an unknown kind of frame")
        if not second & 0x80:
            raise BadFrameError(PROTOCOL_ERROR, "a frame without a mask")
        if kind >= CLOSE and (length > _MAX_CONTROL or not first & 0x80):
            raise BadFrameError(PROTOCOL_ERROR, "a control frame that is long, or in parts")
        if kind < CLOSE and (kind == CONTINUATION) != (self._kind != CONTINUATION):
            raise BadFrameError(PROTOCOL_ERROR, "a message begins within another, or goes on without one")
        if length > _MAX_CONTROL:
            size = 2 if length == 126 else 8
            if len(buffer) < start + size:
                return None
            length = int.from_bytes(buffer[start : start + size], "big")
            start += size
        if kind < CLOSE and len(self._parts) + length > self._max_message:
            raise BadFrameError(TOO_BIG, f"a message has at most {self._max_message} bytes")
        return first, start, length

    def _receive_frame(self, kind: int, payload: bytes, *, final: bool) -> Event | None:
        if kind >= CLOSE:
            return Event(kind, payload)
        goes_on = kind == CONTINUATION
        if goes_on:
            kind = self._kind
        if goes_on or not final:
            self._kind = kind
            self._parts += payload
            if not final:
                return None
            payload, self._kind = bytes(self._parts), CONTINUATION
            self._parts.clear()
        if kind == TEXT and not _is_utf8(payload):
            raise BadFrameError(NOT_UTF8, "a text that is no UTF-8")
        return Event(kind, payload)


def build_head(kind: int, length: int) -> bytes:
    """Return what stands before a payload of `length` bytes in a frame of a server: whole, and without a mask."""
    if length <= _MAX_CONTROL:
        return bytes((0x80 | kind, length))
    if length < 2**16:
        return bytes((0x80 | kind, 126)) + length.to_bytes(2, "big")
    return bytes((0x80 | kind, 127)) + length.to_bytes(8, "big")


def build_close(code: int, reason: str) -> bytes:
    """Return a close frame; a reason that is too long is cut off."""
    text = reason.encode()[: _MAX_CONTROL - 2].decode("utf-8", "ignore").encode()
    return build_head(CLOSE, 2 + len(text)) + code.to_bytes(2, "big") + text


def parse_close(payload: bytes) -> tuple[int, str]:
    """Return code and reason of a client's close frame. Raises BadFrameError."""
    if not payload:
        return NO_CODE, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise BadFrameError(PROTOCOL_ERROR, "a close frame without a code that may be sent")
    if not _is_utf8(payload[2:]):
        raise BadFrameError(NOT_UTF8, "a reason that is no UTF-8")
    return code, payload[2:].decode()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
