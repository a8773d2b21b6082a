"""The application over plain ASGI: every header of every answer, and whatever strangers send."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ds_sync.environment import Environment
from ds_sync.exceptions import ClosedError, DsSyncError, RateLimitedError, StorageFullError
from ds_sync.protocol.framing import build_frames
from ds_sync.server.app import Application, create_app
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.requests import find_header, parse_headers
from ds_sync.server.responses import Message, build_refusal

pytestmark = pytest.mark.anyio

TEXT = {"content-type": "text/plain"}
LIFE = "0123456789abcdef0123456789abcdef"
START = "0000000000000000_0000000000000000"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


async def ask(
    app: Application,
    method: str,
    path: str,
    *,
    query: str | bytes = "",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    chunks: int = 1,
    length: str | None = None,
) -> Answer:
    sent: list[Message] = []
    size = max(1, -(-len(body) // chunks))
    parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    fields = {"host": "example.org", "content-length": str(len(body)) if length is None else length, **(headers or {})}
    forever = asyncio.Event()

    async def receive() -> Message:
        if not parts:
            await forever.wait()
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode() if isinstance(query, str) else query,
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()],
    }
    await app(scope, receive, send)
    assert sent[0]["type"] == "http.response.start"
    pairs = [(name.decode(), value.decode("latin-1")) for name, value in sent[0]["headers"]]
    assert len(dict(pairs)) == len(pairs), "a header is sent twice"
    return Answer(sent[0]["status"], dict(pairs), b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.fixture
async def app() -> AsyncIterator[Application]:
    engine = MemoryEngine()
    app = create_app(
        engine, environment=replace(Environment(), random=random.Random(7)), long_poll_timeout=0.02, max_body=1000, page_bytes=100
    )
    yield app
    await app.aclose()
    await engine.aclose()


async def test_put_says_where_what_and_which_life(app: Application) -> None:
    made = await ask(app, "PUT", "/v1/stream/a%20b", headers={**TEXT, "stream-incarnation": LIFE})
    assert made.status == 201
    assert made.headers["location"] == "http://example.org/v1/stream/a%20b"
    assert made.headers["content-type"] == "text/plain"
    assert made.headers["stream-next-offset"] == START
    assert made.headers["stream-incarnation"] == LIFE
    again = await ask(app, "PUT", "/v1/stream/a%20b", headers={**TEXT, "stream-incarnation": "f" * 32})
    assert (again.status, again.headers["stream-incarnation"]) == (200, LIFE)
    assert "location" not in again.headers


async def test_a_malformed_proposal_is_no_proposal(app: Application) -> None:
    made = await ask(app, "PUT", "/v1/stream/a", headers={"stream-incarnation": "XYZ"})
    assert made.status == 201
    assert len(made.headers["stream-incarnation"]) == 32


async def test_an_append_may_name_the_life_it_is_for(app: Application) -> None:
    await ask(app, "PUT", "/v1/stream/a", headers={**TEXT, "stream-incarnation": LIFE})
    assert (await ask(app, "POST", "/v1/stream/a", headers={**TEXT, "stream-incarnation": LIFE}, body=b"one")).status == 204
    other = await ask(app, "POST", "/v1/stream/a", headers={**TEXT, "stream-incarnation": "f" * 32}, body=b"two")
    assert (other.status, other.code) == (410, "HISTORY_DIVERGED")
    assert (other.headers["stream-incarnation"], other.headers["cache-control"]) == (LIFE, "no-store")
    unreadable = await ask(app, "POST", "/v1/stream/a", headers={**TEXT, "stream-incarnation": LIFE.upper()}, body=b"two")
    assert (unreadable.status, unreadable.code) == (400, "INVALID_INCARNATION")
    assert (await ask(app, "GET", "/v1/stream/a")).body == b"one"


async def test_a_stream_seq_that_does_not_rise_has_a_code_of_its_own(app: Application) -> None:
    await ask(app, "PUT", "/v1/stream/a", headers=TEXT)
    assert (await ask(app, "POST", "/v1/stream/a", headers={**TEXT, "stream-seq": "2"}, body=b"one")).status == 204
    refused = await ask(app, "POST", "/v1/stream/a", headers={**TEXT, "stream-seq": "10"}, body=b"two")
    assert (refused.status, refused.code) == (409, "SEQUENCE_REGRESSION")


async def test_an_append_tells_the_tail_and_a_read_gives_the_bytes(app: Application) -> None:
    await ask(app, "PUT", "/v1/stream/a", headers={**TEXT, "stream-incarnation": LIFE})
    first = await ask(app, "POST", "/v1/stream/a", headers=TEXT, body=b"one", chunks=3)
    second = await ask(app, "POST", "/v1/stream/a", headers=TEXT, body=b"two")
    assert (first.status, first.body) == (204, b"")
    page = await ask(app, "GET", "/v1/stream/a", query=f"offset={first.headers['stream-next-offset']}")
    assert (page.status, page.body) == (200, b"two")
    assert page.headers["stream-next-offset"] == second.headers["stream-next-offset"]
    assert page.headers["stream-up-to-date"] == "true"
    assert page.headers["stream-incarnation"] == LIFE
    assert page.headers["content-length"] == "3"


async def test_pages_are_bounded_and_end_on_records(app: Application) -> None:
    await ask(app, "PUT", "/v1/stream/a", headers=TEXT)
    for number in range(5):
        await ask(app, "POST", "/v1/stream/a", headers=TEXT, body=b"%d" % number * 40)
    offset, bodies = "-1", []
    while True:
        page = await ask(app, "GET", "/v1/stream/a", query=f"offset={offset}")
        bodies.append(page.body)
        offset = page.headers["stream-next-offset"]
        if "stream-up-to-date" in page.headers:
            break
    assert [len(body) for body in bodies] == [80, 80, 40]
    assert b"".join(bodies) == b"".join(b"%d" % number * 40 for number in range(5))


async def test_producers_get_200_for_news_and_204_for_repetitions(app: Application) -> None:
    await ask(app, "PUT", "/v1/stream/a", headers=TEXT)
    stamp = {**TEXT, "producer-id": "p", "producer-epoch": "3", "producer-seq": "0"}
    first = await ask(app, "POST", "/v1/stream/a", headers=stamp, body=b"x")
    again = await ask(app, "POST", "/v1/stream/a", headers=stamp, body=b"x")
    assert (first.status, again.status) == (200, 204)
    for answer in (first, again):
        assert (answer.headers["producer-epoch"], answer.headers["producer-seq"]) == ("3", "0")
        assert "stream-incarnation" in answer.headers
    stale = await ask(app, "POST", "/v1/stream/a", headers={**stamp, "producer-epoch": "2"}, body=b"x")
    assert (stale.status, stale.headers["producer-epoch"], stale.code) == (403, "3", "STALE_EPOCH")
    gap = await ask(app, "POST", "/v1/stream/a", headers={**stamp, "producer-seq": "5"}, body=b"x")
    assert (gap.status, gap.headers["producer-expected-seq"], gap.headers["producer-received-seq"]) == (409, "1", "5")


async def test_every_place_that_is_none_is_410_in_all_three_modes(app: Application) -> None:
    await ask(app, "PUT", "/v1/stream/a", headers={**TEXT, "stream-incarnation": LIFE})
    first = await ask(app, "POST", "/v1/stream/a", headers=TEXT, body=b"one")
    await ask(app, "POST", "/v1/stream/a", headers=TEXT, body=b"two")
    position, check = first.headers["stream-next-offset"].split("_")
    wrong_check, between, beyond = f"{position}_{int(check) - 1:016}", f"{1:016}_{check}", f"{99:016}_{check}"
    for offset in (wrong_check, between, beyond):
        for live in ("", "&live=long-poll", "&live=sse"):
            answer = await ask(app, "GET", "/v1/stream/a", query=f"offset={offset}{live}")
            assert (answer.status, answer.code) == (410, "HISTORY_DIVERGED")
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["stream-incarnation"] == LIFE
    plus_one = await ask(app, "GET", "/v1/stream/a", query=f"offset={position}_{int(check) + 1:016}")
    assert (plus_one.status, plus_one.body) == (200, b"two")


async def test_check_plus_one_at_the_tail_echoes_what_was_asked(app: Application) -> None:
    await ask(app, "PUT", "/v1/stream/a", headers=TEXT)
    tail = (await ask(app, "POST", "/v1/stream/a", headers=TEXT, body=b"one")).headers["stream-next-offset"]
    asked = f"{tail[:17]}{int(tail[17:]) + 1:016}"
    for live in ("", "&live=long-poll"):
        answer = await ask(app, "GET", "/v1/stream/a", query=f"offset={asked}{live}")
        assert answer.headers["stream-next-offset"] == asked


async def test_a_deleted_stream_is_told_from_one_that_never_was(app: Application) -> None:
    await ask(app, "PUT", "/v1/stream/a", headers={**TEXT, "stream-incarnation": LIFE})
    assert (await ask(app, "DELETE", "/v1/stream/a")).status == 204
    for method in ("GET", "DELETE", "POST"):
        gone = await ask(app, method, "/v1/stream/a", headers=TEXT, body=b"x" if method == "POST" else b"")
        assert (gone.status, gone.code, gone.headers["stream-incarnation"]) == (404, "STREAM_DELETED", LIFE)
    never = await ask(app, "GET", "/v1/stream/b")
    assert (never.status, never.code) == (404, "STREAM_NOT_FOUND")
    assert "stream-incarnation" not in never.headers
    assert (await ask(app, "HEAD", "/v1/stream/a")).headers["stream-incarnation"] == LIFE
    remade = await ask(app, "PUT", "/v1/stream/a", headers=TEXT)
    assert remade.status == 201
    assert remade.headers["stream-incarnation"] != LIFE


async def test_an_unchanged_page_is_304_and_a_close_changes_it(app: Application) -> None:
    await ask(app, "PUT", "/v1/stream/a", headers=TEXT, body=b"abc")
    page = await ask(app, "GET", "/v1/stream/a")
    same = await ask(app, "GET", "/v1/stream/a", headers={"if-none-match": page.headers["etag"]})
    assert (same.status, same.body) == (304, b"")
    assert (await ask(app, "POST", "/v1/stream/a", headers={"stream-closed": "true"})).status == 204
    closed = await ask(app, "GET", "/v1/stream/a", headers={"if-none-match": page.headers["etag"]})
    assert (closed.status, closed.headers["stream-closed"]) == (200, "true")


async def test_json_comes_back_as_spelled(app: Application) -> None:
    kind = {"content-type": "application/json"}
    await ask(app, "PUT", "/v1/stream/j", headers=kind)
    for body in (b'{"n": 1.50}', b"[1e400,  [2]]"):
        assert (await ask(app, "POST", "/v1/stream/j", headers=kind, body=body)).status == 204
    assert (await ask(app, "GET", "/v1/stream/j")).body == b'[{"n": 1.50},1e400,  [2]]'
    assert (await ask(app, "GET", "/v1/stream/j", query="offset=now")).body == b"[]"


async def test_updates_take_whole_frames_only(app: Application) -> None:
    path, kind = "/v1/stream/yjs/default/docs/a/.updates", {"content-type": "application/octet-stream"}
    await ask(app, "PUT", path, headers=kind)
    whole = build_frames([b"one"])
    assert (await ask(app, "POST", path, headers=kind, body=whole)).status == 204
    cut = await ask(app, "POST", path, headers=kind, body=whole[:-1])
    assert (cut.status, cut.code) == (400, "INVALID_FRAMES")
    close = await ask(app, "POST", path, headers={"stream-closed": "true"})
    assert (close.status, close.code) == (400, "CLOSE_REFUSED")
    assert (await ask(app, "GET", path)).body == whole


@pytest.mark.parametrize("length", [None, "1001", "999999999"])
async def test_a_body_above_the_limit_is_413_and_stores_nothing(app: Application, length: str | None) -> None:
    await ask(app, "PUT", "/v1/stream/a", headers=TEXT)
    answer = await ask(app, "POST", "/v1/stream/a", headers=TEXT, body=b"x" * 1001, chunks=4, length=length)
    assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE")
    assert (await ask(app, "GET", "/v1/stream/a")).body == b""


async def test_a_client_that_hangs_up_inside_its_body_stores_nothing_and_is_told_if_it_still_reads(app: Application) -> None:
    await ask(app, "PUT", "/v1/stream/a", headers=TEXT)
    messages: list[Message] = [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"text/plain"), (b"content-length", b"8")]
    scope = {"type": "http", "method": "POST", "path": "/v1/stream/a", "raw_path": b"/v1/stream/a", "query_string": b"", "headers": headers}
    await app(scope, receive, send)
    assert sent[0]["status"] == 400
    assert json.loads(sent[1]["body"])["error"]["code"] == "INCOMPLETE_REQUEST"
    assert (await ask(app, "GET", "/v1/stream/a")).body == b""


@pytest.mark.parametrize("path", ["", "a/../b", "..", "a/%2e%2e/b", "a%00b", "%ff", "a%2F..%2Fb", "x" * 3000, "a%0Ab"])
async def test_paths_that_proxies_would_change_are_refused(app: Application, path: str) -> None:
    answer = await ask(app, "PUT", f"/v1/stream/{path}")
    assert (answer.status, answer.code) == (400, "INVALID_PATH")


@pytest.mark.parametrize(
    "query",
    ["offset=", "offset=-1&offset=-1", "offset=a%2Cb", "offset=..", "offset=%00", "live=sse", "offset=-1&live=ws", "offset=5", "offset=-2"],
)
async def test_queries_that_mean_nothing_are_refused(app: Application, query: str) -> None:
    await ask(app, "PUT", "/v1/stream/a")
    assert (await ask(app, "GET", "/v1/stream/a", query=query)).status == 400


async def test_no_space_is_507_and_says_when_to_come_back() -> None:
    class FullEngine(MemoryEngine):
        async def transact(self, *args: object, **options: object) -> object:  # type: ignore[override]
            raise StorageFullError("no space is left")

    app = create_app(FullEngine())
    answer = await ask(app, "PUT", "/v1/stream/a")
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (507, "STORAGE_FULL", "1")


async def test_a_fault_of_ours_is_500_without_its_inside(caplog: pytest.LogCaptureFixture) -> None:
    class BrokenEngine(MemoryEngine):
        async def read(self, *args: object) -> object:  # type: ignore[override]
            raise RuntimeError("secret")

    answer = await ask(create_app(BrokenEngine()), "GET", "/v1/stream/a")
    assert (answer.status, answer.code) == (500, "INTERNAL_ERROR")
    assert b"secret" not in answer.body
    assert "secret" in caplog.text


async def test_what_every_answer_carries(app: Application) -> None:
    for method, path in (
        ("GET", "/v1/stream/none"),
        ("GET", "/health"),
        ("GET", "/"),
        ("OPTIONS", "/v1/stream/a"),
        ("PATCH", "/v1/stream/a"),
    ):
        answer = await ask(app, method, path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    preflight = await ask(app, "OPTIONS", "/v1/stream/a")
    assert preflight.status == 204
    for name in ("If-None-Match", "Stream-Incarnation", "Producer-Id", "Stream-Closed"):
        assert name in preflight.headers["access-control-allow-headers"]
    refused = await ask(app, "PATCH", "/v1/stream/a")
    assert (refused.status, refused.headers["cache-control"]) == (405, "no-store")
    assert "POST" in refused.headers["allow"]


async def test_health_is_json(app: Application) -> None:
    answer = await ask(app, "GET", "/health")
    assert (answer.status, json.loads(answer.body)["status"]) == (200, "ok")


async def test_an_encoded_mount_is_no_mount(app: Application) -> None:
    answer = await ask(app, "PUT", "/v1/%73tream/a")
    assert (answer.status, answer.code) == (404, "NOT_FOUND")


async def test_a_time_to_live_is_told_renewed_by_reads_and_ends_the_stream() -> None:
    clock = [1000.0]
    app = create_app(MemoryEngine(), environment=replace(Environment(), now=lambda: clock[0]), long_poll_timeout=0.01)
    made = await ask(app, "PUT", "/v1/stream/a", headers={**TEXT, "stream-ttl": "10", "stream-incarnation": LIFE})
    assert made.headers["stream-ttl"] == "10"
    for query in ("", "offset=now", "offset=now&live=long-poll"):
        clock[0] += 8
        assert (await ask(app, "GET", "/v1/stream/a", query=query)).status < 300
    clock[0] += 8
    assert (await ask(app, "HEAD", "/v1/stream/a")).headers["stream-ttl"] == "10"
    clock[0] += 2
    for method in ("HEAD", "GET", "POST"):
        answer = await ask(app, method, "/v1/stream/a", headers=TEXT, body=b"x" if method == "POST" else b"")
        assert (answer.status, answer.headers["stream-incarnation"]) == (404, LIFE)
    assert (await ask(app, "PUT", "/v1/stream/a", headers=TEXT)).status == 201
    both = await ask(app, "PUT", "/v1/stream/b", headers={"stream-ttl": "10", "stream-expires-at": "2030-01-01T00:00:00Z"})
    assert both.status == 400


VALUES = st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=20) | st.sampled_from(
    ["0", "1", "-1", "true", "now", "text/plain", "application/json", START, "9" * 20, "1e3", "*", '"', "a/b;", "/v1/stream/j"]
)
PRODUCER_NAMES = ["producer-id", "producer-epoch", "producer-seq"]
STREAM_NAMES = ["stream-closed", "stream-seq", "stream-ttl", "stream-expires-at", "stream-incarnation"]
FORK_NAMES = ["stream-forked-from", "stream-fork-offset", "stream-fork-sub-offset"]
NAMES = st.sampled_from([*PRODUCER_NAMES, *STREAM_NAMES, *FORK_NAMES, "content-type", "content-length", "if-none-match", "host"])


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "PUT", "POST", "HEAD", "DELETE", "OPTIONS", "PATCH", "BREW"]),
    path=st.sampled_from(["a", "j", "a/.updates", "__ds/x"]) | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12),
    headers=st.dictionaries(NAMES, VALUES, max_size=6),
    query=st.binary(max_size=40) | st.builds(lambda one, two: f"offset={one}&live={two}&cursor={one}".encode("latin-1"), VALUES, VALUES),
    body=st.binary(max_size=30) | st.sampled_from([b"[]", b"[1]", b"{}", b"\x01a", b"null"]),
)
async def test_nothing_a_stranger_sends_is_a_fault_of_ours(
    app: Application, method: str, path: str, headers: dict[str, str], query: bytes, body: bytes
) -> None:
    await ask(app, "PUT", "/v1/stream/j", headers={"content-type": "application/json"})
    answer = await ask(app, method, f"/v1/stream/{path.replace('?', '')}", headers=headers, query=query, body=body, chunks=2)
    assert answer.status < 500
    if answer.status >= 400 and method != "HEAD":
        assert json.loads(answer.body)["error"]["code"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([("content-type", "text/plain"), ("content-type", "text/plain")], 204),
        ([("content-type", "text/plain"), ("content-type", "application/json")], 409),
        (
            [("content-type", "text/plain"), ("producer-id", "p"), ("producer-epoch", "0"), ("producer-seq", "0"), ("producer-seq", "1")],
            400,
        ),
        ([("content-type", "text/plain"), ("stream-closed", "true"), ("stream-closed", "true")], 204),
    ],
)
async def test_a_repeated_header_is_a_list_of_its_values(fields: list[tuple[str, str]], status: int) -> None:
    app = create_app(MemoryEngine())
    await ask(app, "PUT", "/v1/stream/s", headers={"content-type": "text/plain"})
    sent: list[Message] = []
    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/stream/s",
        "raw_path": b"/v1/stream/s",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in [("content-length", "1"), *fields]],
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == status
    await app.aclose()


async def test_tags_may_stand_in_several_headers() -> None:
    app = create_app(MemoryEngine())
    await ask(app, "PUT", "/v1/stream/s", headers={"content-type": "text/plain"}, body=b"x")
    tag = (await ask(app, "GET", "/v1/stream/s", query="offset=-1")).headers["etag"]
    scope = {"headers": [(b"if-none-match", b'"other"'), (b"if-none-match", tag.encode())]}
    assert find_header(scope, b"if-none-match") == parse_headers(scope)["if-none-match"] == f'"other", {tag}'
    await app.aclose()


async def test_the_location_of_a_new_stream_is_where_clients_reach_the_server() -> None:
    for public_url, base in ((None, "http://inside"), ("https://sync.example.org/", "https://sync.example.org")):
        app = create_app(MemoryEngine(), public_url=public_url)
        answer = await ask(app, "PUT", "/v1/stream/s", headers={"host": "inside", "content-type": "text/plain"})
        assert answer.headers["location"] == f"{base}/v1/stream/s"
        await app.aclose()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ClosedError("the engine was closed"), 503, "SHUTTING_DOWN"),
        (StorageFullError("no space"), 507, "STORAGE_FULL"),
        (RateLimitedError("too many", code="TOO_MANY_SUBSCRIPTIONS"), 429, "TOO_MANY_SUBSCRIPTIONS"),
    ],
)
def test_who_may_come_again_is_told_when(error: DsSyncError, status: int, code: str) -> None:
    found, fields, body = build_refusal(error)
    assert (found, json.loads(body)["error"]["code"]) == (status, code)
    assert (b"retry-after", b"1") in fields
