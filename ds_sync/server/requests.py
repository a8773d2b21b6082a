"""Reading a request: path, headers, query, body. Everything in it is untrusted; what is wrong is InvalidRequestError."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote_to_bytes

from ds_sync.exceptions import InvalidRequestError, NotFoundError, PayloadTooLargeError
from ds_sync.protocol import headers as names
from ds_sync.protocol.headers import MAX_INTEGER, parse_integer
from ds_sync.protocol.history import START, Place, parse_place
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.offsets import BEGINNING, NOW, Offset, parse_request_offset
from ds_sync.server.responses import Receive, Scope

DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"

STREAM_MOUNT: Final = b"/v1/stream/"

RESERVED: Final = "__ds/"
"""Below the mount: the protocol's own, for subscriptions."""

MAX_PATH: Final = 2048
"""Bytes of a stream's path, decoded."""

SHORT_QUERY: Final = 256
"""Bytes up to which what a query says is remembered."""

DISCARD_FACTOR: Final = 4
"""A body up to this many times the limit is received and thrown away, so that its sender sees 413 and not a reset."""


class ClientGoneError(Exception):
    """The client hung up before it had its answer, or before its request was complete: then nothing was done."""


class AppendFields(NamedTuple):
    """What the head of a POST says of its body: the rest of an AppendRequest, in its order."""

    content_type: str | None
    close: bool
    producer: ProducerStamp | None
    stream_seq: str | None
    incarnation: str | None
    rescue: bool


class ReadRequest(NamedTuple):
    """What the query of a GET says."""

    offset: Offset
    after: Place | None
    """Where `offset` is; None for the tail."""
    live: str | None
    cursor: str | None


@lru_cache(maxsize=1024)  # asked for at every request
def parse_stream_path(raw: bytes) -> str:
    """Return the stream's path from the raw bytes after the mount point. Raises InvalidRequestError (INVALID_PATH).

    Percent-encoding is undone, so that one stream has one name. Dot segments and control characters are refused, encoded or
    not: proxies and browsers resolve them, and two parties would mean different streams.
    """
    try:
        path = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequestError("the path is not UTF-8", code="INVALID_PATH") from None
    if not path or len(path) > MAX_PATH:
        raise InvalidRequestError(f"the path must have 1 to {MAX_PATH} characters", code="INVALID_PATH")
    if not path.isprintable() or any(segment in (".", "..") for segment in path.split("/")):
        raise InvalidRequestError("the path holds dot segments or control characters", code="INVALID_PATH")
    return path


def parse_source(forked_from: str) -> str:
    """Return the stream's path from a Stream-Forked-From: a URL's path on this server.

    Raises InvalidRequestError (INVALID_PATH), NotFoundError if no stream can be there.
    """
    raw = forked_from.encode("latin-1")
    if not raw.startswith(STREAM_MOUNT):
        raise NotFoundError("Stream-Forked-From names no stream of this server", code="STREAM_NOT_FOUND")
    path = parse_stream_path(raw[len(STREAM_MOUNT) :])
    if path.startswith(RESERVED):
        raise NotFoundError("what is reserved can't be forked", code="STREAM_NOT_FOUND")
    return path


def parse_headers(scope: Scope) -> dict[str, str]:
    """Return the headers by lower-case name; of a repeated one, its values as one list (RFC 9110 section 5.3), the same value once."""
    raw = scope["headers"]
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}
    if len(headers) != len(raw):
        values: dict[str, dict[str, None]] = {}
        for name, value in raw:
            values.setdefault(name.decode("latin-1").lower(), {})[value.decode("latin-1")] = None
        headers = {name: ", ".join(found) for name, found in values.items()}
    return headers


def find_header(scope: Scope, name: bytes) -> str | None:
    """Return one header; a repeated one as a list."""
    found = [value for key, value in scope["headers"] if key == name]
    return b", ".join(found).decode("latin-1") if found else None


def parse_query(raw: bytes) -> Mapping[str, list[str]]:
    """Return all values of each query parameter, empty ones too. Raises InvalidRequestError."""
    if not raw:
        return {}
    return _parse_short_query(raw) if len(raw) <= SHORT_QUERY else _parse_any_query(raw)


def _parse_any_query(raw: bytes) -> Mapping[str, list[str]]:
    try:
        return parse_qs(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=64)
    except ValueError:
        raise InvalidRequestError("the query has too many parameters") from None


_parse_short_query = lru_cache(maxsize=1024)(_parse_any_query)  # readers of one tail all ask the same


def only_value(query: Mapping[str, list[str]], name: str) -> str | None:
    """Return the one value of a parameter, or None without it. Raises InvalidRequestError if it is given twice."""
    values = query.get(name)
    if values is None:
        return None
    if len(values) != 1:
        raise InvalidRequestError(f"{name} is given more than once")
    return values[0]


def parse_append(headers: Mapping[str, str], *, document: bool = False) -> AppendFields:
    """Read the head of a POST (PROTOCOL.md section 5.2); `document`: see `Streams.post`. Raises InvalidRequestError."""
    get = headers.get
    return AppendFields(
        DEFAULT_CONTENT_TYPE if document else get("content-type") or None,
        names.parse_flag(get(names.STREAM_CLOSED)) and not document,
        names.parse_producer(get(names.PRODUCER_ID), get(names.PRODUCER_EPOCH), get(names.PRODUCER_SEQ)),
        get(names.STREAM_SEQ),
        names.require_incarnation(get(names.STREAM_INCARNATION)),
        document,
    )


def parse_read(query_string: bytes) -> ReadRequest:
    """Read the query of a GET (PROTOCOL.md sections 5.5 to 5.7). Raises InvalidRequestError."""
    query = parse_query(query_string)
    asked = only_value(query, names.QUERY_OFFSET)
    live = only_value(query, names.QUERY_LIVE)
    cursor = only_value(query, names.QUERY_CURSOR)
    if live not in (None, names.LIVE_LONG_POLL, names.LIVE_SSE):
        raise InvalidRequestError("live is long-poll or sse", code="INVALID_LIVE_MODE")
    if asked is None and live is not None:
        raise InvalidRequestError("live reading needs an offset", code="OFFSET_REQUIRED")
    offset = BEGINNING if asked is None else parse_request_offset(asked)
    after = START if offset == BEGINNING else None if offset == NOW else parse_place(offset)
    return ReadRequest(offset, after, live, cursor)


async def read_body(receive: Receive, headers: Mapping[str, str], limit: int) -> bytes:
    """Return the whole body. Raises PayloadTooLargeError above `limit` bytes, ClientGoneError if it breaks off."""
    announced = headers.get("content-length")
    length = MAX_INTEGER if announced is None else parse_integer(announced, "Content-Length")
    if announced is not None and length > limit * DISCARD_FACTOR:
        raise PayloadTooLargeError(f"the body has {length} bytes; the limit is {limit}")
    parts: list[bytes] = []
    received = 0
    while received < length:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part: bytes = message.get("body", b"")
        received += len(part)
        if received <= limit:
            parts.append(part)
        elif received > limit * DISCARD_FACTOR:
            break
        else:
            parts.clear()
        if not message.get("more_body", False):
            break
    if received > limit:
        raise PayloadTooLargeError(f"the body is above the limit of {limit} bytes")
    return parts[0] if len(parts) == 1 else b"".join(parts)
