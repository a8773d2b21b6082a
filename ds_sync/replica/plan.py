"""What to do next: pure decisions over frozen values. This is where the thinking happens; `session` carries it out.

A document's two halves, the *push* (outbox to stream) and the *tail* (stream to document), meet in three rules:

* **Settled by 200 or by sight.** A batch goes out under one stamp, byte for byte, until the server answers 200 to it, or until its payload
  is read back from the stream. Whatever else is answered proves nothing.
* **Doubt is settled by reading.** After a 204, a 403 that names an epoch, or a 413, the tail is asked for proof that it has read
  everything. Seen on the way: settled. Not seen: the same bytes go out under a new producer id, for somebody else uses the old one (a
  copied file), or the server lost it.
* **A history that is not ours is healed.** Then the stream is read again from its beginning into a scratch document as well, and what it
  lacks is appended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from ds_sync.exceptions import (
    ConflictError,
    DsSyncError,
    ForbiddenError,
    FramingError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    PayloadTooLargeError,
    ProtocolError,
    RateLimitedError,
    ResponseError,
    SequenceGapError,
    ServerError,
    StaleEpochError,
    StreamClosedError,
    TransportError,
    UnauthorizedError,
)
from ds_sync.protocol.framing import parse_frames
from ds_sync.protocol.messages import Page
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.replica.records import Batch, DocumentRecord, Phase

MAX_TURNS: Final = 2
"""Turns of "answered 204, not seen, sent again under a new id" for one run of rows; after that the server is not believed any more."""


class Push(Enum):
    """The next step of the push."""

    IDLE = auto()
    """Nothing to send, or not allowed to: wait for a change."""
    SEAL = auto()
    """Freeze a batch out of the outbox."""
    SEND = auto()
    """Send the batch (again)."""
    AWAIT_PROOF = auto()
    """Wait until the tail proves that it has read everything."""
    RESEAL = auto()
    """The batch was not seen: freeze it anew, under a new producer id."""
    SEAL_SMALLER = auto()
    """The batch was not seen, and was too large: freeze half of its rows."""
    BLOCK = auto()
    """Give up on the batch and report it."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A batch whose fate the server's answer left open."""

    proof: int
    """The tail's generation that will settle it."""
    turns: int
    """How many times these rows were in doubt already."""
    smaller: bool = False
    """The server found the batch too large."""


def next_push(
    *,
    phase: Phase,
    contact: bool,
    batch: Batch | None,
    outbox: int,
    unsaved: int,
    doubt: Doubt | None,
    proven: int,
    max_turns: int = MAX_TURNS,
) -> Push:
    """Return the push's next step.

    `contact`: the tail has heard from this stream since we went online, so its incarnation is known. `outbox`: rows not yet sealed.
    `proven`: the generation of the last page that was up to date.
    """
    if phase is not Phase.FOLLOW or not contact:
        return Push.IDLE
    if batch is None:
        # What is only in memory is first stored: a batch must not carry what the file does not have.
        return Push.SEAL if outbox and not unsaved else Push.IDLE
    if doubt is None:
        return Push.SEND
    if proven < doubt.proof:
        return Push.AWAIT_PROOF
    if doubt.smaller:
        return Push.SEAL_SMALLER if batch.edits > 1 and not batch.healing else Push.BLOCK
    return Push.RESEAL if doubt.turns <= max_turns else Push.BLOCK


class Answer(Enum):
    """What an answer to an append means."""

    SETTLED = auto()
    DOUBT = auto()
    DOUBT_SIZE = auto()
    LOOK = auto()
    """The tail has to look at the stream again, and will find out what is the matter."""
    HEAL = auto()
    RETRY = auto()
    PAUSE = auto()
    """Not allowed: slowly again, and say so."""
    BLOCK = auto()


APPEND_FAILURES: Final[tuple[tuple[type[DsSyncError], Answer], ...]] = (
    (UnauthorizedError, Answer.PAUSE),
    (StaleEpochError, Answer.DOUBT),
    (ForbiddenError, Answer.PAUSE),
    (NotFoundError, Answer.LOOK),
    (SequenceGapError, Answer.HEAL),
    (StreamClosedError, Answer.BLOCK),
    (ConflictError, Answer.BLOCK),
    (GoneError, Answer.LOOK),
    (PayloadTooLargeError, Answer.DOUBT_SIZE),
    (RateLimitedError, Answer.RETRY),
    (ServerError, Answer.RETRY),
    (InvalidRequestError, Answer.BLOCK),
    (ResponseError, Answer.RETRY),
    (TransportError, Answer.RETRY),
    (ProtocolError, Answer.RETRY),
    (DsSyncError, Answer.RETRY),
)
"""The first row whose class fits decides. A success is SETTLED if new, DOUBT if a duplicate."""


def judge_append_failure(error: DsSyncError, *, by_sight: bool) -> Answer:
    """Return what a failed append means. `by_sight`: the batch before this one was settled by sight."""
    if by_sight and isinstance(error, SequenceGapError):
        # Those bytes may have been somebody else's (two people delete the same word), and the number before never have arrived. Reading
        # on shows a history that is not ours all the same.
        return Answer.DOUBT
    return next(answer for kind, answer in APPEND_FAILURES if isinstance(error, kind))


class Tail(Enum):
    """What the tail does after a page or a failure."""

    GO_ON = auto()
    CREATE = auto()
    """There is no stream: make one, under the incarnation we know, if any."""
    HEAL = auto()
    DIVERGED = auto()
    DELETED = auto()
    RETRY = auto()
    PAUSE = auto()
    BLOCK = auto()


TAIL_FAILURES: Final[tuple[tuple[type[DsSyncError], Tail], ...]] = (
    (UnauthorizedError, Tail.PAUSE),
    (ForbiddenError, Tail.PAUSE),
    (NotFoundError, Tail.CREATE),
    (GoneError, Tail.HEAL),
    (InvalidRequestError, Tail.HEAL),
    (ResponseError, Tail.RETRY),
    (TransportError, Tail.RETRY),
    (ProtocolError, Tail.RETRY),
    (DsSyncError, Tail.RETRY),
)
"""As above; `judge_tail_failure` refines three rows by what the replica knows."""

OTHER_FAILURES: Final[tuple[tuple[type[DsSyncError], Tail], ...]] = (
    (UnauthorizedError, Tail.PAUSE),
    (ForbiddenError, Tail.PAUSE),
    (ConflictError, Tail.BLOCK),
    (InvalidRequestError, Tail.BLOCK),
    (DsSyncError, Tail.RETRY),
)
"""Of requests that neither read nor append: making the stream, asking what is there."""


ENDED: Final = ("STREAM_DELETED", "STREAM_EXPIRED")
"""Codes of a 410 for a stream that is gone, all but for its forks."""


def judge_tail_failure(error: DsSyncError, record: DocumentRecord) -> Tail:
    """Return what it means that the stream could not be read from the record's checkpoint."""
    verdict = next(verdict for kind, verdict in TAIL_FAILURES if isinstance(error, kind))
    if isinstance(error, NotFoundError) and record.incarnation and error.incarnation:
        return Tail.DELETED
    if verdict is not Tail.HEAL:
        return verdict
    if isinstance(error, GoneError) and is_another_life(error.incarnation, record):
        return Tail.DIVERGED
    if isinstance(error, GoneError) and error.code in ENDED and record.incarnation and error.incarnation:
        return Tail.DELETED
    # Not even the beginning can be read: reading it once more changes nothing.
    return Tail.BLOCK if record.checkpoint == BEGINNING else Tail.HEAL


def judge_other_failure(error: DsSyncError) -> Tail:
    """Return what it means that the stream could not be made, or asked about."""
    return next(verdict for kind, verdict in OTHER_FAILURES if isinstance(error, kind))


def judge_page(page: Page, record: DocumentRecord) -> Tail:
    """Return whether `page`, read from the record's checkpoint, goes on where we were: GO_ON, HEAL or DIVERGED."""
    if is_another_life(page.incarnation, record):
        return Tail.DIVERGED
    # A server that proves nothing by its offsets, and whose tail now lies before our checkpoint (offsets sort: PROTOCOL.md section 6).
    shrunk = page.incarnation is None and page.up_to_date and not page.data and page.next_offset < record.checkpoint != BEGINNING
    return Tail.HEAL if shrunk else Tail.GO_ON


def is_another_life(found: str | None, record: DocumentRecord) -> bool:
    """Return whether the stream that was found is not the one we knew: somebody deleted that and made another."""
    return found is not None and record.incarnation is not None and found != record.incarnation


@dataclass(frozen=True, slots=True)
class Run:
    """A page taken apart."""

    payloads: tuple[bytes, ...]
    partial: bytes
    """The cut frame at its end, to be put before the next page."""
    unreadable: bytes = b""
    """What can't be a run of frames, for the quarantine."""
    reason: str = ""


def read_run(partial: bytes, data: bytes) -> Run:
    """Take a page's bytes apart, after the cut frame `partial` of the page before.

    A run that can't be frames is unreadable up to the next append boundary that parses; a page begins at one, more often than not. So if
    the cut frame makes no sense with what follows it, but the page alone does, only the cut frame is given up.
    """
    try:
        frames = parse_frames(partial + data)
        return Run(frames.payloads, frames.rest)
    except FramingError as error:
        reason = str(error)
    if partial:
        try:
            frames = parse_frames(data)
            return Run(frames.payloads, frames.rest, partial, reason)
        except FramingError:
            pass  # the page makes no sense either way
    return Run((), b"", partial + data, reason)


def choose_rows(sizes: Sequence[int], *, max_bytes: int, max_rows: int) -> int:
    """Return how many of the oldest rows, of these sizes in bytes, go into one batch: at least one."""
    total = 0
    for count, size in enumerate(sizes[:max_rows]):
        total += size
        if count and total > max_bytes:
            return count
    return min(len(sizes), max_rows)
