"""What the document says of one stream's answers, case by case."""

import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from ds_sync.environment import Environment
from ds_sync.protocol.cursor import EPOCH, INTERVAL
from ds_sync.server.app import Application, create_app
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine

pytestmark = pytest.mark.anyio

TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}
CLOSE = {"stream-closed": "true"}


class Clock:
    def __init__(self) -> None:
        self.now = EPOCH + 1000 * INTERVAL


@pytest.fixture
def clock() -> Clock:
    return Clock()


def build(engine: StorageEngine, clock: Clock) -> tuple[Application, httpx.AsyncClient]:
    environment = replace(Environment(), now=lambda: clock.now, random=random.Random(5))
    app = create_app(engine, environment=environment, page_bytes=10, long_poll_timeout=0.02, sse_seconds=0.05)
    return app, httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/v1/stream/")


@pytest.fixture(params=["memory", "sqlite"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StorageEngine]:
    engine: StorageEngine = MemoryEngine() if request.param == "memory" else SqliteEngine(tmp_path / "streams.db")
    yield engine
    await engine.aclose()


@pytest.fixture
async def http(engine: StorageEngine, clock: Clock) -> AsyncIterator[httpx.AsyncClient]:
    app, client = build(engine, clock)
    yield client
    await client.aclose()
    await app.aclose()


def code(answer: httpx.Response) -> str:
    return str(json.loads(answer.content)["error"]["code"])


async def offset_after(http: httpx.AsyncClient, path: str, body: bytes) -> str:
    return (await http.post(path, content=body, headers=TEXT)).headers["stream-next-offset"]


async def test_a_read_that_gains_little_time_is_no_commit(http: httpx.AsyncClient, engine: StorageEngine, clock: Clock) -> None:
    await http.put("s", headers={**TEXT, "stream-ttl": "100"}, content=b"abc")
    commits: list[str] = []
    engine.watch(commits.extend)
    for _ in range(50):
        clock.now += 0.09
        assert (await http.get("s")).status_code == 200
    assert commits == []
    clock.now += 1
    for _ in range(10):
        assert (await http.get("s", params={"offset": "-1", "live": "long-poll"})).status_code == 200
    assert commits == ["s"]
    clock.now += 99
    assert (await http.get("s")).status_code == 200
    assert len(commits) == 2


@pytest.mark.parametrize(
    "use",
    [
        ("GET", {}, {}, b""),
        ("GET", {"offset": "now"}, {}, b""),
        ("GET", {"offset": "-1", "live": "long-poll"}, {}, b""),
        ("GET", {"offset": "now", "live": "long-poll"}, {}, b""),
        ("GET", {"offset": "-1", "live": "sse"}, {}, b""),
        ("POST", {}, TEXT, b"more"),
        ("POST", {}, {**TEXT, "producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}, b"more"),
        ("POST", {}, CLOSE, b""),
    ],
)
async def test_every_use_renews_a_time_to_live(
    http: httpx.AsyncClient, clock: Clock, use: tuple[str, dict[str, str], dict[str, str], bytes]
) -> None:
    method, query, headers, body = use
    await http.put("s", headers={**TEXT, "stream-ttl": "10"}, content=b"abc")
    clock.now += 9
    assert (await http.request(method, "s", params=query, headers=headers, content=body)).status_code < 300
    clock.now += 9
    assert (await http.head("s")).status_code == 200
    clock.now += 1
    assert (await http.head("s")).status_code == 404


async def test_an_unchanged_page_renews_too_and_an_absolute_end_stays(http: httpx.AsyncClient, clock: Clock) -> None:
    await http.put("s", headers={**TEXT, "stream-ttl": "10"})
    tag = (await http.get("s")).headers["etag"]
    clock.now += 9
    assert (await http.get("s", headers={"if-none-match": tag})).status_code == 304
    clock.now += 9
    assert (await http.head("s")).status_code == 200
    await http.put("t", headers={**TEXT, "stream-expires-at": "2024-10-09T06:00:00Z"})
    clock.now = EPOCH + 6 * 3600 - 1
    assert (await http.post("t", content=b"x", headers=TEXT)).status_code == 204
    assert (await http.get("t")).text == "x"
    clock.now += 1
    gone = await http.get("t")
    assert (gone.status_code, code(gone)) == (404, "STREAM_EXPIRED")
    again = await http.get("t")
    assert (again.status_code, code(again)) == (404, "STREAM_EXPIRED")


async def test_what_caches_may_keep(http: httpx.AsyncClient) -> None:
    await http.put("s", headers=TEXT)
    first, second = [await offset_after(http, "s", body) for body in (b"a" * 10, b"b" * 10)]
    await http.put("t", headers={**TEXT, "stream-ttl": "40"})
    third, _ = [await offset_after(http, "t", body) for body in (b"a", b"b" * 20)]
    await offset_after(http, "t", b"c")
    start = "0000000000000000_0000000000000000"
    expected = [
        ("s", {}, "no-cache"),
        ("s", {"offset": "-1"}, "no-cache"),
        ("s", {"offset": start}, "public, max-age=60"),
        ("s", {"offset": first}, "no-cache"),
        ("s", {"offset": second}, "no-cache"),
        ("s", {"offset": "now"}, "no-store"),
        ("s", {"offset": first, "live": "long-poll"}, "public, max-age=20"),
        ("s", {"offset": second, "live": "long-poll"}, "no-store"),
        ("s", {"offset": first, "live": "sse"}, "no-cache"),
        ("s", {"offset": f"{5:016}_{5:016}"}, "no-store"),
        ("s", {"offset": "x"}, "no-store"),
        ("none", {}, "no-store"),
        ("t", {"offset": third}, "public, max-age=20"),
        ("t", {"offset": third, "live": "long-poll"}, "public, max-age=20"),
    ]
    for path, query, policy in expected:
        answer = await http.get(path, params=query)
        assert (query, answer.headers["cache-control"]) == (query, policy)
    assert (await http.head("s")).headers["cache-control"] == "no-store"


async def test_a_304_repeats_what_the_page_said_of_itself(http: httpx.AsyncClient) -> None:
    await http.put("s", headers=TEXT, content=b"abc")
    page = await http.get("s")
    for sent in (page.headers["etag"], f"W/{page.headers['etag']}", f'"other", {page.headers["etag"]}', "*"):
        same = await http.get("s", headers={"if-none-match": sent})
        assert (same.status_code, same.content) == (304, b"")
        for name in ("etag", "cache-control", "stream-next-offset", "stream-up-to-date", "access-control-allow-origin"):
            assert same.headers[name] == page.headers[name]
    await http.post("s", content=b"d", headers=TEXT)
    changed = await http.get("s", headers={"if-none-match": page.headers["etag"]})
    assert (changed.status_code, changed.text) == (200, "abcd")


async def test_cursors_never_stand_still(http: httpx.AsyncClient) -> None:
    await http.put("s", headers=TEXT, content=b"abc")
    query = {"offset": "-1", "live": "long-poll"}
    assert (await http.get("s", params=query)).headers["stream-cursor"] == "1000"
    assert (await http.get("s", params={**query, "cursor": "7"})).headers["stream-cursor"] == "1000"
    moved = {int((await http.get("s", params={**query, "cursor": "1000"})).headers["stream-cursor"]) for _ in range(20)}
    assert min(moved) > 1000
    assert max(moved) <= 1180
    assert len(moved) > 5
    events = (await http.get("s", params={"offset": "-1", "live": "sse", "cursor": "2000"})).text
    assert int(json.loads(events.split("event: control\ndata:")[1].split("\n")[0])["streamCursor"]) > 2000
    assert "stream-cursor" in (await http.get("s", params={"offset": "now", "live": "long-poll"})).headers


async def test_content_types_are_compared_loosely_and_given_back_as_they_came(http: httpx.AsyncClient) -> None:
    spelled = 'Text/Plain; Charset="utf-8"'
    assert (await http.put("s", headers={"content-type": spelled})).headers["content-type"] == spelled
    for sent in ("text/plain", "TEXT/PLAIN", "text/plain;x=y"):
        assert (await http.post("s", content=b"x", headers={"content-type": sent})).status_code == 204
        assert (await http.put("s", headers={"content-type": sent})).status_code == 200
    other = await http.post("s", content=b"x", headers={"content-type": "text/html"})
    assert (other.status_code, code(other)) == (409, "CONTENT_TYPE_MISMATCH")
    missing = await http.post("s", content=b"x", headers={"content-type": ""})
    assert (missing.status_code, code(missing)) == (400, "CONTENT_TYPE_REQUIRED")
    assert (await http.get("s")).headers["content-type"] == spelled
    assert (await http.head("s")).headers["content-type"] == spelled
    for path, malformed in (("a", ""), ("b", "nonsense"), ("c", "text/"), ("d", "a b/c")):
        made = await http.put(path, headers={"content-type": malformed})
        assert made.headers["content-type"] == "application/octet-stream"


async def test_head_says_what_get_says_and_sends_nothing(http: httpx.AsyncClient) -> None:
    await http.put("s", headers={**TEXT, "stream-ttl": "50"}, content=b"abc")
    page, head = await http.get("s"), await http.head("s")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "stream-next-offset", "stream-incarnation", "etag"):
        assert head.headers[name] == page.headers[name]
    assert head.headers["stream-ttl"] == "50"
    assert "stream-closed" not in head.headers
    await http.post("s", headers=CLOSE)
    closed = await http.head("s")
    assert closed.headers["stream-closed"] == "true"
    assert closed.headers["etag"] != head.headers["etag"]
    assert (await http.head("none")).status_code == 404


async def test_only_true_closes(http: httpx.AsyncClient) -> None:
    await http.put("s", headers=TEXT)
    for value in ("false", "1", "yes", ""):
        answer = await http.post("s", headers={"stream-closed": value})
        assert (answer.status_code, code(answer)) == (400, "EMPTY_BODY")
        assert (await http.post("s", content=b"x", headers={**TEXT, "stream-closed": value})).status_code == 204
    closing = await http.post("s", content=b"", headers={"stream-closed": "TRUE", "content-type": "image/png"})
    assert (closing.status_code, closing.headers["stream-closed"]) == (204, "true")
    assert (await http.post("s", headers=CLOSE)).status_code == 204


async def test_a_closed_stream_says_so_where_it_ends_and_nowhere_else(http: httpx.AsyncClient) -> None:
    await http.put("s", headers=TEXT, content=b"a" * 8)
    last = await http.post("s", content=b"b" * 8, headers={**TEXT, **CLOSE})
    tail = last.headers["stream-next-offset"]
    assert last.headers["stream-closed"] == "true"
    part = await http.get("s")
    assert "stream-closed" not in part.headers
    assert "stream-up-to-date" not in part.headers
    rest = await http.get("s", params={"offset": part.headers["stream-next-offset"]})
    assert (rest.text, rest.headers["stream-closed"], rest.headers["stream-up-to-date"]) == ("b" * 8, "true", "true")
    end = await http.get("s", params={"offset": tail})
    assert (end.status_code, end.content, end.headers["stream-closed"]) == (200, b"", "true")
    for offset in (tail, "now"):
        polled = await http.get("s", params={"offset": offset, "live": "long-poll"})
        assert (polled.status_code, polled.headers["stream-closed"], polled.headers["stream-next-offset"]) == (204, "true", tail)
    events = (await http.get("s", params={"offset": tail, "live": "sse"})).text
    assert json.loads(events.split("data:")[1].split("\n")[0]) == {"streamNextOffset": tail, "streamClosed": True}
    refused = await http.post("s", content=b"x", headers=TEXT)
    assert (refused.status_code, code(refused)) == (409, "STREAM_CLOSED")
    assert (refused.headers["stream-closed"], refused.headers["stream-next-offset"]) == ("true", tail)
    assert (await http.put("s", headers=TEXT)).status_code == 409
    assert (await http.put("s", headers={**TEXT, **CLOSE})).status_code == 200


async def test_a_stream_can_be_born_closed(http: httpx.AsyncClient) -> None:
    made = await http.put("s", headers={**JSON, **CLOSE}, content=b"[1,2]")
    assert (made.status_code, made.headers["stream-closed"]) == (201, "true")
    assert (await http.get("s")).text == "[1,2]"
    assert (await http.put("t", headers={**TEXT, **CLOSE})).status_code == 201
    assert (await http.get("t")).headers["stream-closed"] == "true"


async def test_a_close_outlives_the_server_and_its_repetition_is_known(tmp_path: Path, clock: Clock) -> None:
    stamp = {**TEXT, **CLOSE, "producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}
    for status in (200, 204):
        engine = SqliteEngine(tmp_path / "streams.db")
        app, http = build(engine, clock)
        await http.put("s", headers=TEXT)
        answer = await http.post("s", content=b"last", headers=stamp)
        assert (answer.status_code, answer.headers["stream-closed"]) == (status, "true")
        assert (await http.post("s", content=b"x", headers=TEXT)).status_code == 409
        assert (await http.get("s")).text == "last"
        await http.aclose()
        await app.aclose()
        await engine.aclose()


async def test_json_is_flattened_by_one_level_and_spelled_as_it_came(http: httpx.AsyncClient) -> None:
    assert (await http.put("j", headers=JSON, content=b"[]")).status_code == 201
    huge = "9" * 5000
    for body in (b"[[1,[2]],[]]", f"[{huge}.10, -0]".encode(), b'"\\u00e9"', b"\n{ }\n"):
        assert (await http.post("j", content=body, headers=JSON)).status_code == 204
    page, offset = "", "-1"
    while True:
        answer = await http.get("j", params={"offset": offset})
        assert answer.text.startswith("[")
        page, offset = page + answer.text[1:-1] + ",", answer.headers["stream-next-offset"]
        if "stream-up-to-date" in answer.headers:
            break
    assert page == f'[1,[2]],[],{huge}.10, -0,"\\u00e9",{{ }},'
    for body, expected in ((b"[]", "EMPTY_ARRAY"), (b"[1,]", "INVALID_JSON"), (b"1 2", "INVALID_JSON"), (b"NaN", "INVALID_JSON")):
        refused = await http.post("j", content=body, headers=JSON)
        assert (refused.status_code, code(refused)) == (400, expected)
    assert (await http.get("j", params={"offset": "now"})).text == "[]"


async def test_every_kind_of_answer_may_be_read_by_any_page_and_by_its_type_only(http: httpx.AsyncClient) -> None:
    made = await http.put("s", headers=TEXT, content=b"abc")
    answers = [
        made,
        await http.put("s", headers=TEXT),
        await http.put("s", headers=JSON),
        await http.post("s", content=b"x", headers=TEXT),
        await http.post("s", headers=TEXT),
        await http.get("s"),
        await http.get("s", headers={"if-none-match": "*"}),
        await http.get("s", params={"offset": "now", "live": "long-poll"}),
        await http.get("s", params={"offset": "-1", "live": "sse"}),
        await http.get("s", params={"offset": f"{5:016}_{5:016}"}),
        await http.head("s"),
        *[
            await http.post("s", content=b"x", headers=TEXT | {"producer-id": "p", "producer-epoch": epoch, "producer-seq": seq})
            for epoch, seq in (("1", "0"), ("1", "7"), ("0", "0"))
        ],
        await http.delete("s"),
        await http.get("s"),
        await http.options("s"),
    ]
    assert sorted({answer.status_code for answer in answers}) == [200, 201, 204, 304, 400, 403, 404, 409, 410]
    told = {name for answer in answers for name in answer.headers}
    assert {"producer-epoch", "producer-seq", "producer-expected-seq", "producer-received-seq"} <= told
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert {name for name in answer.headers if name.startswith(("stream-", "producer-"))} <= set(exposed)
        assert {"etag", "location", "retry-after"} <= set(exposed)
    allowed = answers[-1].headers["access-control-allow-headers"].lower().split(", ")
    for name in ("stream-forked-from", "stream-fork-offset", "stream-fork-sub-offset", "stream-seq", "stream-ttl", "if-none-match"):
        assert name in allowed
