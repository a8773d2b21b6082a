"""All rules of the server, once: (what is stored, what is asked, the time) -> what to answer and what to store.

Pure functions over frozen values. A refusal is an exception of ds_sync.exceptions and stores nothing. An engine may run a
decision more than once (compare-and-swap), so nothing here may have an effect. Sources: PROTOCOL.md sections 5.1 to 5.4 and
5.2.1; where it is silent, the official server suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from ds_sync.exceptions import (
    ConflictError,
    FramingError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    SequenceRegressionError,
    StreamClosedError,
)
from ds_sync.protocol.expiry import NEVER, RENEWAL_SHARE, Expiry
from ds_sync.protocol.framing import parse_frames
from ds_sync.protocol.headers import media_type
from ds_sync.protocol.history import Place, begin_history, build_offset, build_place, extend_history
from ds_sync.protocol.json_mode import JSON_MEDIA_TYPE, parse_json_body
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.offsets import Offset
from ds_sync.protocol.producer import ProducerState, decide_producer

R = TypeVar("R")

FRAMED_SUFFIX: Final = "/.updates"
"""Streams whose path ends so hold whole frames, and can't be closed by a client."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """All that is remembered of one life of a URL, beside its records and producers."""

    incarnation: str
    """32 hex digits, random."""
    content_type: str
    """As the creator spelled it."""
    position: int
    """Bytes stored."""
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
    def is_json(self) -> bool:
        """Whether bodies are JSON messages (PROTOCOL.md section 7.1)."""
        return media_type(self.content_type) == JSON_MEDIA_TYPE


@dataclass(frozen=True, slots=True)
class StreamView:
    """What a decision is given of one stream."""

    state: StreamState | None
    """None: nothing was ever here."""
    producers: Mapping[str, ProducerState]
    """At least the producer the transaction named."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a decision wants stored for one stream, all of it or nothing."""

    state: StreamState
    record: bytes | None = None
    """Appended; `state` already counts it."""
    producer: tuple[str, ProducerState] | None = None
    fresh: bool = False
    """A new life begins: earlier records and producers of this path are dropped."""


@dataclass(frozen=True, slots=True)
class Decision(Generic[R]):
    """A result, and the changes (one for each path of the transaction, or None) that must be durable before it is told."""

    result: R
    changes: tuple[Change | None, ...] = (None,)


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A PUT (PROTOCOL.md section 5.1)."""

    path: str
    content_type: str
    incarnation: str
    """A fresh random one."""
    proposed: str | None = None
    """The incarnation the client would like the new stream to have."""
    body: bytes = b""
    closed: bool = False
    expiry: Expiry = NEVER


@dataclass(frozen=True, slots=True)
class AppendRequest:
    """A POST (PROTOCOL.md section 5.2): an append, a close, or both."""

    path: str
    body: bytes
    content_type: str | None = None
    close: bool = False
    producer: ProducerStamp | None = None
    stream_seq: str | None = None
    incarnation: str | None = None
    """The life the client believes it writes to; None writes to whichever is there."""


@dataclass(frozen=True, slots=True)
class CreateOutcome:
    """What to answer a PUT."""

    state: StreamState
    created: bool


@dataclass(frozen=True, slots=True)
class AppendOutcome:
    """What to answer a POST."""

    state: StreamState
    duplicate: bool = False
    producer: ProducerState | None = None
    """The producer's state now, if the append had one."""


def is_expired(state: StreamState, now: float) -> bool:
    """Whether the stream's time is over."""
    return state.deadline is not None and now >= state.deadline


def require_stream(state: StreamState | None, now: float) -> StreamState:
    """Return the living stream.

    Raises NotFoundError: STREAM_DELETED or STREAM_EXPIRED with the life that ended, or STREAM_NOT_FOUND.
    """
    if state is None:
        raise NotFoundError("there is no such stream", code="STREAM_NOT_FOUND")
    if state.deleted:
        raise NotFoundError("the stream was deleted", code="STREAM_DELETED", incarnation=state.incarnation)
    if is_expired(state, now):
        raise NotFoundError("the stream's time is over", code="STREAM_EXPIRED", incarnation=state.incarnation)
    return state


def build_record(path: str, content_type: str, body: bytes) -> bytes:
    """Return the bytes to store for a body. Raises InvalidRequestError if they are not what the stream holds."""
    if path.endswith(FRAMED_SUFFIX):
        try:
            rest = parse_frames(body).rest
        except FramingError as error:
            raise InvalidRequestError(f"the body is not a run of frames: {error}", code="INVALID_FRAMES") from error
        if rest:
            raise InvalidRequestError("the body ends inside a frame", code="INVALID_FRAMES")
        return body
    return parse_json_body(body) if media_type(content_type) == JSON_MEDIA_TYPE else body


def append_record(state: StreamState, record: bytes) -> StreamState:
    """Return the state after `record`."""
    return replace(state, position=state.position + len(record), running=extend_history(state.running, record))


def decide_create(view: StreamView, request: CreateRequest, now: float) -> Decision[CreateOutcome]:
    """PUT: make the stream, or find the same one. Raises ConflictError if it exists with another configuration."""
    state = view.state
    if request.closed:
        _refuse_close(request.path)
    if state is not None and not state.deleted and not is_expired(state, now):
        if (
            state.expiry != request.expiry
            or media_type(state.content_type) != media_type(request.content_type)
            or state.closed != request.closed
        ):
            raise ConflictError("the stream exists with another configuration", code="CONFIGURATION_MISMATCH")
        return Decision(CreateOutcome(state, created=False))
    incarnation = request.proposed or request.incarnation
    if state is not None and incarnation == state.incarnation:
        incarnation = request.incarnation  # the old life was ended on purpose; this is another one
    record = build_record(request.path, request.content_type, request.body) if request.body else b""
    made = StreamState(
        incarnation,
        request.content_type,
        0,
        begin_history(incarnation),
        closed=request.closed,
        ttl=request.expiry.ttl,
        expires_at=request.expiry.expires_at,
        deadline=request.expiry.deadline(now),
    )
    if record:
        made = append_record(made, record)
    return Decision(CreateOutcome(made, created=True), (Change(made, record or None, fresh=True),))


def decide_append(view: StreamView, request: AppendRequest, now: float) -> Decision[AppendOutcome]:
    """POST: append, close, or both.

    Raises NotFoundError, GoneError (another life than the one asked for), StreamClosedError, ConflictError (content type),
    InvalidRequestError (body, empty append), SequenceRegressionError (Stream-Seq), or what `decide_producer` raises.
    """
    state = require_stream(view.state, now)
    # Before the producer: numbers of another life would be taken for duplicates, or for gaps.
    if request.incarnation is not None and request.incarnation != state.incarnation:
        raise GoneError("the stream was made anew", code="HISTORY_DIVERGED", incarnation=state.incarnation)
    if not request.body:
        if not request.close:
            raise InvalidRequestError("an append needs a body", code="EMPTY_BODY")
        return decide_close(view, request, now)
    if request.close:
        _refuse_close(request.path)
    if state.closed:
        return _answer_closed(view, state, request)
    if request.content_type is None:
        raise InvalidRequestError("Content-Type is required", code="CONTENT_TYPE_REQUIRED")
    if media_type(request.content_type) != media_type(state.content_type):
        raise ConflictError("the stream has another content type", code="CONTENT_TYPE_MISMATCH")
    record = build_record(request.path, state.content_type, request.body)
    if not record:
        raise InvalidRequestError("an empty array appends nothing", code="EMPTY_ARRAY")
    producer = None
    if request.producer is not None:
        producer = decide_producer(view.producers.get(request.producer.id), request.producer, request.body)
        if producer is None:
            return _answer_duplicate(view, state, request.producer)
    running = extend_history(state.running, record)
    made = StreamState(
        state.incarnation,
        state.content_type,
        state.position + len(record),
        running,
        closed=request.close,
        stream_seq=_next_stream_seq(state, request),
        closed_by=request.producer if request.close else None,
        ttl=state.ttl,
        expires_at=state.expires_at,
        deadline=state.deadline if state.ttl is None else now + state.ttl,
    )
    remembered = None if producer is None or request.producer is None else (request.producer.id, producer)
    return Decision(AppendOutcome(made, producer=producer), (Change(made, record, remembered),))


def decide_close(view: StreamView, request: AppendRequest, now: float) -> Decision[AppendOutcome]:
    """POST with Stream-Closed and no body (PROTOCOL.md section 5.3); closing twice is fine. Raises as `decide_append`."""
    state = require_stream(view.state, now)
    _refuse_close(request.path)
    if state.closed:
        return Decision(AppendOutcome(state)) if request.producer is None else _answer_closed(view, state, request)
    stamp, producer = request.producer, None
    if stamp is not None:
        producer = decide_producer(view.producers.get(stamp.id), stamp, b"")
        if producer is None:
            return _answer_duplicate(view, state, stamp)
    made = replace(state, closed=True, closed_by=stamp, deadline=state.expiry.deadline(now))
    remembered = None if stamp is None or producer is None else (stamp.id, producer)
    return Decision(AppendOutcome(made, producer=producer), (Change(made, None, remembered),))


def decide_renew(view: StreamView, now: float) -> Decision[None]:
    """A read renews a time to live. Nothing is stored if the deadline would hardly move, or the stream is gone."""
    state = view.state
    if state is None or state.ttl is None or state.deadline is None or state.deleted or is_expired(state, now):
        return Decision(None)
    if now + state.ttl - state.deadline < state.ttl * RENEWAL_SHARE:
        return Decision(None)
    return Decision(None, (Change(replace(state, deadline=now + state.ttl)),))


def decide_expire(view: StreamView, now: float) -> Decision[None]:
    """What is left of a stream whose time is over makes room for a tombstone."""
    state = view.state
    if state is None or state.deleted or not is_expired(state, now):
        return Decision(None)
    return Decision(None, (Change(_bury(state), fresh=True),))


def decide_delete(view: StreamView, now: float) -> Decision[StreamState]:
    """DELETE: leave a tombstone. Raises NotFoundError."""
    state = require_stream(view.state, now)
    tombstone = _bury(state)
    return Decision(tombstone, (Change(tombstone, fresh=True),))


def _bury(state: StreamState) -> StreamState:
    return StreamState(state.incarnation, state.content_type, 0, begin_history(state.incarnation), deleted=True)


def _refuse_close(path: str) -> None:
    if path.endswith(FRAMED_SUFFIX):
        raise InvalidRequestError("a document's updates can't be closed", code="CLOSE_REFUSED")


def _answer_closed(view: StreamView, state: StreamState, request: AppendRequest) -> Decision[AppendOutcome]:
    if request.producer is not None and request.producer == state.closed_by:
        return _answer_duplicate(view, state, request.producer)
    raise StreamClosedError("the stream is closed", tail=state.tail)


def _answer_duplicate(view: StreamView, state: StreamState, stamp: ProducerStamp) -> Decision[AppendOutcome]:
    return Decision(AppendOutcome(state, duplicate=True, producer=view.producers[stamp.id]))


def _next_stream_seq(state: StreamState, request: AppendRequest) -> str | None:
    if request.stream_seq is None:
        return state.stream_seq
    # PROTOCOL.md section 5.2: compared byte by byte. The header came as latin-1, where characters order as bytes do.
    if state.stream_seq is not None and request.stream_seq <= state.stream_seq:
        raise SequenceRegressionError("Stream-Seq is not above the last one", code="SEQUENCE_REGRESSION")
    return request.stream_seq
