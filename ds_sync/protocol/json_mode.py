"""JSON streams: a body is one message, or an array of them, flattened by one level (PROTOCOL.md section 7.1).

A record holds the text of the messages of one body with commas between them, exactly as the client spelled them: numbers
keep their digits and strings their escapes. A page is the records with commas between them, in brackets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from json.decoder import JSONDecodeError
from typing import Final, NoReturn

from ds_sync.exceptions import InvalidRequestError, ProtocolError

JSON_MEDIA_TYPE: Final = "application/json"

_WHITESPACE: Final = " \t\n\r"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Numbers are kept as text, so that one of a million digits costs no arithmetic and none overflows.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, code="INVALID_JSON")


def parse_json_body(body: bytes) -> bytes:
    """Return the record of a JSON body: the inside of its array, or the message itself; b"" for an empty array.

    Raises InvalidRequestError (code INVALID_JSON) unless the body is one JSON value in UTF-8.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise _invalid("the body is not UTF-8") from None
    text = text.strip(_WHITESPACE)
    try:
        _, end = _DECODER.raw_decode(text)
    except RecursionError:
        raise _invalid("the JSON is nested too deeply") from None
    except (JSONDecodeError, ValueError):
        raise _invalid("the body is not JSON") from None
    if end != len(text):
        raise _invalid("the body holds more than one JSON value")
    if text[0] == "[":
        text = text[1:-1].strip(_WHITESPACE)
    return text.encode()


def build_json_page(records: Sequence[bytes]) -> bytes:
    """Return the array that holds the messages of `records`, in order."""
    return b"[" + b",".join(records) + b"]"


def split_json_page(page: bytes) -> list[str]:
    """Return the messages of a page, each spelled as it is stored. Raises ProtocolError for a page that is no JSON array."""
    messages: list[str] = []
    try:
        text = page.decode("utf-8").strip(_WHITESPACE) or "[]"
        at, follows = _skip_whitespace(text, 1), text[:1] == "["
        if text[at:] == "]":
            return messages
        while follows:
            _, end = _DECODER.raw_decode(text, at)
            messages.append(text[at:end])
            at = _skip_whitespace(text, end)
            follows = text[at : at + 1] == ","
            at = _skip_whitespace(text, at + 1) if follows else at
    except (RecursionError, ValueError):
        raise ProtocolError("the page is not JSON") from None
    if text[at:] != "]":
        raise ProtocolError("the page is not a JSON array")
    return messages


def take_messages(record: bytes, count: int) -> bytes | None:
    """Return the first `count` messages of a record, spelled as they are, or None if it holds fewer.

    Raises InvalidRequestError (code INVALID_JSON) if they are nested too deeply to be told apart.
    """
    text, end = record.decode(), 0
    for taken in range(count):
        if end >= len(text):
            return None
        start = _skip_whitespace(text, end + 1 if taken else 0)  # past the comma
        try:
            _, end = _DECODER.raw_decode(text, start)
        except RecursionError:
            raise _invalid("the JSON is nested too deeply") from None
        end = _skip_whitespace(text, end)
    return text[:end].rstrip(_WHITESPACE).encode()


def _skip_whitespace(text: str, start: int) -> int:
    while start < len(text) and text[start] in _WHITESPACE:
        start += 1
    return start
