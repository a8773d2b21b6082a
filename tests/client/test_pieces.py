"""A page that is larger than memory: taken as it comes, and after a cut gone on with where it broke off."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from ds_sync.client.retry import RetryPolicy
from ds_sync.client.stream import StreamClient
from ds_sync.client.transport import Response, StreamingResponse
from ds_sync.exceptions import NotFoundError, ProtocolError, TransportError
from ds_sync.testing.faults import FaultyTransport, respond, truncate

pytestmark = pytest.mark.anyio

DATA = [f"{number:04};".encode() for number in range(1000)]


class Answer:
    def __init__(self, headers: Mapping[str, str], data: list[bytes], given: list[int]) -> None:
        self.status = 200
        self.headers = headers
        self._data = data
        self._given = given

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._data:
            await asyncio.sleep(0)
            self._given.append(len(chunk))
            yield chunk


class OnePage:
    """A server that answers with all it has in one page, and grows by a chunk with each request."""

    def __init__(self, content_type: str = "text/plain", data: list[bytes] | None = None, *, grows: int = 1) -> None:
        self.content_type = content_type
        self.data = DATA if data is None else data
        self.size = len(self.data) - 20 if grows else len(self.data)
        self.grows = grows
        self.given: list[int] = []

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", timeout: float | None) -> Response:
        raise AssertionError("only read in pieces here")

    @asynccontextmanager
    async def stream(self, method: str, url: str, *, headers: Mapping[str, str], timeout: float | None) -> AsyncIterator[StreamingResponse]:
        self.size += self.grows
        head = {"content-type": self.content_type, "stream-next-offset": str(self.size), "stream-up-to-date": "true"}
        yield Answer(head, self.data[: self.size], self.given)

    async def aclose(self) -> None:
        return None


def client_of(network: FaultyTransport) -> StreamClient:
    return StreamClient("http://log/s", transport=network, retry=RetryPolicy(first_delay=0.001, max_delay=0.002))


@pytest.mark.parametrize("cuts", [[], [0], [7], [2500], [2500, 2500], [2500, 1000, 4000, 3], [4900] * 5])
async def test_each_byte_comes_once(cuts: list[int]) -> None:
    server = OnePage()
    network = FaultyTransport(server)
    for cut in cuts:
        network.inject(truncate(cut))
    follower = client_of(network).follow(live=False)
    offsets = set()
    got = b""
    async with asyncio.timeout(10):
        async for chunk in follower.chunks():
            got += chunk
            offsets.add(follower.offset)
    assert got == b"".join(DATA[: server.size])
    assert (offsets, follower.offset) == ({"-1"}, str(server.size))  # who stops within the page begins it again
    assert len(network.requests) == len(cuts) + 1


async def test_text_in_pieces() -> None:
    server = OnePage(data=[b"a\xc3", b"\xa9b", b"\xf0\x9f", b"\x98", b"\x80"], grows=0)
    network = FaultyTransport(server)
    network.inject(truncate(3))
    follower = client_of(network).follow(live=False)
    assert "".join([text async for text in follower.text()]) == "aéb😀"
    assert follower.offset == "5"


async def test_nothing_is_read_ahead_of_a_slow_reader() -> None:
    server = OnePage()
    chunks = client_of(FaultyTransport(server)).follow(live=False).chunks()
    for taken in range(1, 50):
        await anext(chunks)
        await asyncio.sleep(0.001)
        assert len(server.given) <= taken + 2
    await chunks.aclose()


async def test_a_page_of_json_comes_whole() -> None:
    network = FaultyTransport(OnePage("application/json", [b"[1", b",2", b"]"], grows=0))
    network.inject(truncate(3))
    assert [chunk async for chunk in client_of(network).follow(live=False).chunks()] == [b"[1,2]"]


async def test_a_page_that_has_shrunk_is_noticed() -> None:
    server = OnePage(grows=0)
    network = FaultyTransport(server)
    network.inject(truncate(2500))
    got, between = b"", []
    with pytest.raises(ProtocolError, match="shorter"):  # noqa: PT012
        async for chunk in client_of(network).follow(live=False).chunks(interrupted=between.append):
            got += chunk
            server.size = 100
    assert got == b"".join(DATA)[:2500]
    assert [type(one.error) for one in between] == [TransportError, ProtocolError, ProtocolError]


async def test_refusals_are_what_they_are_elsewhere() -> None:
    network = FaultyTransport(OnePage())
    network.inject(respond(503))
    network.inject(respond(404))
    with pytest.raises(NotFoundError):
        await anext(client_of(network).follow().chunks())
    assert len(network.requests) == 2
