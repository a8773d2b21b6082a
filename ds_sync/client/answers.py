"""What a server's answer means: a value, or one of our errors. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qs, urlsplit

from ds_sync.client.transport import Response
from ds_sync.exceptions import (
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    PayloadTooLargeError,
    ProtocolError,
    RateLimitedError,
    ResponseError,
    SequenceGapError,
    SequenceRegressionError,
    ServerError,
    StaleEpochError,
    StreamClosedError,
    UnauthorizedError,
)
from ds_sync.protocol import headers as h
from ds_sync.protocol.framing import build_frame
from ds_sync.protocol.messages import AppendResult, Page, StreamInfo
from ds_sync.protocol.offsets import BEGINNING, parse_response_offset

ERRORS: Mapping[int, type[ResponseError]] = {
    400: InvalidRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    413: PayloadTooLargeError,
    429: RateLimitedError,
}
"""5xx is ServerError, and whatever is left a plain ResponseError."""

MAX_ERROR_BODY = 64 * 1024
"""Bytes of an error's body that are looked at."""

SEQUENCE_REGRESSION = "SEQUENCE_REGRESSION"
"""Of a 409, in our server's body. No header tells this one apart; from other servers it is a plain ConflictError."""

SNAPSHOT = "snapshot"
"""The offset that asks where a document's newest snapshot is (YJS-PROTOCOL.md section 6)."""

_SNAPSHOT_SUFFIX = "_snapshot"
_MAX_QUOTE = 200  # characters of the server's own words in a message
_MAX_CODE = 64


def build_error(response: Response, *, now: float) -> ResponseError:
    """Return the error that the answer is. `now`: seconds since 1970, for a Retry-After that is a date."""
    status, headers = response.status, response.headers
    code, quote = _read_error_body(response.body[:MAX_ERROR_BODY])
    message = f"the server answered {status}{': ' + quote if quote else ''}"
    incarnation = h.parse_incarnation(headers.get(h.STREAM_INCARNATION))
    error: ResponseError
    if status == 403 and (epoch := _read_integer(headers.get("producer-epoch"))) is not None:
        error = StaleEpochError(message, current_epoch=epoch)
    elif status == 409 and h.parse_flag(headers.get(h.STREAM_CLOSED)):
        error = StreamClosedError(message, tail=headers.get(h.STREAM_NEXT_OFFSET))
    elif status == 409 and (expected := _read_integer(headers.get(h.PRODUCER_EXPECTED_SEQ))) is not None:
        received = _read_integer(headers.get(h.PRODUCER_RECEIVED_SEQ))
        error = SequenceGapError(message, expected=expected, received=expected if received is None else received)
    elif status == 409 and code == SEQUENCE_REGRESSION:
        error = SequenceRegressionError(message)
    elif status == 404:
        error = NotFoundError(message, incarnation=incarnation)
    elif status == 410:
        error = GoneError(message, incarnation=incarnation)
    else:
        error = ERRORS.get(status, ServerError if status >= 500 else ResponseError)(message)
    error.status, error.code, error.retry_after = status, code, parse_retry_after(headers.get("retry-after"), now=now)
    return error


def parse_retry_after(text: str | None, *, now: float) -> float | None:
    """Return the seconds to wait, from seconds or an HTTP date (RFC 9110 section 10.2.3); None if it is neither."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:10])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError, OSError):
        return None


def parse_page(response: Response) -> Page:
    """Read the answer to a catch-up or long-poll GET. Raises ProtocolError."""
    if response.status not in (200, 204):
        raise ProtocolError(f"a read was answered {response.status}")
    headers = response.headers
    closed = h.parse_flag(headers.get(h.STREAM_CLOSED))
    return Page(
        response.body,
        parse_response_offset(headers.get(h.STREAM_NEXT_OFFSET)),
        # The end of the stream is only said to who has reached it (PROTOCOL.md section 5.5).
        closed or h.parse_flag(headers.get(h.STREAM_UP_TO_DATE)),
        closed,
        h.parse_incarnation(headers.get(h.STREAM_INCARNATION)),
    )


def parse_snapshot_key(response: Response) -> str | None:
    """Return the offset of the snapshot that a document's URL redirects to, None if that is its beginning. Raises ProtocolError."""
    try:
        query = parse_qs(urlsplit(response.headers.get("location", "")).query)
    except ValueError:
        query = {}
    target = query.get(h.QUERY_OFFSET, [""])[0]
    if response.status == 307 and target.endswith(_SNAPSHOT_SUFFIX):
        return target
    if response.status != 307 or target != BEGINNING:
        raise ProtocolError("the answer does not say where a document's snapshot is")
    return None


def parse_snapshot(response: Response) -> Page:
    """Read the answer to GET of a snapshot: one update, without a frame around it. Raises ProtocolError."""
    page = parse_page(response)
    return replace(page, data=build_frame(page.data), up_to_date=False, closed=False)


def parse_info(response: Response, *, content_type: str = "") -> StreamInfo:
    """Read the answer to PUT or HEAD; `content_type` holds where the answer names none. Raises ProtocolError."""
    headers = response.headers
    return StreamInfo(
        parse_response_offset(headers.get(h.STREAM_NEXT_OFFSET)),
        headers.get("content-type", content_type),
        created=response.status == 201,
        closed=h.parse_flag(headers.get(h.STREAM_CLOSED)),
        incarnation=h.parse_incarnation(headers.get(h.STREAM_INCARNATION)),
    )


def parse_append(response: Response, *, producer: bool) -> AppendResult:
    """Read the answer to POST. Raises ProtocolError."""
    tail = response.headers.get(h.STREAM_NEXT_OFFSET)
    return AppendResult(
        None if tail is None else parse_response_offset(tail),
        duplicate=producer and response.status == 204,
        closed=h.parse_flag(response.headers.get(h.STREAM_CLOSED)),
        incarnation=h.parse_incarnation(response.headers.get(h.STREAM_INCARNATION)),
    )


def parse_paths(response: Response) -> tuple[list[str], str | None]:
    """Return the paths that a server lists, and after which to ask for more. Raises ProtocolError."""
    try:
        fields = json.loads(response.body)
        paths, following = fields["streams"], fields["next"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ProtocolError("the answer is no list of streams") from None
    known = isinstance(paths, list) and all(isinstance(path, str) for path in paths)
    # Whoever is told to go on from where it was would ask for ever.
    if not known or not (following is None or (isinstance(following, str) and paths and following == paths[-1])):
        raise ProtocolError("the answer is no list of streams")
    return paths, following


def _read_integer(text: str | None) -> int | None:
    try:
        return None if text is None else h.parse_integer(text.strip(), "")
    except InvalidRequestError:
        return None


def _read_error_body(body: bytes) -> tuple[str | None, str]:
    """Return the machine code, if there is one, and a short printable piece of the text."""
    code = None
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    if isinstance(fields, dict) and isinstance(error := fields.get("error"), dict):
        value = error.get("code")
        code = value[:_MAX_CODE] if isinstance(value, str) else None
    text = body[: 4 * _MAX_QUOTE].decode(errors="replace")
    return code, "".join(c if c.isprintable() else " " for c in text)[:_MAX_QUOTE].strip()
