"""`/inspect`: who may look, and what the answers allow."""

from collections.abc import AsyncIterator

import httpx
import pytest

from ds_sync.server.app import create_app
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.pages.inspector import InspectAccess, is_own_name

pytestmark = pytest.mark.anyio

TOKEN = "a token of some length"
DATA = ("documents", "streams", "records?path=log", "content?path=yjs/n/docs/a/.updates")


async def open_client(access: InspectAccess | None) -> AsyncIterator[httpx.AsyncClient]:
    engine = MemoryEngine()
    app = create_app(engine, inspect=access)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:4437") as asking:
        await asking.put("/v1/stream/log", content=b"one", headers={"content-type": "text/plain"})
        await asking.put("/v1/yjs/n/docs/a")
        yield asking
    await app.aclose()
    await engine.aclose()


@pytest.fixture
async def here(anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    async for asking in open_client(InspectAccess()):
        yield asking


@pytest.fixture
async def guarded(anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    async for asking in open_client(InspectAccess(TOKEN)):
        yield asking


async def test_it_is_off_unless_asked_for(anyio_backend: str) -> None:
    async for asking in open_client(None):
        assert (await asking.get("/inspect")).status_code == 404
        assert (await asking.get("/inspect/streams")).status_code == 404


@pytest.mark.parametrize("path", ["", "/", "/inspect.js", "/inspect.css", *(f"/{name}" for name in DATA), "/nothing"])
async def test_every_answer_is_closed_to_other_origins(here: httpx.AsyncClient, path: str) -> None:
    answer = await here.get(f"/inspect{path}")
    assert answer.status_code == (404 if path == "/nothing" else 200), answer.text
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    head = await here.head(f"/inspect{path}")
    assert (head.status_code, head.content) == (answer.status_code, b"")


async def test_the_page_has_no_script_and_no_style_of_its_own(here: httpx.AsyncClient) -> None:
    page = (await here.get("/inspect")).text
    assert page.count("<script") == page.count('<script type="module" src="/inspect/inspect.js"></script>') == 1
    assert "<style" not in page
    script = (await here.get("/inspect/inspect.js")).text
    assert [word for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(") if word in script] == []


async def test_the_data(here: httpx.AsyncClient) -> None:
    assert [row["name"] for row in (await here.get("/inspect/documents")).json()["documents"]] == ["a"]
    assert [row["path"] for row in (await here.get("/inspect/streams?find=lo")).json()["streams"]] == ["log"]
    assert [row["shown"] for row in (await here.get("/inspect/records?path=log")).json()["records"]] == ["one"]
    assert (await here.get("/inspect/content?path=yjs/n/docs/a/.updates")).json()["roots"] == []


@pytest.mark.parametrize(
    ("path", "status"),
    [("records", 400), ("records?path=none", 404), ("records?path=log&offset=x", 400), ("content?path=log", 400), ("streams?limit=x", 400)],
)
async def test_questions_that_make_no_sense(here: httpx.AsyncClient, path: str, status: int) -> None:
    assert (await here.get(f"/inspect/{path}")).status_code == status


async def test_nothing_can_be_changed(here: httpx.AsyncClient) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer = await here.request(method, "/inspect/streams")
        assert answer.status_code == 405
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["", *(f"/{name}" for name in DATA)])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": ""},
        {"host": "192.168.1.2:4437"},
        {"x-forwarded-for": "9.9.9.9"},
        {"x-forwarded-proto": "http"},
        {"via": "1.1 proxy"},
    ],
    ids=str,
)
async def test_without_a_token_strangers_are_refused(here: httpx.AsyncClient, path: str, headers: dict[str, str]) -> None:
    assert (await here.get(f"/inspect{path}", headers=headers)).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_other_pages_get_no_data(here: httpx.AsyncClient, site: str) -> None:
    assert (await here.get("/inspect/streams", headers={"sec-fetch-site": site})).status_code == 403
    assert (await here.get("/inspect/streams", headers={"sec-fetch-site": "same-origin"})).status_code == 200


@pytest.mark.parametrize("path", DATA)
@pytest.mark.parametrize("sent", [None, "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}"])
async def test_data_needs_the_token(guarded: httpx.AsyncClient, path: str, sent: str | None) -> None:
    answer = await guarded.get(f"/inspect/{path}", headers={} if sent is None else {"authorization": sent})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHORIZED")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_who_has_the_token_may_come_from_anywhere(guarded: httpx.AsyncClient) -> None:
    headers = {"authorization": f"Bearer {TOKEN}", "host": "sync.example.org", "x-forwarded-for": "9.9.9.9"}
    assert (await guarded.get("/inspect/streams", headers=headers)).status_code == 200
    assert (await guarded.get("/inspect", headers={"host": "sync.example.org"})).status_code == 200, "the page asks for it"


@pytest.mark.parametrize("token", ["", "short", "a token with a \n break", "a token with an é in it"])
def test_a_poor_token_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="16"):
        InspectAccess(token)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.2:4437", "[::1]", "[::1]:4437", "app.localhost"])
def test_names_of_this_machine(host: str) -> None:
    assert is_own_name(host)


@pytest.mark.parametrize("host", ["", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "10.0.0.1:80", "evil", "::"])
def test_other_names(host: str) -> None:
    assert not is_own_name(host)
