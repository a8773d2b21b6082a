"""The rules of the server, once: (what is stored, what is asked, the time) -> what to answer and what to store.

Pure functions over frozen values. A refusal is an exception of ds_sync.exceptions and stores nothing. An engine may run a
decision more than once (compare-and-swap), so nothing here may have an effect. Sources: PROTOCOL.md sections 5.1 to 5.4 and
5.2.1; where it is silent, the official server suite. Forks are in `forks`, the ends of streams in `endings`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ds_sync.exceptions import (
    ConflictError,
    FramingError,
    GoneError,
    InvalidRequestError,
    SequenceRegressionError,
    StreamClosedError,
)
from ds_sync.protocol.endings import decide_delete as decide_delete
from ds_sync.protocol.endings import decide_expire as decide_expire
from ds_sync.protocol.endings import decide_renew as decide_renew
from ds_sync.protocol.expiry import NEVER, Expiry
from ds_sync.protocol.framing import parse_frames
from ds_sync.protocol.headers import media_type
from ds_sync.protocol.history import begin_history, extend_history
from ds_sync.protocol.json_mode import JSON_MEDIA_TYPE, parse_json_body
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.producer import ProducerState, decide_producer
from ds_sync.protocol.state import FRAMED_SUFFIX as FRAMED_SUFFIX
from ds_sync.protocol.state import Change as Change
from ds_sync.protocol.state import Decision as Decision
from ds_sync.protocol.state import StreamState as StreamState
from ds_sync.protocol.state import StreamView as StreamView
from ds_sync.protocol.state import is_expired as is_expired
from ds_sync.protocol.state import require_stream as require_stream

CLOSE_REFUSED: Final = "CLOSE_REFUSED"
"""The code of a refusal to close a document's updates."""


class UnburiedError(Exception):
    """What stood here has ended, and has a part in forks: let `decide_expire` make an end of it, and decide again. No refusal."""


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


@dataclass(slots=True)
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
    rescue: bool = False
    """See `decide_producer`."""


@dataclass(frozen=True, slots=True)
class CreateOutcome:
    """What to answer a PUT."""

    state: StreamState
    created: bool


@dataclass(slots=True)
class AppendOutcome:
    """What to answer a POST."""

    state: StreamState
    duplicate: bool = False
    producer: ProducerState | None = None
    """The producer's state now, if the append had one."""


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
    return replace(state, position=state.position + len(record), running=extend_running(state, record))


def extend_running(state: StreamState, record: bytes) -> bytes:
    """Return the running hash after `record`. A fork's first own record mixes in its life: two forks never share an offset past theirs."""
    if state.origin is not None and state.position == state.origin.position:
        return extend_history(state.running, bytes.fromhex(state.incarnation) + record)
    return extend_history(state.running, record)


def decide_create(view: StreamView, request: CreateRequest, now: float) -> Decision[CreateOutcome]:
    """PUT: make the stream, or find the same one.

    Raises ConflictError if it exists with another configuration, or is kept for its forks; UnburiedError.
    """
    if request.closed:
        refuse_close(request.path)
    state = find_life(view, now)
    if state is not None:
        if (
            state.origin is not None
            or state.expiry != request.expiry
            or media_type(state.content_type) != media_type(request.content_type)
            or state.closed != request.closed
        ):
            raise ConflictError("the stream exists with another configuration", code="CONFIGURATION_MISMATCH")
        return Decision(CreateOutcome(state, created=False))
    incarnation = choose_incarnation(view, request.proposed, request.incarnation)
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


def find_life(view: StreamView, now: float) -> StreamState | None:
    """Return the stream that lives here, or None if the path is free.

    Raises ConflictError if an ended one is kept for its forks, UnburiedError if one has ended that has a part in forks.
    """
    state = view.state
    if state is None or state.deleted:
        return None
    if state.kept:
        raise ConflictError(
            "a stream was here and is kept for its forks: the path is free when the last one is gone", code="KEPT_FOR_FORKS"
        )
    if not is_expired(state, now):
        return state
    if state.forks or state.origin is not None:
        raise UnburiedError
    return None


def choose_incarnation(view: StreamView, proposed: str | None, fresh: str) -> str:
    """Return the id of a new life at this path."""
    # The old life was ended on purpose; this is another one.
    return fresh if proposed is None or (view.state is not None and view.state.incarnation == proposed) else proposed


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
        refuse_close(request.path)
    if state.closed:
        return _answer_closed(view, state, request)
    if request.content_type is None:
        raise InvalidRequestError("Content-Type is required", code="CONTENT_TYPE_REQUIRED")
    if request.content_type != state.content_type and media_type(request.content_type) != media_type(state.content_type):
        raise ConflictError("the stream has another content type", code="CONTENT_TYPE_MISMATCH")
    record = build_record(request.path, state.content_type, request.body)
    if not record:
        raise InvalidRequestError("an empty array appends nothing", code="EMPTY_ARRAY")
    producer = None
    if request.producer is not None:
        producer = decide_producer(view.producers.get(request.producer.id), request.producer, request.body, rescue=request.rescue)
        if producer is None:
            return _answer_duplicate(view, state, request.producer)
    running = extend_history(state.running, record) if state.origin is None else extend_running(state, record)
    made = StreamState(
        state.incarnation,
        state.content_type,
        state.position + len(record),
        running,
        closed=request.close,
        stream_seq=state.stream_seq if request.stream_seq is None else _next_stream_seq(state, request.stream_seq),
        closed_by=request.producer if request.close else None,
        ttl=state.ttl,
        expires_at=state.expires_at,
        deadline=state.deadline if state.ttl is None else now + state.ttl,
        origin=state.origin,
        forks=state.forks,
        earliest=state.earliest,
    )
    remembered = None if producer is None or request.producer is None else (request.producer.id, producer)
    return Decision(AppendOutcome(made, producer=producer), (Change(made, record, remembered),))


def decide_first_append(view: StreamView, request: AppendRequest, fresh: str, now: float) -> Decision[AppendOutcome]:
    """POST to a document: append, and make the document if nothing was ever here (YJS-PROTOCOL.md section 5.4).

    `fresh`: the incarnation of a new document. One that has ended is not made anew: what is written to it belongs to what was there.
    Neither is one of which the client knows the life. Raises as `decide_append`.
    """
    if view.state is not None or request.incarnation is not None or not request.body or request.content_type is None:
        return decide_append(view, request, now)
    made = decide_create(view, CreateRequest(request.path, request.content_type, fresh), now).result.state
    decision = decide_append(StreamView(made, {}), request, now)
    return Decision(decision.result, tuple(change and replace(change, fresh=True) for change in decision.changes))


def decide_close(view: StreamView, request: AppendRequest, now: float) -> Decision[AppendOutcome]:
    """POST with Stream-Closed and no body (PROTOCOL.md section 5.3); closing twice is fine. Raises as `decide_append`."""
    state = require_stream(view.state, now)
    refuse_close(request.path)
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


def refuse_close(path: str) -> None:
    """Raise InvalidRequestError if a stream at `path` can't be closed."""
    if path.endswith(FRAMED_SUFFIX):
        raise InvalidRequestError("a document's updates can't be closed", code=CLOSE_REFUSED)


def _answer_closed(view: StreamView, state: StreamState, request: AppendRequest) -> Decision[AppendOutcome]:
    if request.producer is not None and request.producer == state.closed_by:
        return _answer_duplicate(view, state, request.producer)
    raise StreamClosedError("the stream is closed", tail=state.tail)


def _answer_duplicate(view: StreamView, state: StreamState, stamp: ProducerStamp) -> Decision[AppendOutcome]:
    return Decision(AppendOutcome(state, duplicate=True, producer=view.producers[stamp.id]))


def _next_stream_seq(state: StreamState, sent: str) -> str:
    # PROTOCOL.md section 5.2: compared byte by byte. The header came as latin-1, where characters order as bytes do.
    if state.stream_seq is not None and sent <= state.stream_seq:
        raise SequenceRegressionError("Stream-Seq is not above the last one", code="SEQUENCE_REGRESSION")
    return sent
