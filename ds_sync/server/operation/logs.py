"""What the server logs: events as they happen, and, if wanted, one line for every request."""

from __future__ import annotations

import json
import logging
import queue
import sys
import time
from collections.abc import Callable
from logging.handlers import QueueHandler, QueueListener
from typing import Final, Literal, TextIO

from ds_sync.exceptions import InvalidRequestError
from ds_sync.protocol import headers as names
from ds_sync.server.requests import parse_query
from ds_sync.server.responses import Scope

LogFormat = Literal["text", "json"]

QUEUED_LINES: Final = 10_000
"""Lines about requests that wait to be written; what is above that is dropped and counted: no request waits for a log."""

access = logging.getLogger("ds_sync.access")


class TextFormatter(logging.Formatter):
    """One line for an event, for people; a traceback below it."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        if fields is None:
            return super().format(record)
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return f"{moment} {' '.join(str(value) for value in fields.values())}"


class JsonFormatter(logging.Formatter):
    """One JSON object for an event, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event: dict[str, object] = {"time": f"{moment}.{int(record.msecs):03}Z", "level": record.levelname, "logger": record.name}
        fields = getattr(record, "fields", None)
        if fields is None:
            event["message"] = record.getMessage()
            if record.exc_info:
                event["traceback"] = self.formatException(record.exc_info)
        else:
            event |= fields
        return json.dumps(event)


class _DroppingHandler(QueueHandler):
    """Never waits: a line too many is dropped, and said."""

    queue: queue.Queue[logging.LogRecord]
    dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1
            return
        if self.dropped:
            dropped, self.dropped = self.dropped, 0
            logging.getLogger(__name__).warning("%d lines about requests were dropped: the log is written too slowly", dropped)


def start_logging(style: LogFormat, *, requests: bool, file: TextIO | None = None) -> Callable[[], None]:
    """Log to `file`, standard error by default, with a line for each request if `requests`. Returns what ends it."""
    handler = logging.StreamHandler(file or sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    if not requests:
        return lambda: root.removeHandler(handler)
    # A thread writes them: a pipe that nobody reads must not stop the server.
    queued = _DroppingHandler(queue.Queue(QUEUED_LINES))
    listener = QueueListener(queued.queue, handler)
    listener.start()
    access.addHandler(queued)
    access.setLevel(logging.INFO)
    access.propagate = False

    def stop() -> None:
        access.removeHandler(queued)
        access.setLevel(logging.NOTSET)
        access.propagate = True
        listener.stop()
        root.removeHandler(handler)

    return stop


def log_request(scope: Scope, status: int, sent: int, seconds: float) -> None:
    """Log a request that is done. Of the query only what is no secret: `offset` and `live`."""
    client = scope.get("client")
    raw = scope.get("raw_path") or scope["path"].encode()
    fields: dict[str, object] = {
        "client": client[0] if client else "-",
        "method": _printable(scope["method"]),
        "path": _printable(raw.partition(b"?")[0].decode("latin-1")),
        "status": status,
        "bytes": sent,
        "seconds": round(seconds, 6),
    }
    try:
        query = parse_query(scope["query_string"])
    except InvalidRequestError:
        query = {}
    for name in (names.QUERY_OFFSET, names.QUERY_LIVE):
        if name in query:
            fields[name] = _printable(query[name][0])
    access.info("", extra={"fields": fields})


def log_refusal(client: str, status: int) -> None:
    """Log a connection that was ended with `status` before there was a request; 0: without a word."""
    fields = {"client": client, "method": "-", "path": "-", "status": status, "bytes": 0, "seconds": 0}
    access.info("", extra={"fields": fields})


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() and c != " " else "?" for c in text[:2048])
