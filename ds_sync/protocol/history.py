"""Offsets that prove their history: what the inside of our own offsets means.

An offset is `<position>_<check>`, sixteen digits each. The position is the number of bytes stored before it. Every record
carries the running hash h(n) = blake2b(h(n-1) || record), begun with the stream's incarnation, and the check is that hash
modulo 2^53 - 2. So an offset of a stream that was deleted and made anew, or of a server that was set back to an older copy
and has grown since, is recognised instead of being answered from the middle of somebody else's bytes. PROTOCOL.md
section 6 leaves the inside of offsets to the server; clients never look at it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from ds_sync.exceptions import InvalidRequestError
from ds_sync.protocol.offsets import Offset

HASH_SIZE: Final = 16
"""Bytes of the running hash."""

CHECK_MODULUS: Final = 2**53 - 2
"""JavaScript clients add one to the check (YJS-PROTOCOL.md, snapshots) and must not lose precision."""

MAX_POSITION: Final = 10**16 - 1

_SPELLING = re.compile(r"([0-9]{16})_([0-9]{16})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """A parsed offset."""

    position: int
    """Bytes stored before it."""
    check: int

    def matches(self, other: Place) -> bool:
        """Whether this, sent by a client, is the stored place `other`. check + 1 is accepted as the same place."""
        return self.position == other.position and self.check - other.check in (0, 1)


START: Final = Place(0, 0)
"""Before the first byte of any stream."""


def begin_history(incarnation: str) -> bytes:
    """Return h(0) of the stream whose incarnation is these 32 hex digits."""
    return bytes.fromhex(incarnation)


def extend_history(previous: bytes, record: bytes) -> bytes:
    """Return h(n) from h(n-1) and the bytes of record n."""
    digest = blake2b(previous, digest_size=HASH_SIZE)
    digest.update(record)
    return digest.digest()


def build_place(position: int, running: bytes) -> Place:
    """Return the place after `position` bytes whose running hash is `running`; the start is all zeros whatever the hash."""
    return Place(position, int.from_bytes(running, "big") % CHECK_MODULUS) if position else START


def build_offset(position: int, running: bytes) -> Offset:
    """Spell the offset after `position` bytes whose running hash is `running`."""
    check = int.from_bytes(running, "big") % CHECK_MODULUS if position else 0
    return Offset(f"{position:016}_{check:016}")


def spell_place(place: Place) -> Offset:
    """Spell a place as an offset."""
    return Offset(f"{place.position:016}_{place.check:016}")


def parse_place(offset: Offset | str) -> Place:
    """Read an offset of ours. Raises InvalidRequestError for anything else, the sentinels included."""
    match = _SPELLING.fullmatch(offset)
    if match is None:
        raise InvalidRequestError("this is not an offset this server gave out", code="INVALID_OFFSET")
    return Place(int(match[1]), int(match[2]))
