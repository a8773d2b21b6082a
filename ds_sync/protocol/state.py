"""What is stored of a stream, what a decision is given of it, and what it wants changed.

What is made for every append is not `frozen`, which would cost it a tenth of its time. Nobody changes it all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from ds_sync.exceptions import GoneError, NotFoundError
from ds_sync.protocol.expiry import Expiry
from ds_sync.protocol.headers import media_type
from ds_sync.protocol.history import START, Place, build_offset, build_place
from ds_sync.protocol.json_mode import JSON_MEDIA_TYPE
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.offsets import Offset
from ds_sync.protocol.producer import ProducerState

R = TypeVar("R")

FRAMED_SUFFIX: Final = "/.updates"
"""Streams whose path ends so hold whole frames, and can't be closed by a client."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a fork comes from. What stands before `place` is read from the source, which is kept as long as the fork lives."""

    path: str
    """The source's. It belongs to that life of the source as long as the fork lives."""
    position: int
    check: int
    sub_offset: int = 0
    """As it was asked for: bytes, or messages of a JSON stream, of the source's next record. They are the fork's own first record."""
    inherited_expiry: bool = False
    """Nobody asked for the fork's expiry: it is the source's."""

    @property
    def place(self) -> Place:
        """Where the fork's own records begin: a place in the source as well."""
        return Place(self.position, self.check)


@dataclass(slots=True)
class StreamState:
    """All that is remembered of one life of a URL, beside its records and producers."""

    incarnation: str
    """32 hex digits, random."""
    content_type: str
    """As the creator spelled it."""
    position: int
    """Bytes stored, those before a fork included."""
    running: bytes
    """The running hash after the last record."""
    closed: bool = False
    deleted: bool = False
    """A tombstone: the records are gone, the incarnation is remembered."""
    stream_seq: str | None = None
    """The last accepted Stream-Seq."""
    closed_by: ProducerStamp | None = None
    """The producer append that closed the stream, so that its repetition is recognised."""
    ttl: int | None = None
    """Seconds after the last read or append at which the stream ends."""
    expires_at: str | None = None
    """When the stream ends, as its creator spelled it."""
    deadline: float | None = None
    """Seconds since 1970 at which the stream ends; from then on it counts as deleted."""
    origin: Origin | None = None
    """Set if this is a fork."""
    forks: int = 0
    """How many living forks have this stream for their source."""
    kept: bool = False
    """It has ended, and its records are kept for its forks: nobody else reads them, and the path is not free."""
    earliest: Place | None = None
    """Where what retention has left begins; None if nothing was dropped."""

    @property
    def expiry(self) -> Expiry:
        """What the creator asked for."""
        return Expiry(self.ttl, self.expires_at)

    @property
    def tail(self) -> Offset:
        """The offset after the last record."""
        return build_offset(self.position, self.running)

    @property
    def place(self) -> Place:
        """The tail, parsed."""
        return build_place(self.position, self.running)

    @property
    def base(self) -> Place:
        """Where the stream's own records begin."""
        if self.origin is not None:
            return self.origin.place
        return self.earliest or START

    @property
    def listed(self) -> bool:
        """Whether there is a stream, as far as an engine without a clock can tell."""
        return not (self.deleted or self.kept)

    @property
    def is_json(self) -> bool:
        """Whether bodies are JSON messages (PROTOCOL.md section 7.1)."""
        return media_type(self.content_type) == JSON_MEDIA_TYPE


@dataclass(slots=True)
class StreamView:
    """What a decision is given of one stream."""

    state: StreamState | None
    """None: nothing was ever here."""
    producers: Mapping[str, ProducerState]
    """At least the producer the transaction named."""


@dataclass(slots=True)
class Change:
    """What a decision wants stored for one stream, all of it or nothing."""

    state: StreamState
    record: bytes | None = None
    """Appended; `state` already counts it."""
    producer: tuple[str, ProducerState] | None = None
    fresh: bool = False
    """A new life begins: earlier records and producers of this path are dropped."""


@dataclass(slots=True)
class Decision(Generic[R]):
    """A result, and the changes (one for each path of the transaction, or None) that must be durable before it is told."""

    result: R
    changes: tuple[Change | None, ...] = (None,)


def is_expired(state: StreamState, now: float) -> bool:
    """Whether the stream's time is over."""
    return state.deadline is not None and now >= state.deadline


def require_stream(state: StreamState | None, now: float) -> StreamState:
    """Return the living stream.

    Raises NotFoundError: STREAM_DELETED or STREAM_EXPIRED with the life that ended, or STREAM_NOT_FOUND; GoneError, with the same
    codes, for a stream that is kept for its forks (PROTOCOL.md section 4.2).
    """
    if state is None:
        raise NotFoundError("there is no such stream", code="STREAM_NOT_FOUND")
    expired = state.deadline is not None and now >= state.deadline
    if expired or state.deleted or state.kept:
        code = "STREAM_EXPIRED" if expired else "STREAM_DELETED"
        message = "the stream's time is over" if expired else "the stream was deleted"
        if not state.deleted and (state.kept or state.forks):
            raise GoneError(f"{message}; it is kept for its forks", code=code, incarnation=state.incarnation)
        raise NotFoundError(message, code=code, incarnation=state.incarnation)
    return state
