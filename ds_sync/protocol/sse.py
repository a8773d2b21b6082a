"""Server-sent events: bytes to events to pages (PROTOCOL.md section 5.7; WHATWG HTML section 9.2).

A page is any number of data events and the control event after them, which says the offset. Data whose control event never
arrives has no offset, and is dropped. Both parsers are incremental: any cutting of the bytes gives the same result.
"""

from __future__ import annotations

import binascii
import json
import re
from dataclasses import dataclass
from typing import Final

from ds_sync.exceptions import ProtocolError
from ds_sync.protocol.headers import CONTROL_CLOSED, CONTROL_CURSOR, CONTROL_NEXT_OFFSET, CONTROL_UP_TO_DATE, media_type
from ds_sync.protocol.messages import Page
from ds_sync.protocol.offsets import parse_response_offset

EVENT_DATA: Final = "data"
EVENT_CONTROL: Final = "control"
ENCODING_BASE64: Final = "base64"

MAX_EVENT = 256 * 1024 * 1024
"""Bytes of one page's events. More than this is garbage, and is never waited for."""

MAX_CURSOR = 256
"""Characters of a cursor we are ready to echo."""

# Not str.splitlines: U+0085, U+2028 and U+2029 are ordinary characters here.
_LINE_END = re.compile(rb"\r\n|\r|\n")
_TEXT_LINE_END = re.compile(r"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event: its name, and its data lines joined by LF, not decoded yet."""

    name: str
    data: bytes


def build_event(name: str, text: str) -> bytes:
    """Return the event on the wire. A line end inside `text` (CR, LF or CRLF) arrives as LF: SSE has no way to tell them apart."""
    # A parser strips one leading space, so a line that begins with one is sent with a second.
    lines = "".join(f"data:{' ' if line.startswith(' ') else ''}{line}\n" for line in _TEXT_LINE_END.split(text))
    return f"event: {name}\n{lines}\n".encode()


class SseParser:
    """Bytes to events. Comments and unknown fields are skipped (they are no more than signs of life)."""

    def __init__(self, *, max_event: int = MAX_EVENT) -> None:
        self._max_event = max_event
        self._line = bytearray()
        self._after_cr = False
        self._at_start = True
        self._name: bytes | None = None
        self._data: list[bytes] = []
        self._size = 0

    @property
    def pending(self) -> bool:
        """True in the middle of an event: what came of it is lost if nothing follows."""
        return bool(self._line) or self._name is not None or bool(self._data)

    def receive_data(self, chunk: bytes) -> list[SseEvent]:
        """Take the next bytes; return the events they complete. Raises ProtocolError above `max_event` bytes."""
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r")
        *ends, rest = _LINE_END.split(chunk)
        events: list[SseEvent] = []
        for end in ends:
            self._line += end
            self._check_size()  # also of a line that arrives whole: how the bytes are cut must not decide
            line = bytes(self._line)
            self._line.clear()
            self._receive_line(line, events)
        self._line += rest
        self._check_size()
        return events

    def _receive_line(self, line: bytes, events: list[SseEvent]) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            if self._name is not None or self._data:
                name = "message" if self._name is None else self._name.decode(errors="replace")
                events.append(SseEvent(name, b"\n".join(self._data)))
            self._name, self._size = None, 0
            self._data.clear()
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(value) + 1
            self._check_size()
        elif field == b"event":
            self._name = value

    def _check_size(self) -> None:
        if self._size + len(self._line) > self._max_event:
            raise ProtocolError(f"an event is above {self._max_event} bytes")


@dataclass(frozen=True, slots=True)
class SsePage:
    """A page, and the cursor to send with the next request."""

    page: Page
    cursor: str | None


class SsePageParser:
    """Bytes to pages."""

    def __init__(self, *, content_type: str, encoding: str | None, incarnation: str | None = None, max_event: int = MAX_EVENT) -> None:
        """`content_type` is the stream's; `encoding` the answer's Stream-SSE-Data-Encoding. Raises ProtocolError if that is unknown."""
        if encoding is not None and encoding.strip().lower() != ENCODING_BASE64:
            raise ProtocolError(f"unknown Stream-SSE-Data-Encoding {encoding[:40]!r}")
        self._base64 = encoding is not None
        self._json = media_type(content_type) == "application/json"
        self._incarnation = incarnation
        self._max_event = max_event
        self._parser = SseParser(max_event=max_event)
        self._data: list[bytes] = []
        self._size = 0

    @property
    def pending(self) -> bool:
        """True if something arrived whose offset has not."""
        return bool(self._data) or self._parser.pending

    def receive_data(self, chunk: bytes) -> list[SsePage]:
        """Take the next bytes; return the pages they complete.

        Raises ProtocolError for a control event that says no offset, data that is not in its encoding, or too much of it. The pages
        before the bad event are lost with it; they are read again from the last offset.
        """
        pages = []
        for event in self._parser.receive_data(chunk):
            if event.name == EVENT_DATA:
                data = _parse_data(event.data, base64=self._base64)
                self._size += len(data)
                if self._size > self._max_event:
                    raise ProtocolError(f"data events of {self._size} bytes without an offset")
                self._data.append(data)
            elif event.name == EVENT_CONTROL:
                pages.append(self._build_page(event.data))
        return pages

    def _build_page(self, control: bytes) -> SsePage:
        parts, self._data, self._size = self._data, [], 0
        data = join_json_arrays(parts) if self._json else b"".join(parts)
        return parse_control(control, data=data, incarnation=self._incarnation)


def parse_control(text: bytes, *, data: bytes, incarnation: str | None) -> SsePage:
    """Read a control event; return it as the page it ends. Raises ProtocolError."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolError(f"a control event is not JSON: {text[:80]!r}") from None
    if not isinstance(fields, dict):
        raise ProtocolError(f"a control event is not a JSON object: {text[:80]!r}")
    offset, cursor = fields.get(CONTROL_NEXT_OFFSET), fields.get(CONTROL_CURSOR)
    up_to_date, closed = fields.get(CONTROL_UP_TO_DATE, False), fields.get(CONTROL_CLOSED, False)
    if not isinstance(offset, str):
        raise ProtocolError(f"a control event without {CONTROL_NEXT_OFFSET}: {text[:80]!r}")
    if not isinstance(up_to_date, bool) or not isinstance(closed, bool) or not (cursor is None or is_cursor(cursor)):
        raise ProtocolError(f"a control event with a field of the wrong kind: {text[:80]!r}")
    return SsePage(Page(data, parse_response_offset(offset), up_to_date or closed, closed, incarnation), cursor)


def is_cursor(value: object) -> bool:
    """Return whether a server's cursor is fit to be echoed."""
    return isinstance(value, str) and 0 < len(value) <= MAX_CURSOR and value.isascii() and value.isprintable()


def join_json_arrays(arrays: list[bytes]) -> bytes:
    """Return one JSON array with the elements of all, as a catch-up read gives it. A bare value counts as one element."""
    if len(arrays) == 1 and _is_array(arrays[0]):
        return arrays[0]
    elements = [array.strip()[1:-1].strip() if _is_array(array) else array.strip() for array in arrays]
    return b"[" + b",".join(filter(None, elements)) + b"]"


def _is_array(text: bytes) -> bool:
    text = text.strip()
    return text.startswith(b"[") and text.endswith(b"]")


def _parse_data(data: bytes, *, base64: bool) -> bytes:
    try:
        if base64:
            return binascii.a2b_base64(data.replace(b"\n", b""), strict_mode=True)
        data.decode()  # text by the specification: other bytes were damaged on the way
    except ValueError as error:  # binascii.Error and UnicodeDecodeError are both
        raise ProtocolError(f"a data event is not {'base64' if base64 else 'UTF-8'}") from error
    return data
