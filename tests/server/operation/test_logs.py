"""Logs: one line a request, whatever stands in it."""

import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest

from ds_sync.server.app import create_app
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.operation.logs import QUEUED_LINES, LogFormat, access, log_request, start_logging


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


def scope(path: bytes = b"/v1/stream/a", query: bytes = b"") -> dict[str, object]:
    return {
        "type": "http",
        "method": "GET",
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "client": ("1.2.3.4", 5),
    }


def written(style: LogFormat, *scopes: dict[str, object]) -> list[str]:
    file = io.StringIO()
    stop = start_logging(style, requests=True, file=file)
    for one in scopes:
        log_request(one, 200, 17, 0.0123456789)
    stop()
    return file.getvalue().splitlines()


def test_a_request_is_one_json_object_without_secrets() -> None:
    (line,) = written("json", scope(query=b"offset=-1&live=sse&token=secret"))
    event = json.loads(line)
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "INFO",
        "logger": "ds_sync.access",
        "client": "1.2.3.4",
        "method": "GET",
        "path": "/v1/stream/a",
        "status": 200,
        "bytes": 17,
        "seconds": 0.012346,
        "offset": "-1",
        "live": "sse",
    }


def test_a_request_is_one_line_of_text_whatever_its_path() -> None:
    lines = written("text", scope(), scope(b"/a b\r\nGET /forged 200\x1b[2J"), scope(query=b"&".join([b"a=1"] * 100)))
    assert [line.split(" ", 1)[1] for line in lines] == [
        "1.2.3.4 GET /v1/stream/a 200 17 0.012346",
        "1.2.3.4 GET /a?b??GET?/forged?200?[2J 200 17 0.012346",
        "1.2.3.4 GET /v1/stream/a 200 17 0.012346",
    ]


def test_events_are_json_too_tracebacks_included() -> None:
    file = io.StringIO()
    stop = start_logging("json", requests=False, file=file)
    try:
        raise ValueError("a\nb")
    except ValueError:
        logging.getLogger("ds_sync.x").exception("it %s", "failed")
    logging.getLogger("ds_sync.x").info("not this")
    stop()
    (line,) = file.getvalue().splitlines()
    event = json.loads(line)
    assert (event["level"], event["logger"], event["message"]) == ("ERROR", "ds_sync.x", "it failed")
    assert "ValueError: a\nb" in event["traceback"]


class Stuck(io.StringIO):
    """A pipe that nobody reads, for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    def write(self, text: str) -> int:
        self.free.wait(20)
        return super().write(text)


def test_no_request_waits_for_the_log() -> None:
    file = Stuck()
    stop = start_logging("text", requests=True, file=file)
    for _ in range(QUEUED_LINES + 100):
        log_request(scope(), 200, 0, 0.0)
    file.free.set()
    while not access.handlers[0].queue.empty():  # type: ignore[attr-defined]
        threading.Event().wait(0.01)
    log_request(scope(), 200, 0, 0.0)
    stop()
    lines = file.getvalue().splitlines()
    assert any("lines about requests were dropped" in line for line in lines)
    assert QUEUED_LINES < len(lines) < QUEUED_LINES + 100


@pytest.mark.anyio
async def test_the_application_logs_every_request_once_it_is_asked_to() -> None:
    import httpx

    app = create_app(MemoryEngine())
    file = io.StringIO()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        await client.get("/health")
        stop = start_logging("json", requests=True, file=file)
        await client.put("/v1/stream/a", content=b"abc")
        await client.get("/v1/stream/a?offset=-1")
        await client.get("/v1/stream/none")
    stop()
    await app.aclose()
    events = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [(event["method"], event["path"], event["status"], event["bytes"]) for event in events[:2]] == [
        ("PUT", "/v1/stream/a", 201, 0),
        ("GET", "/v1/stream/a", 200, 3),
    ]
    assert (events[2]["path"], events[2]["status"]) == ("/v1/stream/none", 404)
    assert events[1]["offset"] == "-1"
