"""What travels: frozen values. Data always comes with the offset after it, so nobody can keep one without the other."""

from __future__ import annotations

from dataclasses import dataclass

from ds_sync.protocol.offsets import Offset


@dataclass(frozen=True, slots=True)
class ProducerStamp:
    """What makes an append idempotent: who sends, in which epoch, which number (PROTOCOL.md section 5.2.1)."""

    id: str
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Page:
    """A run of a stream's bytes and where to read on (PROTOCOL.md sections 5.5 to 5.7)."""

    data: bytes
    """As stored; empty if there was nothing after the offset asked for. A JSON stream's page is a JSON array."""
    next_offset: Offset
    up_to_date: bool
    """Nothing was left to read when the server answered."""
    closed: bool = False
    """The stream's end: nothing will ever follow."""
    incarnation: str | None = None
    """Which life of this URL the bytes belong to; None from servers that do not say (DESIGN: Stream-Incarnation)."""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a server says of a stream in answer to PUT and HEAD (PROTOCOL.md sections 5.1 and 5.4)."""

    tail: Offset
    content_type: str
    created: bool = False
    """True if this very request made the stream."""
    closed: bool = False
    incarnation: str | None = None


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What a server says of an append (PROTOCOL.md sections 5.2 and 5.2.1)."""

    tail: Offset | None
    """The offset after the append, where the server says it."""
    duplicate: bool
    """A producer append answered 204: *not* a proof that these bytes stand in the stream."""
    closed: bool = False
    incarnation: str | None = None
