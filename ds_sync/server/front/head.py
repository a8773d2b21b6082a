"""Reading the head of an HTTP/1.1 request, and the framing of its body (RFC 9112). Pure; what is doubtful is refused, never guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

MAX_HEAD: Final = 32 * 1024
"""Bytes of a request's line and headers together: 431 above."""

MAX_TARGET: Final = 16 * 1024
"""Bytes of a request's target: 414 above."""

MAX_LENGTH: Final = 2**53 - 1

CHUNKED: Final = -1
"""The length of a body that says itself where it ends."""

HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\n"

_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([^\x00-\x20\x7f]+) HTTP/(\d)\.(\d)")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,13})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")


class BadRequestError(Exception):
    """The request can't be read. Its connection is answered with `status` and closed: nobody knows where the next one begins."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    @property
    def code(self) -> str:
        """The machine code of the answer."""
        return _CODES.get(self.status, "INVALID_REQUEST")


_CODES: Final = {
    408: "REQUEST_TIMEOUT",
    414: "URL_TOO_LONG",
    429: "TOO_MANY_CONNECTIONS",
    431: "HEADERS_TOO_LARGE",
}


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request."""

    method: str
    path: str
    raw_path: bytes
    query: bytes
    minor: int
    """Of the version: 1 in HTTP/1.1."""
    headers: list[tuple[bytes, bytes]]
    """Names in lower case."""
    length: int
    """Bytes of the body, or CHUNKED."""
    keep_alive: bool
    expects_continue: bool
    upgrade: bool
    """Whether another protocol is asked for."""


def parse_head(data: bytes, max_target: int = MAX_TARGET) -> Head:
    """Read a head without its empty last line. Raises BadRequestError."""
    first, *lines = data.split(b"\r\n")
    match = _LINE.fullmatch(first)
    if match is None:
        raise BadRequestError(400, "the request line can't be read")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise BadRequestError(505, "this is not HTTP/1.x")
    if len(target) > max_target:
        raise BadRequestError(414, "the request's target is too long")
    headers: list[tuple[bytes, bytes]] = []
    framing: dict[bytes, bytes] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise BadRequestError(400, "a header can't be read")
        name, value = field[1].lower(), field[2].rstrip(b" \t")
        headers.append((name, value))
        if name in _FRAMING:
            # Two of them, and whoever stands before us may have believed the other one.
            if name in framing and name != b"connection" and (name != b"content-length" or framing[name] != value):
                raise BadRequestError(400, f"{name.decode()} is given twice")
            framing[name] = framing[name] + b"," + value if name == b"connection" and name in framing else value
    if minor != b"0" and b"host" not in framing:
        raise BadRequestError(400, "Host is missing")
    tokens = {token.strip().lower() for token in framing.get(b"connection", b"").split(b",")}
    raw_path, _, query = _strip_authority(target).partition(b"?")
    return Head(
        method.decode(),
        unquote(raw_path.decode("latin-1"), errors="replace"),
        raw_path,
        query,
        int(minor),
        headers,
        _body_length(framing, minor),
        b"close" not in tokens and (minor != b"0" or b"keep-alive" in tokens),
        framing.get(b"expect", b"").lower() == b"100-continue" and minor != b"0",
        b"upgrade" in tokens and framing.get(b"upgrade", b"").lower() == b"websocket",
    )


_FRAMING: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"))


def _body_length(framing: dict[bytes, bytes], minor: bytes) -> int:
    length, coding = framing.get(b"content-length"), framing.get(b"transfer-encoding")
    if coding is not None:
        if length is not None or minor == b"0":
            raise BadRequestError(400, "Transfer-Encoding, and Content-Length or HTTP/1.0")
        if coding.lower() != b"chunked":
            raise BadRequestError(501, "this Transfer-Encoding is unknown")
        return CHUNKED
    if length is None:
        return 0
    if not length.isdigit() or len(length) > 16 or int(length) > MAX_LENGTH:
        raise BadRequestError(400, "Content-Length is no number")
    return int(length)


def _strip_authority(target: bytes) -> bytes:
    if target.startswith(b"/") or target == b"*":
        return target
    scheme, mark, rest = target.partition(b"://")
    if not mark or scheme.lower() not in (b"http", b"https"):
        raise BadRequestError(400, "the request's target can't be read")
    _, slash, path = rest.partition(b"/")
    return slash + path or b"/"


class ChunkedBody:
    """Takes a chunked body apart (RFC 9112, section 7.1)."""

    __slots__ = ("_left", "_trailer", "done")

    def __init__(self) -> None:
        self._left = 0
        """Bytes of the chunk that are still to come, its end of line included."""
        self._trailer = -1
        """Bytes of the trailer so far; -1 before it."""
        self.done = False

    def receive(self, buffer: bytes) -> tuple[bytes, bytes]:
        """Return the data in `buffer`, and what is left of it: to be given again, with more. Raises BadRequestError."""
        parts: list[bytes] = []
        while buffer and not self.done:
            if self._left > 2:
                part = buffer[: self._left - 2]
                parts.append(part)
                self._left -= len(part)
                buffer = buffer[len(part) :]
                continue
            if self._left:
                if len(buffer) < 2:
                    break
                if not buffer.startswith(b"\r\n"):
                    raise BadRequestError(400, "a chunk is longer than it says")
                buffer, self._left = buffer[2:], 0
                continue
            line, mark, rest = buffer.partition(b"\r\n")
            if not mark or len(line) > MAX_HEAD:
                if len(line) > MAX_HEAD:
                    raise BadRequestError(400, "a chunk's head does not end")
                break
            buffer = rest
            if self._trailer >= 0:
                self._trailer += len(line)
                self.done = not line
                if self._trailer > MAX_HEAD:
                    raise BadRequestError(431, "the trailer is too long")
                continue
            size = _SIZE.fullmatch(line)
            if size is None:
                raise BadRequestError(400, "the size of a chunk can't be read")
            count = int(size[1], 16)
            if count:
                self._left = count + 2
            else:
                self._trailer = 0
        return b"".join(parts), buffer
