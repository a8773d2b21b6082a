"""How long the client waits, and how often it asks: silent servers, hasty ones, proxies that hold back, and what is over."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from ds_sync.client.credentials import Credentials
from ds_sync.client.follower import Follower, Interruption
from ds_sync.client.retry import RetryPolicy
from ds_sync.client.stream import StreamClient
from ds_sync.client.timeouts import Timeouts
from ds_sync.client.transport import HttpTransport, Response
from ds_sync.environment import Environment
from ds_sync.exceptions import (
    ClosedError,
    DsSyncError,
    InvalidRequestError,
    ProtocolError,
    RateLimitedError,
    TransportError,
    TransportTimeoutError,
    UnauthorizedError,
)
from ds_sync.protocol.messages import Page
from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.anyio

FACTOR = 0.02
RETRY = RetryPolicy(max_attempts=3, first_delay=0.5 * FACTOR, max_delay=30 * FACTOR)
PAGE = Response(200, {"stream-next-offset": "1", "stream-up-to-date": "true", "content-type": "application/octet-stream"})
SSE = {"content-type": "text/event-stream"}
CONTROL = b'event: control\ndata:{"streamNextOffset":"1","upToDate":true}\n\n'

Chunks = Callable[[], AsyncIterator[bytes]]


class Scripted:
    """A transport: catch-up is always up to date; long-polls and SSE are answered by script."""

    def __init__(self, *, sse: Chunks | None = None, poll: Callable[[], Awaitable[Response]] | None = None) -> None:
        self.asked: list[str] = []
        self._sse = sse
        self._poll = poll

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", timeout: float | None) -> Response:
        if "live=long-poll" not in url:
            self.asked.append("page")
            return PAGE
        self.asked.append("long-poll")
        assert self._poll is not None
        try:
            async with asyncio.timeout(timeout):
                return await self._poll()
        except TimeoutError:
            raise TransportTimeoutError("no answer in time") from None

    @asynccontextmanager
    async def stream(self, method: str, url: str, *, headers: Mapping[str, str], timeout: float | None) -> AsyncIterator["Streamed"]:
        self.asked.append("sse")
        assert self._sse is not None
        yield Streamed(self._sse(), timeout)

    async def aclose(self) -> None:
        return


class Streamed:
    status = 200
    headers: Mapping[str, str] = SSE

    def __init__(self, chunks: AsyncIterator[bytes], timeout: float | None) -> None:
        self._chunks = chunks
        self._timeout = timeout

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    chunk = await anext(self._chunks, None)
            except TimeoutError:
                raise TransportTimeoutError("no answer in time") from None
            if chunk is None:
                return
            yield chunk


async def quiet_poll() -> Response:
    await asyncio.sleep(30 * FACTOR)
    return Response(204, {"stream-next-offset": "1", "stream-up-to-date": "true", "stream-cursor": "7"})


def client(transport: Scripted) -> StreamClient:
    return StreamClient("http://s/x", transport=transport, retry=RETRY, timeouts=Timeouts().scaled(FACTOR))


async def watch(follower: Follower, seconds: float) -> list[Page | Interruption]:
    """Follow for `seconds` of the scaled clock; return what came."""
    found: list[Page | Interruption] = []

    async def collect() -> None:
        async for event in follower:
            found.append(event)
            await asyncio.sleep(0)

    async with follower:
        task = asyncio.ensure_future(collect())
        await asyncio.sleep(seconds * FACTOR)
        task.cancel()
        await asyncio.wait((task,))
    return found


def interruptions(found: list[Page | Interruption]) -> list[DsSyncError]:
    return [event.error for event in found if isinstance(event, Interruption)]


async def test_sse_that_falls_silent_is_given_up_and_read_again() -> None:
    async def sse() -> AsyncIterator[bytes]:
        yield CONTROL
        await asyncio.sleep(1000)

    transport = Scripted(sse=sse)
    found = await watch(client(transport).follow(live="sse"), 110)
    assert [type(error) for error in interruptions(found)] == [TransportTimeoutError]
    assert transport.asked[:4] == ["page", "sse", "page", "sse"]


async def test_a_long_poll_that_never_ends_is_given_up_and_asked_again() -> None:
    async def poll() -> Response:
        await asyncio.sleep(1000)
        raise AssertionError("never")

    transport = Scripted(poll=poll)
    found = await watch(client(transport).follow(live="long-poll"), 95)
    assert [type(error) for error in interruptions(found)] == [TransportTimeoutError]
    assert transport.asked[:4] == ["page", "long-poll", "page", "long-poll"]


async def test_sse_that_comes_whole_at_its_end_was_held_back_and_long_poll_is_used() -> None:
    async def sse() -> AsyncIterator[bytes]:
        await asyncio.sleep(5 * FACTOR)
        yield CONTROL + CONTROL

    transport = Scripted(sse=sse, poll=quiet_poll)
    await watch(client(transport).follow(), 40)
    assert transport.asked[:3] == ["page", "sse", "long-poll"]
    assert transport.asked.count("sse") == 1


@pytest.mark.parametrize("lasts", [0.0, 1.5])
async def test_sse_that_keeps_ending_early_with_nothing_gives_way_to_long_poll(lasts: float) -> None:
    async def sse() -> AsyncIterator[bytes]:
        yield CONTROL
        await asyncio.sleep(lasts * FACTOR)

    transport = Scripted(sse=sse, poll=quiet_poll)
    await watch(client(transport).follow(), 60)
    assert transport.asked.count("sse") == 3
    assert 1 <= transport.asked.count("long-poll") <= 6


async def test_sse_asked_for_by_name_that_keeps_ending_early_rests_ever_longer() -> None:
    async def sse() -> AsyncIterator[bytes]:
        yield CONTROL
        await asyncio.sleep(1.2 * FACTOR)

    transport = Scripted(sse=sse)
    await watch(client(transport).follow(live="sse"), 60)
    assert 3 <= transport.asked.count("sse") <= 30, "about once in a few seconds, after the first ones"


async def test_sse_that_ends_early_but_brought_something_is_asked_for_at_once() -> None:
    offset = 1

    async def sse() -> AsyncIterator[bytes]:
        nonlocal offset
        offset += 1
        yield f'event: data\ndata:x\n\nevent: control\ndata:{{"streamNextOffset":"{offset}","upToDate":true}}\n\n'.encode()
        await asyncio.sleep(5 * FACTOR)

    transport = Scripted(sse=sse)
    found = await watch(client(transport).follow(), 60)
    assert transport.asked.count("sse") >= 5
    assert "long-poll" not in transport.asked
    assert b"".join(page.data for page in found if isinstance(page, Page)).startswith(b"xxxx")


class Answering:
    """A transport with one answer for everything that is asked live, or for everything."""

    def __init__(self, *answers: Response) -> None:
        self.answers = list(answers)
        self.tokens: list[str | None] = []

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", timeout: float | None) -> Response:
        self.tokens.append(headers.get("authorization"))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @asynccontextmanager
    async def stream(self, method: str, url: str, *, headers: Mapping[str, str], timeout: float | None) -> AsyncIterator[Streamed]:
        self.tokens.append(headers.get("authorization"))
        good = headers.get("authorization") == "Bearer new"

        async def chunks() -> AsyncIterator[bytes]:
            if good:
                yield CONTROL
                await asyncio.sleep(1000)

        answer = Streamed(chunks(), timeout)
        answer.status = 200 if good else 401
        yield answer

    async def aclose(self) -> None:
        return


async def test_401_while_streaming_asks_for_a_new_token_once_and_then_raises() -> None:
    tokens = iter(["old", "new"])

    async def fetch() -> str:
        return next(tokens)

    transport = Answering(PAGE)
    stream = StreamClient("http://s/x", transport=transport, credentials=Credentials(token=fetch), retry=RETRY)
    async with stream.follow(live="sse") as follower:
        first, second = await anext(follower), await anext(follower)
    assert isinstance(first, Page)
    assert isinstance(second, Page)
    assert transport.tokens == ["Bearer old", "Bearer old", "Bearer new"]
    fixed = StreamClient("http://s/x", transport=transport, credentials=Credentials(token="wrong"), retry=RETRY)
    async with fixed.follow(live="sse") as follower:
        await anext(follower)
        with pytest.raises(UnauthorizedError):
            await anext(follower)


async def test_retry_after_is_waited_for_between_attempts() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    transport = Answering(Response(429, {"retry-after": "7"}), Response(503, {"retry-after": "3"}), PAGE)
    stream = StreamClient("http://s/x", transport=transport, environment=Environment(sleep=sleep), retry=RETRY)
    assert (await stream.read()).up_to_date
    assert [7.0 <= slept[0] <= 8.0, 3.0 <= slept[1] <= 4.0, len(slept)] == [True, True, 2]
    transport.answers = [Response(429, {"retry-after": "7"})]
    with pytest.raises(RateLimitedError) as refused:
        await stream.read()
    assert refused.value.retry_after == 7.0


async def test_a_server_without_long_poll_is_not_given_up_because_its_sse_was_slow_once() -> None:
    async def hold_back() -> AsyncIterator[bytes]:
        if len(scripted.asked) < 3:
            await asyncio.sleep(60)
        yield CONTROL
        await asyncio.sleep(60)

    async def refuse() -> Response:
        return Response(400, {})

    scripted = Scripted(sse=hold_back, poll=refuse)
    follower = client(scripted).follow()
    async with asyncio.timeout(5), follower:
        assert isinstance(await anext(follower), Page)
        interruption = await anext(follower)
        assert isinstance(interruption, Interruption)
        assert isinstance(interruption.error, InvalidRequestError)
        assert isinstance(await anext(follower), Page)
        assert isinstance(await anext(follower), Page)
    assert scripted.asked == ["page", "sse", "long-poll", "page", "sse"]


async def test_an_answer_above_the_bound_is_refused_and_a_closed_transport_says_so() -> None:
    with ServerProcess() as server:
        transport = HttpTransport(max_body=1000)
        stream = StreamClient(f"{server.url}/v1/stream/s", transport=transport, retry=RETRY)
        await stream.create(content_type="text/plain", body=b"x" * 1000)
        assert len((await stream.read()).data) == 1000
        await stream.append(b"y", content_type="text/plain")
        with pytest.raises(ProtocolError, match="1000"):
            await stream.read()
        await transport.aclose()
        for call in (stream.read(), stream.append(b"z", content_type="text/plain"), stream.head()):
            with pytest.raises(ClosedError):
                await call
        async with stream.follow() as follower:
            with pytest.raises(ClosedError):
                await anext(follower)
        await transport.aclose()


async def test_a_server_that_is_not_there_is_a_transport_error_and_following_goes_on_trying() -> None:
    async with StreamClient("http://127.0.0.1:9/s", retry=RETRY, timeouts=Timeouts().scaled(FACTOR)) as stream:
        with pytest.raises(TransportError):
            await stream.read()
        async with stream.follow() as follower:
            events = [await anext(follower) for _ in range(3)]
        assert [type(event) for event in events] == [Interruption] * 3
