"""What the suite calls our errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ds_sync.exceptions import (
    ClosedError,
    ConflictError,
    DsSyncError,
    InvalidRequestError,
    NotFoundError,
    ProtocolError,
    ResponseError,
    SequenceGapError,
    SequenceRegressionError,
    StreamClosedError,
    TransportError,
    TransportTimeoutError,
)

ERROR_CODES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (NotFoundError, "NOT_FOUND"),
    (StreamClosedError, "STREAM_CLOSED"),
    (ClosedError, "STREAM_CLOSED"),
    (SequenceGapError, "SEQUENCE_CONFLICT"),
    (SequenceRegressionError, "SEQUENCE_CONFLICT"),
    (ConflictError, "CONFLICT"),
    (ResponseError, "UNEXPECTED_STATUS"),
    (ProtocolError, "PARSE_ERROR"),
    (TransportTimeoutError, "TIMEOUT"),
    (TransportError, "NETWORK_ERROR"),
    (ValueError, "INVALID_ARGUMENT"),
    (Exception, "INTERNAL_ERROR"),
)
"""The first row that fits counts."""

SETTINGS: Final[Mapping[str, str]] = {
    "max_batch_bytes": "maxBatchBytes",
    "max_batch_items": "maxBatchItems",
    "max_in_flight": "maxInFlight",
    "max_attempts": "maxRetries",
    "first_delay": "initialDelayMs",
    "max_delay": "maxDelayMs",
}
"""Our names of settings, and the suite's; the others are the same."""


TEXTS: Final = ("contentType", "data", "expiresAt", "initialValue", "name", "offset", "path", "producerId", "valueType")
"""Fields of commands that are text wherever they stand."""


def require_texts(command: Mapping[str, Any]) -> None:
    """Raise TypeError if a field that is text, or what `headers` or `items` hold, is something else, or the path is none."""
    wrong = [name for name in TEXTS if not isinstance(command.get(name) or "", str)]
    headers, items = command.get("headers") or {}, command.get("items") or []
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        wrong.append("headers")
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        wrong.append("items")
    if isinstance(path := command.get("path", "/"), str) and not path.startswith("/"):
        wrong.append("path, which begins with a slash")
    if wrong:
        raise TypeError(f"not text: {', '.join(wrong)}")


def describe_error(error: Exception, command: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer that says so."""
    kind = command.get("type", "")
    code = next(name for type_, name in ERROR_CODES if isinstance(error, type_))
    if isinstance(error, InvalidRequestError) and kind == "read":
        code = "INVALID_OFFSET"
    # Only our own server says in a body which 409 it is; whoever sent a Stream-Seq knows.
    if code == "CONFLICT" and "seq" in command:
        code = "SEQUENCE_CONFLICT"
    message = str(error)
    if isinstance(error, ValueError):
        for ours, theirs in SETTINGS.items():
            message = message.replace(ours, theirs)
    where = f" ({command['path']})" if "path" in command else ""
    # In words as well: an answer to HEAD has no text of its own.
    message = f"{code.replace('_', ' ').lower()}: {message}{where}"
    answer = {"type": "error", "success": False, "commandType": kind, "errorCode": code, "message": message}
    if isinstance(error, DsSyncError) and isinstance(error, ResponseError) and error.status:
        answer["status"] = error.status
    return answer


def refuse(kind: str, code: str, message: str) -> dict[str, Any]:
    """Return an answer for what never got as far as the client."""
    return {"type": "error", "success": False, "commandType": kind, "errorCode": code, "message": message}
