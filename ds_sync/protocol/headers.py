"""Names of headers, query parameters and control fields, and the strict reading of their values.

Source: PROTOCOL.md sections 5, 6, 8 and 11.2; what the official suite demands beyond them is said where it applies. Names are in lower
case, as ASGI and HTTP/2 carry them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from ds_sync.exceptions import InvalidRequestError
from ds_sync.protocol.messages import ProducerStamp

STREAM_NEXT_OFFSET: Final = "stream-next-offset"
STREAM_UP_TO_DATE: Final = "stream-up-to-date"
STREAM_CLOSED: Final = "stream-closed"
STREAM_CURSOR: Final = "stream-cursor"
STREAM_SEQ: Final = "stream-seq"
STREAM_TTL: Final = "stream-ttl"
STREAM_EXPIRES_AT: Final = "stream-expires-at"
STREAM_SSE_DATA_ENCODING: Final = "stream-sse-data-encoding"
STREAM_FORKED_FROM: Final = "stream-forked-from"
STREAM_FORK_OFFSET: Final = "stream-fork-offset"
STREAM_FORK_SUB_OFFSET: Final = "stream-fork-sub-offset"
STREAM_INCARNATION: Final = "stream-incarnation"
"""Ours: 32 hex digits. In answers: which life of the URL this is; on a 404: the life that was deleted; on a 410: the life that is
there. In a PUT: the id the new stream should have, sent by a replica that makes a lost stream anew, so that the others see the same
life with a lost history, and heal it. In a POST: the life the client believes it writes to; if another is there the server answers
410 HISTORY_DIVERGED and stores nothing, so that what was meant for one document never lands in the next of that name."""

PRODUCER_ID: Final = "producer-id"
PRODUCER_EPOCH: Final = "producer-epoch"
PRODUCER_SEQ: Final = "producer-seq"
PRODUCER_EXPECTED_SEQ: Final = "producer-expected-seq"
PRODUCER_RECEIVED_SEQ: Final = "producer-received-seq"

QUERY_OFFSET: Final = "offset"
QUERY_LIVE: Final = "live"
QUERY_CURSOR: Final = "cursor"
LIVE_LONG_POLL: Final = "long-poll"
LIVE_SSE: Final = "sse"

CONTROL_NEXT_OFFSET: Final = "streamNextOffset"
CONTROL_CURSOR: Final = "streamCursor"
CONTROL_UP_TO_DATE: Final = "upToDate"
CONTROL_CLOSED: Final = "streamClosed"

MAX_INTEGER: Final = 2**53 - 1
"""The largest integer JavaScript holds exactly (PROTOCOL.md section 5.2.1)."""

MAX_PRODUCER_ID: Final = 256
"""Characters; the protocol sets no bound, and a producer's state is kept for ever."""

_DIGITS = re.compile(r"[0-9]{1,16}", re.ASCII)
_CANONICAL = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
_INCARNATION = re.compile(r"[0-9a-f]{32}", re.ASCII)


def parse_integer(text: str, name: str, *, canonical: bool = False) -> int:
    """Read a non-negative integer up to 2^53 - 1; `canonical` refuses leading zeros. Raises InvalidRequestError naming `name`."""
    if not (_CANONICAL if canonical else _DIGITS).fullmatch(text) or (value := int(text)) > MAX_INTEGER:
        raise InvalidRequestError(f"{name} must be a whole number from 0 to 2^53 - 1")
    return value


def parse_producer(producer_id: str | None, epoch: str | None, seq: str | None) -> ProducerStamp | None:
    """Read the three producer headers (PROTOCOL.md section 5.2.1): all or none. Raises InvalidRequestError."""
    if producer_id is None and epoch is None and seq is None:
        return None
    if producer_id is None or epoch is None or seq is None:
        raise InvalidRequestError("Producer-Id, Producer-Epoch and Producer-Seq go together")
    if not 0 < len(producer_id) <= MAX_PRODUCER_ID:
        raise InvalidRequestError(f"Producer-Id must have 1 to {MAX_PRODUCER_ID} characters")
    return ProducerStamp(producer_id, parse_integer(epoch, "Producer-Epoch"), parse_integer(seq, "Producer-Seq"))


def parse_flag(text: str | None) -> bool:
    """Read Stream-Closed and its like: only "true", in any case, is true."""
    return text is not None and text.strip().lower() == "true"


def parse_incarnation(text: str | None) -> str | None:
    """Return the id if it is one of ours (32 hex digits), else None: a foreign server may use the name for something else."""
    return text if text is not None and _INCARNATION.fullmatch(text) else None


def require_incarnation(text: str | None) -> str | None:
    """Read the condition of a POST; None without one. Raises InvalidRequestError: a condition that can't be read can't be met."""
    if text is not None and not _INCARNATION.fullmatch(text):
        raise InvalidRequestError("Stream-Incarnation must be 32 hex digits in lower case", code="INVALID_INCARNATION")
    return text


@lru_cache(maxsize=256)  # asked for at every append
def media_type(content_type: str) -> str:
    """Return the content type without its parameters, in lower case: what two content types are compared by."""
    return content_type.partition(";")[0].strip().lower()
