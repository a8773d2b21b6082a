import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from ds_sync.client.credentials import Credentials, Extras
from ds_sync.client.exchange import Exchange, build_url
from ds_sync.client.transport import Response, StreamingResponse
from ds_sync.exceptions import ProtocolError, TransportError

pytestmark = pytest.mark.anyio


class Scripted:
    """Answers from a list; remembers what it was asked."""

    def __init__(self, *answers: Response) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str | None]] = []

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", timeout: float | None) -> Response:
        self.asked.append((url, headers.get("authorization")))
        await asyncio.sleep(0)
        return self.answers.pop(0)

    def stream(
        self, method: str, url: str, *, headers: Mapping[str, str], timeout: float | None
    ) -> AbstractAsyncContextManager[StreamingResponse]:
        @asynccontextmanager
        async def nothing() -> AsyncIterator[StreamingResponse]:
            raise TransportError("not in this test")
            yield

        return nothing()

    async def aclose(self) -> None:
        return None


def tokens() -> tuple[Credentials, list[int]]:
    calls: list[int] = []

    async def token() -> str:
        calls.append(1)
        number = len(calls)
        await asyncio.sleep(0.01)
        return f"t{number}"

    return Credentials(token=token), calls


async def test_new_credentials_are_asked_for_once() -> None:
    credentials, _ = tokens()
    transport = Scripted(Response(401, {}), Response(200, {}), Response(401, {}), Response(401, {}))
    exchange = Exchange("http://a/s", transport, credentials)
    assert (await exchange.request("GET", timeout=1)).status == 200
    assert (await exchange.request("GET", timeout=1)).status == 401
    assert [token for _, token in transport.asked] == ["Bearer t1", "Bearer t2", "Bearer t2", "Bearer t3"]


async def test_at_most_one_refresh_at_a_time() -> None:
    credentials, calls = tokens()
    known = await credentials.get()
    assert await asyncio.gather(*[credentials.refresh(known) for _ in range(5)]) == [{"authorization": "Bearer t2"}] * 5
    assert len(calls) == 2


async def test_fixed_credentials_are_not_sent_again() -> None:
    transport = Scripted(Response(401, {}))
    assert (await Exchange("http://a/s", transport, Credentials(token="x")).request("GET", timeout=1)).status == 401


async def test_credentials_that_cannot_be_fetched_are_a_transport_error() -> None:
    async def broken() -> str:
        raise OSError("secret")

    with pytest.raises(TransportError, match="OSError"):
        await Credentials(headers={"X": broken}).get()


async def test_redirects_stay_within_the_origin() -> None:
    transport = Scripted(
        Response(307, {"location": "/t?offset=1"}), Response(200, {}), Response(302, {"location": "http://b/login?back=SECRET"})
    )
    exchange = Exchange("http://a/s", transport, Credentials(token="x"))
    assert (await exchange.request("POST", timeout=1)).status == 200
    assert transport.asked[1] == ("http://a/t?offset=1", "Bearer x")
    with pytest.raises(ProtocolError, match=r"another origin.*http://b/login\?back=\*\*\*'$"):
        await exchange.request("GET", timeout=1)
    assert len(transport.asked) == 3


def test_queries_are_sorted_and_quoted() -> None:
    assert build_url("http://a/s?z=1&offset=0#x", {"offset": "a+b", "live": "sse"}) == "http://a/s?live=sse&offset=a%2Bb&z=1"


async def test_extras_are_asked_for_every_request() -> None:
    calls: list[int] = []

    def count() -> str:
        calls.append(1)
        return str(len(calls))

    async def later() -> str:
        await asyncio.sleep(0)
        return "é&"

    extras = Extras(headers={"Authorization": "mine", "X-Count": count}, params={"n": count, "who": later})
    transport = Scripted(Response(200, {}), Response(200, {}))
    exchange = Exchange("http://a/s", transport, Credentials(), extras)
    for _ in range(2):
        await exchange.request("GET", query={"offset": "1"}, timeout=1)
    assert transport.asked == [
        ("http://a/s?n=1&offset=1&who=%C3%A9%26", "mine"),
        ("http://a/s?n=3&offset=1&who=%C3%A9%26", "mine"),
    ]


async def test_credentials_and_the_protocol_win_over_extras() -> None:
    transport = Scripted(Response(200, {}))
    extras = Extras(headers={"Authorization": "mine"}, params={"offset": "7"})
    await Exchange("http://a/s", transport, Credentials(token="t"), extras).request("GET", query={"offset": "1"}, timeout=1)
    assert transport.asked == [("http://a/s?offset=1", "Bearer t")]


async def test_an_extra_that_cannot_be_found_is_a_transport_error() -> None:
    def broken() -> str:
        raise OSError("secret")

    exchange = Exchange("http://a/s", Scripted(), Credentials(), Extras(params={"n": broken}))
    with pytest.raises(TransportError, match="OSError"):
        await exchange.request("GET", timeout=1)
