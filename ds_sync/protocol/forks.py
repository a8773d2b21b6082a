"""Forks: a new stream that begins with what another one holds, without a copy (PROTOCOL.md section 4.2).

A fork shares its source's offsets up to the place where they part. What a sub-offset takes of the source's next record becomes the
fork's own first record. Neither producers nor Stream-Seq nor closure are inherited, and each of the two may end without the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ds_sync.exceptions import ConflictError, GoneError, InvalidRequestError
from ds_sync.protocol.decisions import (
    CreateOutcome,
    append_record,
    build_record,
    choose_incarnation,
    find_life,
    refuse_close,
)
from ds_sync.protocol.expiry import NEVER, Expiry
from ds_sync.protocol.headers import media_type, parse_integer
from ds_sync.protocol.history import HASH_SIZE, Place, parse_place
from ds_sync.protocol.json_mode import take_messages
from ds_sync.protocol.state import FRAMED_SUFFIX, Change, Decision, Origin, StreamState, StreamView, require_stream


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """A PUT with Stream-Forked-From."""

    path: str
    source: str
    incarnation: str
    """A fresh random one."""
    place: Place | None = None
    """Up to where the fork inherits; None is the source's tail."""
    sub_offset: int = 0
    """How much of the source's record after `place`: bytes, or messages of a JSON stream."""
    content_type: str | None = None
    """None inherits the source's."""
    proposed: str | None = None
    """The incarnation the client would like the fork to have."""
    body: bytes = b""
    """The fork's own, after all that it inherits."""
    closed: bool = False
    expiry: Expiry = NEVER
    """NEVER inherits the source's: its time to live, counted anew, or its end."""


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """What stands at the place a request names: read from the source before the decision. It never changes while the source lives."""

    incarnation: str
    """The life it was read from."""
    place: Place | None
    """As stored; None: no place in that history."""
    record: bytes | None
    """The source's record after it, if there is one."""


class PointNeededError(Exception):
    """The decision needs the ForkPoint of the source's present life: read it, and decide again. No refusal."""


def parse_fork_offset(text: str | None) -> Place | None:
    """Read Stream-Fork-Offset. Raises InvalidRequestError."""
    return None if text is None else parse_place(text)


def parse_sub_offset(text: str | None) -> int:
    """Read Stream-Fork-Sub-Offset. Raises InvalidRequestError."""
    return 0 if text is None else parse_integer(text, "Stream-Fork-Sub-Offset", canonical=True)


def decide_fork(view: StreamView, source: StreamView, request: ForkRequest, point: ForkPoint | None, now: float) -> Decision[CreateOutcome]:
    """Make the fork, or find the same one. The transaction is on `request.path` and `request.source`, in that order.

    Raises what `decide_create` does; NotFoundError (no source), ConflictError (a source that is kept for its forks, another content
    type), InvalidRequestError (no such place, sub-offset), PointNeededError.
    """
    if request.closed:
        refuse_close(request.path)
    known = find_life(view, now)
    if known is not None:
        if not _is_same(known, request):
            raise ConflictError("the stream exists with another configuration", code="CONFIGURATION_MISMATCH")
        return Decision(CreateOutcome(known, created=False), (None, None))
    try:
        parent = require_stream(source.state, now)
    except GoneError as error:
        raise ConflictError("the source has ended, and is kept for its forks only", code="SOURCE_GONE") from error
    if request.content_type is not None and media_type(request.content_type) != media_type(parent.content_type):
        raise ConflictError("a fork has its source's content type", code="CONTENT_TYPE_MISMATCH")
    _refuse_broken_frames(request)
    place, prefix = _resolve(parent, request, point)
    inherits = request.expiry == NEVER
    expiry = parent.expiry if inherits else request.expiry
    made = StreamState(
        choose_incarnation(view, request.proposed, request.incarnation),
        request.content_type or parent.content_type,
        place.position,
        # The check is all that the fork's history hangs on: the offset it shares with its source.
        place.check.to_bytes(HASH_SIZE, "big"),
        closed=request.closed,
        ttl=expiry.ttl,
        expires_at=expiry.expires_at,
        deadline=expiry.deadline(now),
        origin=Origin(request.source, place.position, place.check, request.sub_offset, inherits),
        earliest=parent.earliest,
    )
    record = build_record(request.path, parent.content_type, request.body) if request.body else b""
    if prefix and record and parent.is_json:
        prefix += b","
    record = prefix + record  # one record: nobody can have an offset between the two
    if record:
        made = append_record(made, record)
    changes = (Change(made, record or None, fresh=True), Change(replace(parent, forks=parent.forks + 1)))
    return Decision(CreateOutcome(made, created=True), changes)


def _is_same(state: StreamState, request: ForkRequest) -> bool:
    origin = state.origin
    if origin is None or origin.path != request.source or origin.sub_offset != request.sub_offset or state.closed != request.closed:
        return False
    if request.place is not None and not request.place.matches(origin.place):
        return False
    if request.content_type is not None and media_type(request.content_type) != media_type(state.content_type):
        return False
    return request.expiry == (NEVER if origin.inherited_expiry else state.expiry) or request.expiry == state.expiry


def _refuse_broken_frames(request: ForkRequest) -> None:
    framed = request.source.endswith(FRAMED_SUFFIX)
    if request.path.endswith(FRAMED_SUFFIX) and not framed:
        raise InvalidRequestError("a stream of updates is forked from a stream of updates only", code="INVALID_FRAMES")
    if framed and request.sub_offset:
        raise InvalidRequestError("a stream of updates is not forked inside a record", code="SUB_OFFSET_REFUSED")


def _resolve(parent: StreamState, request: ForkRequest, point: ForkPoint | None) -> tuple[Place, bytes]:
    """Return where the fork parts from its source, and what of the source's next record becomes its own."""
    if request.place is None:
        if request.sub_offset:
            raise InvalidRequestError("nothing stands after the source's tail", code="INVALID_SUB_OFFSET")
        return parent.place, b""
    if point is None or point.incarnation != parent.incarnation:
        raise PointNeededError
    dropped = parent.earliest is not None and request.place.position < parent.earliest.position
    if point.place is None or dropped:
        raise InvalidRequestError("Stream-Fork-Offset is no place in the source's history", code="INVALID_FORK_OFFSET")
    if not request.sub_offset:
        return point.place, b""
    prefix = None if point.record is None else _take(point.record, request.sub_offset, is_json=parent.is_json)
    if prefix is None:
        raise InvalidRequestError("Stream-Fork-Sub-Offset is beyond the source's next record", code="INVALID_SUB_OFFSET")
    return point.place, prefix


def _take(record: bytes, count: int, *, is_json: bool) -> bytes | None:
    if is_json:
        return take_messages(record, count)
    return record[:count] if count <= len(record) else None
