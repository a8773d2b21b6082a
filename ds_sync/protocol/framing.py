"""Frames: a length as a lib0 varint, then that many bytes (YJS-PROTOCOL.md section 7).

A stream of updates is a run of frames. A page may end inside one, so reading keeps what is left over. We check every
length ourselves: pycrdt's Decoder hands out a truncated message without an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ds_sync.exceptions import FramingError

MAX_FRAME = 256 * 1024 * 1024
"""Bytes. A length above this is taken for garbage, never waited for."""

_MAX_VARINT = 5  # bytes: 35 bits hold every length up to MAX_FRAME


def build_varint(number: int) -> bytes:
    """Return a number from 0 on as lib0 spells it: seven bits a byte, lowest first."""
    if number < 0x80:
        return bytes((number,))
    spelled = bytearray()
    while number >= 0x80:
        spelled.append(number & 0x7F | 0x80)
        number >>= 7
    spelled.append(number)
    return bytes(spelled)


def build_frame(payload: bytes) -> bytes:
    """Return `payload` with its length before it."""
    return build_varint(len(payload)) + payload


def build_frames(payloads: Iterable[bytes]) -> bytes:
    """Return the run of frames that holds `payloads`, in order."""
    return b"".join(map(build_frame, payloads))


@dataclass(frozen=True, slots=True)
class Frames:
    """What a run of bytes holds: the payloads of its whole frames, and the cut frame at its end."""

    payloads: tuple[bytes, ...]
    rest: bytes
    """The first bytes of a frame whose end has not arrived; empty if the run ends with a whole frame."""


def parse_frames(data: bytes, *, max_frame: int = MAX_FRAME) -> Frames:
    """Split `data` into frames. Raises FramingError if a length can't be one: too long, or above `max_frame` bytes."""
    payloads: list[bytes] = []
    start, end = 0, len(data)
    while start < end:
        length, shift, at = 0, 0, start
        while at < end:
            byte = data[at]
            length |= (byte & 0x7F) << shift
            at += 1
            if byte < 0x80:
                break
            shift += 7
            if at - start == _MAX_VARINT:
                raise FramingError(f"byte {start}: a frame's length runs over {_MAX_VARINT} bytes", at=start)
        else:
            break
        if length > max_frame:
            raise FramingError(f"byte {start}: a frame of {length} bytes is above {max_frame}", at=start)
        if at + length > end:
            break
        payloads.append(data[at : at + length])
        start = at + length
    return Frames(tuple(payloads), data[start:])
