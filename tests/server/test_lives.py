"""Forks and the ends of streams over HTTP, on both engines: what the document says and the official suite does not ask."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ds_sync.environment import Environment
from ds_sync.protocol.framing import build_frames
from ds_sync.server.app import create_app
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine

pytestmark = pytest.mark.anyio

TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}
START = "0000000000000000_0000000000000000"


class Server:
    """An application, a clock that stands still, and a client."""

    def __init__(self, engine: StorageEngine) -> None:
        self.engine = engine
        self.now = 1_000_000.0
        environment = replace(Environment(), now=lambda: self.now)
        app = create_app(engine, environment=environment, page_bytes=10, long_poll_timeout=0.02)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/v1/stream/")

    async def put(self, path: str, body: bytes = b"", **headers: str) -> httpx.Response:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.put(path, content=body, headers=fields)

    async def make(self, path: str, *bodies: bytes, **headers: str) -> list[str]:
        """Make a stream; return its offsets from the start to the tail."""
        offsets = [(await self.put(path, **{"content_type": "text/plain", **headers})).headers["stream-next-offset"]]
        offsets += [await self.append(path, body, headers.get("content_type", "text/plain")) for body in bodies]
        return offsets

    async def append(self, path: str, body: bytes, content_type: str = "text/plain") -> str:
        answer = await self.http.post(path, content=body, headers={"content-type": content_type})
        assert answer.status_code == 204, answer.text
        return answer.headers["stream-next-offset"]

    async def fork(self, path: str, source: str, body: bytes = b"", **headers: str) -> httpx.Response:
        return await self.put(path, body, stream_forked_from=f"/v1/stream/{source}", **headers)

    async def text(self, path: str, offset: str = "-1") -> str:
        """Read page by page to the tail."""
        found = ""
        while True:
            page = await self.http.get(path, params={"offset": offset})
            assert page.status_code == 200, page.text
            found, offset = found + page.text, page.headers["stream-next-offset"]
            if "stream-up-to-date" in page.headers:
                return found

    async def outcome(self, method: str, path: str) -> tuple[int, str]:
        answer = await self.http.request(method, path, content=b"x" if method == "POST" else b"", headers=TEXT)
        return answer.status_code, code(answer) if answer.status_code >= 400 and method != "HEAD" else ""


def code(answer: httpx.Response) -> str:
    return str(json.loads(answer.content)["error"]["code"])


@pytest.fixture(params=["memory", "sqlite"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    engine: StorageEngine = MemoryEngine() if request.param == "memory" else SqliteEngine(tmp_path / "streams.db", settle_rows=3)
    server = Server(engine)
    yield server
    await server.http.aclose()
    await engine.aclose()


async def test_every_shared_offset_can_be_forked_at_and_read_from(server: Server) -> None:
    bodies = [b"one", b"two", b"three", b"four"]
    offsets = await server.make("s", *bodies)
    for number, offset in enumerate(offsets):
        made = await server.fork(f"f{number}", "s", stream_fork_offset=offset)
        assert (made.status_code, made.headers["stream-next-offset"]) == (201, offset)
        assert made.headers["location"] == f"http://test/v1/stream/f{number}"
        await server.append(f"f{number}", b"mine, longer than a page")
        for earlier in range(number + 1):
            expected = b"".join(bodies[earlier:number]).decode() + "mine, longer than a page"
            assert await server.text(f"f{number}", offsets[earlier]) == expected
        for later in offsets[number + 1 :]:
            answer = await server.http.get(f"f{number}", params={"offset": later})
            assert (answer.status_code, code(answer)) == (410, "HISTORY_DIVERGED")
    assert await server.text("s") == "onetwothreefour"


async def test_a_place_that_is_none_is_400_and_check_plus_one_is_the_place(server: Server) -> None:
    offsets = await server.make("s", b"one", b"two")
    position, check = offsets[1].split("_")
    for offset in (f"{position}_{int(check) - 1:016}", f"{position}_{int(check) + 2:016}", f"{1:016}_{check}", f"{99:016}_{check}"):
        answer = await server.fork("f", "s", stream_fork_offset=offset)
        assert (answer.status_code, code(answer)) == (400, "INVALID_FORK_OFFSET")
    for offset in ("-1", "now", "5", ""):
        answer = await server.fork("f", "s", stream_fork_offset=offset)
        assert (answer.status_code, code(answer)) == (400, "INVALID_OFFSET")
    made = await server.fork("f", "s", stream_fork_offset=f"{position}_{int(check) + 1:016}")
    assert (made.status_code, made.headers["stream-next-offset"]) == (201, offsets[1])
    await server.append("f", b"mine")
    assert await server.text("f", offsets[1]) == "mine"


@pytest.mark.parametrize(
    ("source", "status", "expected"),
    [
        ("/v1/stream/none", 404, "STREAM_NOT_FOUND"),
        ("s", 404, "STREAM_NOT_FOUND"),
        ("http://test/v1/stream/s", 404, "STREAM_NOT_FOUND"),
        ("/v1/stream/__ds/x", 404, "STREAM_NOT_FOUND"),
        ("/v1/stream/%5F%5Fds/x", 404, "STREAM_NOT_FOUND"),
        ("/v1/stream/", 400, "INVALID_PATH"),
        ("/v1/stream/a/../s", 400, "INVALID_PATH"),
        ("/v1/stream/%ff", 400, "INVALID_PATH"),
    ],
)
async def test_a_source_that_is_none(server: Server, source: str, status: int, expected: str) -> None:
    await server.make("s")
    answer = await server.put("f", stream_forked_from=source)
    assert (answer.status_code, code(answer)) == (status, expected)
    assert (await server.outcome("GET", "f"))[0] == 404


async def test_a_source_is_named_as_its_url_is(server: Server) -> None:
    await server.make("a%20b/%C3%A9", b"text")
    assert (await server.fork("f", "a%20b/%c3%a9")).status_code == 201
    assert await server.text("f") == "text"


@pytest.mark.parametrize("name", ["stream_fork_offset", "stream_fork_sub_offset"])
async def test_fork_headers_without_a_source_are_refused(server: Server, name: str) -> None:
    answer = await server.put("f", **{name: START if name.endswith("fork_offset") else "0"})
    assert (answer.status_code, code(answer)) == (400, "INVALID_REQUEST")
    assert (await server.outcome("GET", "f")) == (404, "STREAM_NOT_FOUND")


async def test_a_sub_offset_takes_bytes_and_the_body_follows(server: Server) -> None:
    offsets = await server.make("s", b"one", b"\xc3\xa9t\xc3\xa9")
    made = await server.fork("f", "s", b" and more", stream_fork_offset=offsets[1], stream_fork_sub_offset="1")
    assert made.status_code == 201
    page = await server.http.get("f", params={"offset": offsets[1]})
    assert page.content == b"\xc3 and more"
    for sub_offset in ("6", "9007199254740991"):
        answer = await server.fork("g", "s", stream_fork_offset=offsets[1], stream_fork_sub_offset=sub_offset)
        assert (answer.status_code, code(answer)) == (400, "INVALID_SUB_OFFSET")
    answer = await server.fork("g", "s", stream_fork_offset=offsets[2], stream_fork_sub_offset="1")
    assert (answer.status_code, code(answer)) == (400, "INVALID_SUB_OFFSET")


async def test_a_sub_offset_of_json_counts_messages_and_keeps_their_spelling(server: Server) -> None:
    offsets = await server.make("s", b"[0]", b'[1.50 , {"a" : "],["},\n[2], 1e999]', content_type="application/json")
    taken = {"1": "[0,1.50]", "2": '[0,1.50 , {"a" : "],["}]', "4": '[0,1.50 , {"a" : "],["},\n[2], 1e999]'}
    for sub_offset, expected in taken.items():
        path = f"f{sub_offset}"
        assert (await server.fork(path, "s", stream_fork_offset=offsets[1], stream_fork_sub_offset=sub_offset)).status_code == 201
        pages = [await server.http.get(path, params={"offset": offset}) for offset in ("-1", offsets[1])]
        assert json.loads(pages[0].text)[:1] == [0]
        assert f"[0,{pages[1].text[1:]}" == expected
    answer = await server.fork("g", "s", stream_fork_offset=offsets[1], stream_fork_sub_offset="5")
    assert (answer.status_code, code(answer)) == (400, "INVALID_SUB_OFFSET")
    made = await server.fork("b", "s", b'[{"mine":1},2]', stream_fork_offset=offsets[1], stream_fork_sub_offset="1")
    assert made.status_code == 201
    assert (await server.http.get("b", params={"offset": offsets[1]})).text == '[1.50,{"mine":1},2]'
    assert (await server.fork("e", "s", b"[]", stream_fork_offset=offsets[1])).headers["stream-next-offset"] == offsets[1]


async def test_a_repeated_request_finds_its_fork_even_without_the_source(server: Server) -> None:
    offsets = await server.make("s", b"one", b"two", stream_ttl="60")
    asked = {"stream_fork_offset": offsets[1], "stream_fork_sub_offset": "2"}
    made = await server.fork("f", "s", b"body", **asked)
    await server.append("s", b"later")
    await server.http.delete("s")
    again = await server.fork("f", "s", b"body", **asked)
    assert (again.status_code, again.headers["stream-incarnation"]) == (200, made.headers["stream-incarnation"])
    assert (await server.fork("f", "s", stream_fork_sub_offset="2", stream_ttl="60")).status_code == 200
    others: list[dict[str, str]] = [
        {},
        {**asked, "stream_fork_offset": offsets[2]},
        {**asked, "stream_fork_sub_offset": "1"},
        {**asked, "stream_ttl": "61"},
        {**asked, "content_type": "text/html"},
        {**asked, "stream_closed": "true"},
    ]
    for other in others:
        answer = await server.fork("f", "s", **other)
        assert (answer.status_code, code(answer)) == (409, "CONFIGURATION_MISMATCH")
    await server.make("t", b"one", b"two")
    assert (await server.fork("f", "t", **asked)).status_code == 409
    assert (await server.put("f", content_type="text/plain", stream_ttl="60")).status_code == 409


async def test_refused_forks_do_not_keep_the_source(server: Server) -> None:
    offsets = await server.make("s", b"one")
    await server.make("taken")
    refused = [
        ("f", {"content_type": "application/json"}, 409),
        ("f", {"stream_fork_offset": offsets[1], "stream_fork_sub_offset": "1"}, 400),
        ("f", {"stream_fork_offset": f"{9:016}_{9:016}"}, 400),
        ("f", {"stream_fork_sub_offset": "01"}, 400),
        ("f", {"stream_ttl": "1.5"}, 400),
        ("f/.updates", {}, 400),
        ("taken", {}, 409),
    ]
    for path, headers, status in refused:
        assert (await server.fork(path, "s", **headers)).status_code == status
    assert (await server.http.delete("s")).status_code == 204
    assert await server.outcome("GET", "s") == (404, "STREAM_DELETED")


async def test_a_source_with_forks_answers_410_and_its_path_is_free_after_the_last(server: Server) -> None:
    await server.make("s", b"shared")
    life = (await server.http.head("s")).headers["stream-incarnation"]
    await server.fork("f", "s")
    await server.fork("g", "s")
    deleted = await server.http.delete("s")
    assert (deleted.status_code, deleted.headers["stream-incarnation"]) == (204, life)
    for method in ("GET", "POST", "DELETE", "HEAD"):
        answer = await server.http.request(method, "s", content=b"x" if method == "POST" else b"", headers=TEXT)
        assert (answer.status_code, answer.headers["stream-incarnation"], answer.headers["cache-control"]) == (410, life, "no-store")
        assert method == "HEAD" or code(answer) == "STREAM_DELETED"
    for live in ("long-poll", "sse"):
        assert (await server.http.get("s", params={"offset": "-1", "live": live})).status_code == 410
    again = await server.put("s", **TEXT)
    assert (again.status_code, code(again)) == (409, "KEPT_FOR_FORKS")
    third = await server.fork("h", "s")
    assert (third.status_code, code(third)) == (409, "SOURCE_GONE")
    assert (await server.http.delete("f")).status_code == 204
    assert (await server.outcome("GET", "s"))[0] == 410
    assert await server.text("g") == "shared"
    assert (await server.http.delete("g")).status_code == 204
    assert await server.outcome("GET", "s") == (404, "STREAM_DELETED")
    remade = await server.put("s", **TEXT)
    assert remade.status_code == 201
    assert remade.headers["stream-incarnation"] != life


async def test_ends_go_up_a_chain_as_far_as_nobody_needs_it(server: Server) -> None:
    await server.make("a", b"A")
    for path, source in (("b", "a"), ("c", "b"), ("d", "c"), ("other", "b")):
        assert (await server.fork(path, source, path.encode())).status_code == 201
    for path in ("b", "c"):
        await server.http.delete(path)
    await server.http.delete("d")
    assert [(await server.outcome("GET", path))[0] for path in ("a", "b", "c", "d")] == [200, 410, 404, 404]
    assert await server.text("other") == "Abother"
    await server.http.delete("other")
    assert [(await server.outcome("GET", path))[0] for path in ("a", "b", "c", "d")] == [200, 404, 404, 404]
    assert await server.outcome("DELETE", "a") == (204, "")
    assert (await server.outcome("GET", "a"))[0] == 404


async def test_a_long_chain_of_forks_is_read_and_ended_without_going_through_it_again_and_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    length, looked, asked = 60, [], []
    transact = server.engine.transact

    async def counting(paths: Sequence[str], *rest: Any, **options: Any) -> Any:
        asked.append(len(paths))
        return await transact(paths, *rest, **options)

    def noting(path: str) -> Any:
        looked.append(path)
        return require_state(path)

    require_state = server.engine._require_state  # type: ignore[attr-defined]
    await server.make("f0", b"0")
    for number in range(1, length):
        await server.fork(f"f{number}", f"f{number - 1}")
        await server.append(f"f{number}", b"+")
    monkeypatch.setattr(server.engine, "_require_state", noting)
    last = await server.http.get(f"f{length - 1}", params={"offset": "-1"})
    assert (last.text, len(looked)) == ("0" + "+" * 9, length - 1), "the first page; once up the chain"
    assert await server.text(f"f{length - 1}") == "0" + "+" * (length - 1)
    for number in range(length - 1):
        await server.http.delete(f"f{number}")
    monkeypatch.setattr(server.engine, "transact", counting)
    await server.http.delete(f"f{length - 1}")
    assert sum(asked) <= 2 * length
    for number in range(length):
        assert (await server.put(f"f{number}", content_type="text/plain")).status_code == 201, "every path is free again"


async def test_a_fork_inherits_the_expiry_or_has_its_own(server: Server) -> None:
    await server.make("ttl", stream_ttl="60")
    await server.make("at", stream_expires_at="2030-01-01T00:00:00Z")
    await server.make("never")
    own = [{}, {"stream_ttl": "5"}, {"stream_expires_at": "2040-01-01T00:00:00Z"}]
    expected = {
        "ttl": [("60", None), ("5", None), (None, "2040-01-01T00:00:00Z")],
        "at": [(None, "2030-01-01T00:00:00Z"), ("5", None), (None, "2040-01-01T00:00:00Z")],
        "never": [(None, None), ("5", None), (None, "2040-01-01T00:00:00Z")],
    }
    for source, ends in expected.items():
        for number, end in enumerate(ends):
            await server.fork(f"{source}{number}", source, **own[number])
            answer = await server.http.head(f"{source}{number}")
            assert (answer.headers.get("stream-ttl"), answer.headers.get("stream-expires-at")) == end


async def test_the_time_of_source_and_fork_runs_apart(server: Server) -> None:
    await server.make("s", b"shared", stream_ttl="60")
    server.now += 50
    await server.fork("f", "s")
    server.now += 20
    assert await server.text("f") == "shared"
    assert await server.outcome("GET", "s") == (410, "STREAM_EXPIRED")
    assert await server.outcome("PUT", "s") == (409, "KEPT_FOR_FORKS")
    server.now += 59
    assert await server.text("f") == "shared"
    server.now += 60
    assert await server.outcome("GET", "f") == (404, "STREAM_EXPIRED")
    assert await server.outcome("GET", "f") == (404, "STREAM_EXPIRED")
    assert await server.outcome("GET", "s") == (404, "STREAM_EXPIRED")
    assert (await server.put("s", **TEXT)).status_code == 201


async def test_over_an_expired_fork_anything_can_be_made(server: Server) -> None:
    await server.make("s", b"shared")
    await server.fork("f", "s", stream_ttl="1")
    await server.fork("g", "s", stream_ttl="1")
    server.now += 1
    assert (await server.fork("f", "s", b"anew")).status_code == 201
    assert (await server.put("g", **TEXT)).status_code == 201
    assert (await server.text("f"), await server.text("g")) == ("sharedanew", "")
    await server.http.delete("f")
    await server.http.delete("s")
    assert await server.outcome("GET", "s") == (404, "STREAM_DELETED")


async def test_an_expired_source_nobody_looked_at_is_kept_when_it_is_asked_for(server: Server) -> None:
    await server.make("s", b"shared", stream_ttl="1")
    await server.fork("f", "s", stream_ttl="100")
    server.now += 1
    assert await server.outcome("PUT", "s") == (409, "KEPT_FOR_FORKS")
    assert (await server.fork("g", "s")).status_code == 409
    assert await server.text("f") == "shared"
    await server.http.delete("f")
    assert await server.outcome("GET", "s") == (404, "STREAM_EXPIRED")


async def test_a_fork_of_a_closed_stream_is_open_unless_it_is_made_closed(server: Server) -> None:
    await server.make("s", b"shared")
    await server.http.post("s", headers={"stream-closed": "true"})
    assert "stream-closed" not in (await server.fork("f", "s")).headers
    await server.append("f", b" and on")
    assert await server.text("f") == "shared and on"
    closed = await server.fork("g", "s", b" and end", stream_closed="true")
    assert (closed.status_code, closed.headers["stream-closed"]) == (201, "true")
    assert await server.text("g") == "shared and end"
    assert (await server.outcome("POST", "g")) == (409, "STREAM_CLOSED")


async def test_neither_producers_nor_stream_seq_are_inherited(server: Server) -> None:
    await server.make("s")
    stamp = {**TEXT, "producer-id": "p", "producer-epoch": "4", "producer-seq": "0", "stream-seq": "9"}
    assert (await server.http.post("s", content=b"one", headers=stamp)).status_code == 200
    await server.fork("f", "s")
    assert (await server.http.post("f", content=b"two", headers={**stamp, "producer-epoch": "0", "stream-seq": "1"})).status_code == 200
    assert (await server.http.post("s", content=b"one", headers=stamp)).status_code == 204


async def test_streams_of_updates_stay_whole(server: Server) -> None:
    whole = build_frames([b"one", b"two"])
    source = "yjs/default/docs/a/.updates"
    await server.make(source, content_type="application/octet-stream")
    await server.append(source, whole, "application/octet-stream")
    target = "yjs/default/docs/b/.updates"
    cut = await server.fork(target, source, stream_fork_offset=START, stream_fork_sub_offset="4")
    assert (cut.status_code, code(cut)) == (400, "SUB_OFFSET_REFUSED")
    closed = await server.fork(target, source, stream_closed="true")
    assert (closed.status_code, code(closed)) == (400, "CLOSE_REFUSED")
    broken = await server.fork(target, source, b"\x05a")
    assert (broken.status_code, code(broken)) == (400, "INVALID_FRAMES")
    assert (await server.fork(target, source, whole)).status_code == 201
    assert (await server.text(target)).encode() == whole + whole
    await server.make("plain", b"no frames")
    answer = await server.fork("yjs/default/docs/c/.updates", "plain")
    assert (answer.status_code, code(answer)) == (400, "INVALID_FRAMES")
    assert (await server.fork("copy", source)).status_code == 201


async def test_a_stream_is_not_forked_from_itself(server: Server) -> None:
    assert (await server.fork("s", "s")).status_code == 404
    await server.make("s")
    assert (await server.fork("s", "s")).status_code == 409
    await server.http.delete("s")
    assert await server.outcome("GET", "s") == (404, "STREAM_DELETED")
