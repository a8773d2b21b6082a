"""Documents over plain ASGI: what YJS-PROTOCOL.md and the official provider ask for."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ds_sync.client.transport import Response
from ds_sync.protocol.framing import build_frames, parse_frames
from ds_sync.server.app import create_app
from ds_sync.server.documents.routes import DocumentName, parse_document_name, parse_presence_path
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.testing.asgi_transport import AsgiTransport

pytestmark = pytest.mark.anyio

DOC = "http://example.org/v1/yjs/notes/docs/a/b"
RAW = "http://example.org/v1/stream/yjs/notes/docs/a/b"


class Asker:
    def __init__(self, transport: AsgiTransport) -> None:
        self.transport = transport

    async def __call__(self, method: str, url: str, body: bytes = b"", **headers: str) -> Response:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.transport.request(method, url, headers=fields, body=body, timeout=5)

    async def post(self, body: bytes, epoch: int, seq: int, **headers: str) -> Response:
        return await self("POST", DOC, body, producer_id="js", producer_epoch=str(epoch), producer_seq=str(seq), **headers)

    async def updates(self) -> list[bytes]:
        return list(parse_frames((await self("GET", f"{DOC}?offset=-1")).body).payloads)


@pytest.fixture
async def ask() -> AsyncIterator[Asker]:
    engine = MemoryEngine()
    app = create_app(engine, long_poll_timeout=0.2, sse_seconds=0.2)
    transport = AsgiTransport(app)
    try:
        yield Asker(transport)
    finally:
        await app.aclose()
        await transport.aclose()
        await engine.aclose()


def code_of(answer: Response) -> str:
    return str(json.loads(answer.body)["error"]["code"])


def frame(*updates: bytes) -> bytes:
    return build_frames(updates)


async def test_a_document_is_made_written_read_and_deleted(ask: Asker) -> None:
    made = await ask("PUT", DOC)
    assert (made.status, made.headers["location"]) == (201, DOC)
    assert (await ask("PUT", DOC)).status == 200
    written = await ask("POST", DOC, frame(b"one", b"two"))
    assert written.status == 204
    read = await ask("GET", f"{DOC}?offset=-1")
    assert (read.status, read.body, read.headers["stream-next-offset"]) == (
        200,
        frame(b"one", b"two"),
        written.headers["stream-next-offset"],
    )
    assert read.headers["content-type"] == "application/octet-stream"
    raw = await ask("GET", f"{RAW}/.updates?offset=-1")
    assert raw.body == read.body, "the updates are an ordinary stream"
    head = await ask("HEAD", DOC)
    assert (head.status, head.headers["stream-next-offset"]) == (200, written.headers["stream-next-offset"])
    assert (await ask("DELETE", DOC)).status == 204
    for method, url in (("GET", f"{DOC}?offset=-1"), ("GET", f"{DOC}?offset=snapshot"), ("POST", DOC), ("DELETE", DOC)):
        answer = await ask(method, url, frame(b"x") if method == "POST" else b"")
        assert (answer.status, code_of(answer)) == (404, "DOCUMENT_NOT_FOUND"), (method, url)
    assert (await ask("HEAD", DOC)).status == 404
    again = await ask("PUT", DOC)
    assert again.status == 201
    assert await ask.updates() == []


async def test_the_first_update_makes_the_document(ask: Asker) -> None:
    """YJS-PROTOCOL.md section 5.4. What is refused makes none, and one that was deleted is not made by what belonged to it."""
    for refused, status in (
        (await ask("POST", DOC, b"\x05no frame"), 400),
        (await ask("POST", DOC), 404),
        (await ask.post(frame(b"a gap"), 0, 3), 409),
        (await ask("POST", DOC, frame(b"x"), stream_incarnation="0" * 32), 404),
        (await ask("POST", f"{RAW}/.updates", frame(b"a plain stream"), content_type="application/octet-stream"), 404),
        (await ask("POST", f"{DOC}?awareness=default", frame(b"me")), 404),
    ):
        assert refused.status == status
        assert (await ask("HEAD", DOC)).status == 404
    first = await ask.post(frame(b"one"), 0, 0)
    assert (first.status, (await ask("PUT", DOC)).status) == (200, 200)
    assert first.headers["stream-next-offset"] == (await ask("HEAD", DOC)).headers["stream-next-offset"]
    assert (await ask.post(frame(b"one"), 0, 0)).status == 204, "its number is remembered"
    assert (await ask("POST", DOC, frame(b"two"))).status == 204
    assert await ask.updates() == [b"one", b"two"]
    await ask("DELETE", DOC)
    for body in (frame(b"three"), b"\x01\x02\x03"):
        gone = await ask("POST", DOC, body)
        assert (gone.status, code_of(gone)) == (404, "DOCUMENT_NOT_FOUND")
    assert (await ask("HEAD", DOC)).status == 404


async def test_a_document_is_of_one_type(ask: Asker) -> None:
    made = await ask("PUT", DOC, content_type="application/json")
    assert (made.status, made.headers["content-type"]) == (201, "application/octet-stream")
    assert (await ask("PUT", DOC, content_type="text/plain")).status == 200
    assert (await ask("POST", DOC, frame(b"one"), content_type="text/plain")).status == 204
    assert await ask.updates() == [b"one"]


async def test_older_clients_leave_the_transport_to_the_server(ask: Asker) -> None:
    await ask("PUT", DOC)
    polled = await ask("GET", f"{DOC}?offset=-1&live=true")
    assert (polled.status, polled.headers["stream-up-to-date"]) == (204, "true")
    followed = await ask("GET", f"{DOC}?awareness=default&offset=now&live=true")
    assert followed.headers["content-type"] == "text/event-stream"


async def test_a_body_that_is_no_run_of_frames_is_refused(ask: Asker) -> None:
    await ask("PUT", DOC)
    for body in (b"\x05abc", frame(b"whole") + b"\x80", b"\xff" * 20):
        answer = await ask("POST", DOC, body)
        assert (answer.status, code_of(answer)) == (400, "INVALID_REQUEST")
    assert await ask.updates() == []


async def test_a_producer_that_began_again_is_told_to_claim_the_next_epoch(ask: Asker) -> None:
    await ask("PUT", DOC)
    assert (await ask.post(frame(b"one"), 0, 0)).status == 200
    assert (await ask.post(frame(b"two"), 0, 1)).status == 200
    assert (await ask.post(frame(b"one"), 0, 0)).status == 204, "the same bytes: a repetition"
    anew = await ask.post(frame(b"three"), 0, 0)
    assert (anew.status, anew.headers["producer-epoch"], code_of(anew)) == (403, "0", "STALE_EPOCH")
    assert (await ask.post(frame(b"three"), 1, 0)).status == 200
    later = await ask.post(frame(b"four"), 0, 0)
    assert (later.status, later.headers["producer-epoch"]) == (403, "1")
    assert (await ask.post(frame(b"four"), 2, 0)).status == 200
    assert (await ask.post(frame(b"four"), 2, 0)).status == 204
    assert await ask.updates() == [b"one", b"two", b"three", b"four"]


async def test_plain_streams_take_a_number_at_its_word(ask: Asker) -> None:
    stream = "http://example.org/v1/stream/plain"
    await ask("PUT", stream, content_type="text/plain")
    sent: dict[str, Any] = {"producer_id": "p", "producer_epoch": "0", "producer_seq": "0", "content_type": "text/plain"}
    assert (await ask("POST", stream, b"one", **sent)).status == 200
    assert (await ask("POST", stream, b"two", **sent)).status == 204
    assert (await ask("GET", f"{stream}?offset=-1")).body == b"one"


async def test_one_client_can_not_close_a_document(ask: Asker) -> None:
    await ask("PUT", DOC)
    assert (await ask.post(frame(b"one"), 0, 0)).status == 200
    for _ in range(2):
        closed = await ask.post(b"", 0, 1, stream_closed="true")
        assert closed.status == 204
        assert "stream-closed" not in closed.headers
    assert (await ask.post(frame(b"two"), 0, 1)).status == 200, "the close took no number"
    assert (await ask.post(frame(b"three"), 0, 2, stream_closed="true")).status == 200
    assert (await ask.post(frame(b"three"), 0, 2, stream_closed="true")).status == 204
    last = await ask.post(frame(b"four"), 0, 0, stream_closed="true")
    assert last.status in (200, 204), "the last words of a producer that began again"
    assert (await ask("POST", DOC, frame(b"five"))).status == 204
    assert await ask.updates() == [b"one", b"two", b"three", b"four", b"five"]
    refused = await ask("POST", f"{RAW}/.updates", stream_closed="true")
    assert (refused.status, code_of(refused)) == (400, "CLOSE_REFUSED")
    missing = await ask("POST", f"{DOC}2", stream_closed="true")
    assert (missing.status, code_of(missing)) == (404, "DOCUMENT_NOT_FOUND")


async def test_who_asks_where_to_begin_is_sent_to_the_beginning(ask: Asker) -> None:
    await ask("PUT", DOC)
    answer = await ask("GET", f"{DOC}?offset=snapshot")
    assert (answer.status, answer.headers["location"]) == (307, "/v1/yjs/notes/docs/a/b?offset=-1")
    assert answer.headers["cache-control"] == "private, max-age=5"
    for offset, status, code in (
        ("9999999999999999_9999999999999999_snapshot", 404, "SNAPSHOT_NOT_FOUND"),
        ("nonsense_snapshot", 404, "SNAPSHOT_NOT_FOUND"),
        ("_snapshot", 404, "SNAPSHOT_NOT_FOUND"),
        ("nonsense", 400, "INVALID_REQUEST"),
        ("-1&offset=-1", 400, "INVALID_REQUEST"),
        ("-1&live=maybe", 400, "INVALID_REQUEST"),
    ):
        refused = await ask("GET", f"{DOC}?offset={offset}")
        assert (refused.status, code_of(refused)) == (status, code)


@pytest.mark.parametrize("method", ["PATCH", "TRACE"])
@pytest.mark.parametrize("query", ["", "?awareness=default"])
async def test_other_methods_are_refused_on_any_document(ask: Asker, method: str, query: str) -> None:
    answer = await ask(method, DOC + query)
    assert (answer.status, code_of(answer)) == (405, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"/v1/yjs/notes/docs/a", DocumentName("yjs", "notes", "a")),
        (b"/v1/yjs/my.svc/docs//a//b/", DocumentName("yjs", "my.svc", "a/b")),
        (b"/v1/yjs/notes/docs/caf%C3%A9%20x", DocumentName("yjs", "notes", "café x")),
        (b"/v1/stream/yjs/notes/docs/a", None),
        (b"/v1/nothing/notes/docs/a", None),
        (b"/v2/yjs/notes/docs/a", None),
        (b"/v1", None),
    ],
)
async def test_a_documents_name(raw: bytes, name: DocumentName | None) -> None:
    assert parse_document_name(raw) == name


@pytest.mark.parametrize(
    "path",
    [
        "notes/docs/foo%2F..%2Fbar",
        "notes/docs/foo%2F.%2Fbar",
        "notes/docs/a/.updates",
        "notes/docs/.index",
        "notes/docs/",
        "notes/docs//",
        "notes/docs",
        "notes/other/a",
        "no%2Ftes/docs/a",
        "..%2Fx/docs/a",
        "/docs/a",
        "notes/docs/%ff",
        "notes/docs/a%00",
    ],
)
async def test_a_path_that_means_no_document_is_refused(ask: Asker, path: str) -> None:
    answer = await ask("PUT", f"http://example.org/v1/yjs/{path}")
    assert (answer.status, code_of(answer)) == (400, "INVALID_REQUEST")


async def test_a_presence_path() -> None:
    assert parse_presence_path("yjs/notes/docs/a/b/.awareness/x") == (DocumentName("yjs", "notes", "a/b"), "x")
    for path in ("yjs/notes/docs/a/.updates", "yjs/notes/a/.awareness/x", "other/.awareness/x", "yjs/notes/docs/a/.awareness/.index"):
        assert parse_presence_path(path) is None


async def test_presence_belongs_to_its_document(ask: Asker) -> None:
    for method in ("PUT", "GET", "POST", "HEAD", "DELETE"):
        answer = await ask(method, f"{DOC}?awareness=default", b"x" if method == "POST" else b"")
        assert answer.status == 404
        assert method == "HEAD" or code_of(answer) == "DOCUMENT_NOT_FOUND"
    await ask("PUT", DOC)
    assert (await ask("HEAD", f"{DOC}?awareness=default")).status == 200, "made with its document"
    assert (await ask("HEAD", f"{DOC}?awareness=cursors")).status == 404
    assert (await ask("PUT", f"{DOC}?awareness=cursors")).status == 201
    assert (await ask("PUT", f"{DOC}?awareness=cursors")).status == 200
    assert (await ask("POST", f"{DOC}?awareness=cursors", b"\x01here")).status == 204
    assert (await ask("POST", f"{DOC}?awareness=lazy", b"\x01there")).status == 204
    assert (await ask("GET", f"{DOC}?awareness=cursors&offset=-1")).body == b"\x01here"
    assert (await ask("GET", f"{RAW}/.awareness/lazy?offset=-1")).body == b"\x01there", "on the stream's own URL, too"
    missing = await ask("DELETE", f"{DOC}?awareness=nobody")
    assert (missing.status, code_of(missing)) == (404, "STREAM_NOT_FOUND")
    assert (await ask("DELETE", f"{DOC}?awareness=default")).status == 204
    assert (await ask("HEAD", DOC)).status == 200
    await ask("DELETE", DOC)
    await ask("PUT", DOC)
    assert (await ask("HEAD", f"{DOC}?awareness=cursors")).status == 404, "gone with its document"
    for name in ("", ".index", "a/b", "a%00", "x" * 300):
        refused = await ask("PUT", f"{DOC}?awareness={name}")
        assert (refused.status, code_of(refused)) == (400, "INVALID_REQUEST")
    assert (await ask("PUT", f"{DOC}?awareness=.registry")).status == 201


async def test_presence_is_heard_at_once(ask: Asker) -> None:
    await ask("PUT", DOC)
    now = (await ask("GET", f"{DOC}?awareness=default&offset=now")).headers["stream-next-offset"]
    waiting = asyncio.ensure_future(ask("GET", f"{DOC}?awareness=default&offset={now}&live=long-poll"))
    await asyncio.sleep(0)
    said = await ask("POST", f"{DOC}?awareness=default", frame(b"me"))
    heard = await waiting
    assert (heard.status, heard.body) == (200, frame(b"me"))
    assert heard.headers["stream-next-offset"] == said.headers["stream-next-offset"]
    events = await ask("GET", f"{DOC}?awareness=default&offset={now}&live=sse")
    assert b"event: data\ndata:Am1l" in events.body
    assert b"event: control" in events.body
    nothing = await ask("GET", f"{DOC}?awareness=default&offset=now&live=long-poll")
    assert nothing.status == 204


async def test_presence_is_bounded(ask: Asker) -> None:
    await ask("PUT", DOC)
    large = await ask("POST", f"{DOC}?awareness=default", bytes(65 * 1024))
    assert (large.status, code_of(large)) == (413, "PAYLOAD_TOO_LARGE")
    first = (await ask("POST", f"{DOC}?awareness=default", b"first")).headers["stream-next-offset"]
    for number in range(10):
        assert (await ask("POST", f"{DOC}?awareness=default", bytes([number]) * 60 * 1024)).status == 204
    kept = await ask("GET", f"{DOC}?awareness=default&offset=-1")
    assert 0 < len(kept.body) <= 256 * 1024
    assert kept.body.endswith(b"\x09")
    late = await ask("GET", f"{DOC}?awareness=default&offset={first}")
    assert (late.status, code_of(late)) == (410, "HISTORY_DIVERGED"), "who can not keep up begins again"
