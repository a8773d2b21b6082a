"""What every answer carries, and the one table that turns refusals into answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from ds_sync.exceptions import (
    ClosedError,
    ConflictError,
    DsSyncError,
    ForbiddenError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    PayloadTooLargeError,
    ResponseError,
    SequenceGapError,
    ServerError,
    StaleEpochError,
    StorageFullError,
    StreamClosedError,
)

log = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
HeaderList: TypeAlias = list[tuple[bytes, bytes]]
Answer: TypeAlias = tuple[int, HeaderList, bytes]
"""A whole answer: status, headers on top of what every answer carries, body."""

COMMON_HEADERS: Final[HeaderList] = [
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"Stream-Next-Offset, Stream-Cursor, Stream-Up-To-Date, Stream-Closed, Stream-Incarnation, Stream-TTL, Stream-Expires-At,"
        b" Stream-SSE-Data-Encoding, Producer-Epoch, Producer-Seq, Producer-Expected-Seq, Producer-Received-Seq, ETag, Location,"
        b" Retry-After",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"cross-origin"),
]
"""On every answer, errors and preflights too (PROTOCOL.md section 10.7)."""

COMMON_TEXT: Final = b"".join(b"%b: %b\r\n" % field for field in COMMON_HEADERS)
"""The same in HTTP/1.1."""

PREFLIGHT_HEADERS: Final[HeaderList] = [
    *COMMON_HEADERS,
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE, HEAD, OPTIONS"),
    (
        b"access-control-allow-headers",
        b"Content-Type, Authorization, If-None-Match, Stream-Seq, Stream-TTL, Stream-Expires-At, Stream-Closed, Stream-Incarnation,"
        b" Stream-Forked-From, Stream-Fork-Offset, Stream-Fork-Sub-Offset, Producer-Id, Producer-Epoch, Producer-Seq",
    ),
    (b"access-control-max-age", b"86400"),
]

LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
"""The first lines of answers in HTTP/1.1."""

METHODS: Final = b"GET, POST, PUT, DELETE, HEAD, OPTIONS"

_REFUSALS: Final[tuple[tuple[type[DsSyncError], int, str], ...]] = (
    (StaleEpochError, 403, "STALE_EPOCH"),
    (ForbiddenError, 403, "FORBIDDEN"),
    (NotFoundError, 404, "STREAM_NOT_FOUND"),
    (StreamClosedError, 409, "STREAM_CLOSED"),
    (SequenceGapError, 409, "SEQUENCE_GAP"),
    (ConflictError, 409, "CONFLICT"),
    (GoneError, 410, "HISTORY_DIVERGED"),
    (PayloadTooLargeError, 413, "PAYLOAD_TOO_LARGE"),
    (InvalidRequestError, 400, "INVALID_REQUEST"),
    (StorageFullError, 507, "STORAGE_FULL"),
    (ClosedError, 503, "SHUTTING_DOWN"),
)
"""Subclasses first. What is not in here is a fault of ours: 500."""


async def answer(send: Send, status: int, headers: HeaderList, body: bytes = b"") -> None:
    """Send a whole answer; `headers` come on top of what every answer carries."""
    if status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": COMMON_HEADERS + headers})
    await send({"type": "http.response.body", "body": body})


def encode_head(status: int, headers: HeaderList, body: bytes) -> bytes:
    """Return the first line of a whole answer in HTTP/1.1, and all its headers, each line with its end."""
    if status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(body)))
    text = b"".join([b"%b: %b\r\n" % field for field in headers])
    if text.count(b"\n") != len(headers):
        raise AssertionError("a header of an answer holds a line break")
    return (LINES.get(status) or b"HTTP/1.1 %d \r\n" % status) + COMMON_TEXT + text


def build_failure(error: Exception, method: str, path: str) -> Answer:
    """Return the answer for what a handler raised, and log what is no fault of the client."""
    if not isinstance(error, DsSyncError):
        log.error("%s %s failed", method, path, exc_info=error)
        return build_refusal(ServerError("the server failed; its log says how", code="INTERNAL_ERROR"))
    refusal = build_refusal(error)
    if refusal[0] >= 500:
        log.warning("%s %s: %s", method, path, error)
    return refusal


def build_refusal(error: DsSyncError) -> Answer:
    """Return status, headers and JSON body for a refusal; `{"error": {"code", "message"}}`."""
    for kind, kind_status, kind_code in _REFUSALS:
        if isinstance(error, kind):
            status, code = kind_status, kind_code
            break
    else:
        status, code = 500, "INTERNAL_ERROR"
    if isinstance(error, ResponseError):
        status, code = error.status or status, error.code or code
    headers: HeaderList = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    if isinstance(error, StaleEpochError):
        headers.append((b"producer-epoch", b"%d" % error.current_epoch))
    elif isinstance(error, SequenceGapError):
        headers.append((b"producer-expected-seq", b"%d" % error.expected))
        headers.append((b"producer-received-seq", b"%d" % error.received))
    elif isinstance(error, StreamClosedError):
        headers.append((b"stream-closed", b"true"))
        if error.tail is not None:
            headers.append((b"stream-next-offset", error.tail.encode()))
    elif isinstance(error, NotFoundError | GoneError) and error.incarnation is not None:
        headers.append((b"stream-incarnation", error.incarnation.encode()))
    if status in (429, 503, 507):
        headers.append((b"retry-after", b"1"))
    return status, headers, json.dumps({"error": {"code": code, "message": str(error)}}).encode()


async def refuse(send: Send, error: DsSyncError) -> None:
    """Send the answer for a refusal."""
    await answer(send, *build_refusal(error))
