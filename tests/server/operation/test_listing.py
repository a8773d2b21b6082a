"""`GET /v1/stream/__ds/streams`: which streams there are."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from ds_sync.client.stream import StreamClient
from ds_sync.client.transport import Response
from ds_sync.exceptions import ProtocolError
from ds_sync.server.app import create_app
from ds_sync.server.engines.memory import MemoryEngine

pytestmark = pytest.mark.anyio

LIST = "/v1/stream/__ds/streams"


@pytest.fixture
async def client(anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(MemoryEngine())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as asking:
        for path in ("b", "a/2", "a/1", "gone"):
            await asking.put(f"/v1/stream/{path}")
        await asking.delete("/v1/stream/gone")
        yield asking
    await app.aclose()


async def test_living_streams_are_listed_in_order_a_page_at_a_time(client: httpx.AsyncClient) -> None:
    whole = await client.get(LIST)
    assert whole.json() == {"streams": ["a/1", "a/2", "b"], "next": None}
    assert whole.headers["cache-control"] == "no-store"
    first = await client.get(LIST, params={"limit": 2})
    assert first.json() == {"streams": ["a/1", "a/2"], "next": "a/2"}
    assert (await client.get(LIST, params={"limit": 2, "after": "a/2"})).json() == {"streams": ["b"], "next": None}
    assert (await client.get(LIST, params={"pattern": "a/*", "after": "a/1"})).json() == {"streams": ["a/2"], "next": None}
    assert (await client.head(LIST)).content == b""


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=x", "pattern=", "pattern=%1f**", "pattern=a&pattern=b"])
async def test_a_query_that_makes_no_sense_is_refused(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"{LIST}?{query}")).status_code == 400


async def test_nothing_is_changed_there(client: httpx.AsyncClient) -> None:
    for method in ("PUT", "POST", "DELETE"):
        answer = await client.request(method, LIST)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


class Pages:
    """A transport that gives out answers, and keeps what was asked."""

    def __init__(self, *bodies: str) -> None:
        self.bodies = [*bodies]
        self.asked: list[str] = []

    async def request(self, method: str, url: str, **_: object) -> Response:
        self.asked.append(url)
        return Response(200, {}, self.bodies.pop(0).encode())


async def test_the_client_asks_for_page_after_page() -> None:
    pages = Pages(*(json.dumps(page) for page in ({"streams": ["a", "b"], "next": "b"}, {"streams": ["c"], "next": None})))
    client = StreamClient("http://x/list", transport=pages)  # type: ignore[arg-type]
    assert [path async for path in client.list_paths("*")] == ["a", "b", "c"]
    assert pages.asked == ["http://x/list?pattern=%2A", "http://x/list?after=b&pattern=%2A"]


@pytest.mark.parametrize(
    "body",
    ["", "[]", "{}", '{"streams": [1], "next": null}', '{"streams": [], "next": "a"}', '{"streams": ["b"], "next": "a"}', "[" * 100_000],
)
async def test_an_answer_that_is_no_list_is_a_broken_protocol(body: str) -> None:
    client = StreamClient("http://x/list", transport=Pages(body))  # type: ignore[arg-type]
    with pytest.raises(ProtocolError):
        _ = [path async for path in client.list_paths()]
