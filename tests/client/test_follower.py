import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from ds_sync.client.follower import Follower, Interruption
from ds_sync.client.retry import RetryPolicy
from ds_sync.client.stream import StreamClient
from ds_sync.client.timeouts import Timeouts
from ds_sync.exceptions import DsSyncError, GoneError, ProtocolError, TransportError
from ds_sync.protocol.messages import Page, ProducerStamp

pytestmark = pytest.mark.anyio

FACTOR = 0.05
RETRY = RetryPolicy(max_attempts=3, first_delay=0.01, max_delay=0.05)

Reply = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def scripted(reply: Reply) -> AsyncIterator[tuple[StreamClient, list[str]]]:
    """A client of a server that answers each request by `reply`, one request a connection; and the heads it got."""
    heads: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            heads.append(head)
            await reply(head, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with StreamClient(f"http://127.0.0.1:{port}/s", retry=RETRY, timeouts=Timeouts().scaled(FACTOR)) as client:
        yield client, heads
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def answer(
    offset: str, body: bytes = b"", *, status: str = "200 OK", more: str = "stream-up-to-date: true\r\n", length: int | None = None
) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\ncontent-length: {size}\r\nstream-next-offset: {offset}\r\nconnection: close\r\n{more}\r\n".encode() + body


SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def control(offset: str, extra: str = "") -> bytes:
    return f'event: control\ndata:{{"streamNextOffset":"{offset}","streamCursor":"c7","upToDate":true{extra}}}\n\n'.encode()


async def take(follower: Follower, count: int) -> list[Page | Interruption]:
    async with asyncio.timeout(5):
        return [await anext(follower) for _ in range(count)]


def data_of(items: list[Page | Interruption]) -> list[bytes]:
    return [item.data for item in items if isinstance(item, Page)]


async def test_catch_up_then_sse_to_the_end() -> None:
    async def reply(head: str, writer: asyncio.StreamWriter) -> None:
        if "live=sse" in head:
            writer.write(
                SSE_HEAD
                + b"event: data\ndata:two\n\n"
                + control("2")
                + b"event: data\ndata:three\n\n"
                + control("3", ',"streamClosed":true')
            )
        else:
            writer.write(answer("1", b"one"))

    async with scripted(reply) as (client, heads), client.follow() as follower, asyncio.timeout(5):
        items = [item async for item in follower]
    assert data_of(items) == [b"one", b"two", b"three"]
    assert heads[0].startswith("get /s?offset=-1 ")
    assert heads[1].startswith("get /s?live=sse&offset=1 ")
    assert items[-1] == Page(b"three", items[-1].next_offset, True, True)  # type: ignore[union-attr]


async def test_a_cut_event_is_dropped_and_read_again() -> None:
    async def reply(head: str, writer: asyncio.StreamWriter) -> None:
        if "live=sse" in head:
            writer.write(SSE_HEAD + control("1") + b"event: data\ndata:never\n\n")
        elif "offset=-1" in head:
            writer.write(answer("1", b"one"))
        else:
            writer.write(answer("2", b"two", more="stream-closed: true\r\n"))

    async with scripted(reply) as (client, _), client.follow() as follower, asyncio.timeout(5):
        items = [item async for item in follower]
    assert data_of(items) == [b"one", b"", b"two"]
    assert [type(item.error) for item in items if isinstance(item, Interruption)] == [TransportError]


async def test_a_proxy_that_buffers_is_noticed() -> None:
    async def reply(head: str, writer: asyncio.StreamWriter) -> None:
        if "live=sse" in head:
            await asyncio.sleep(5)
        elif "live=long-poll" in head:
            writer.write(answer("2", b"two", more="stream-closed: true\r\n"))
        else:
            writer.write(answer("1", b"one"))

    async with scripted(reply) as (client, _), client.follow() as follower, asyncio.timeout(4):
        assert data_of([item async for item in follower]) == [b"one", b"two"]


async def test_a_server_that_refuses_sse_is_asked_by_long_poll() -> None:
    async def reply(head: str, writer: asyncio.StreamWriter) -> None:
        if "live=sse" in head:
            writer.write(answer("1", b"no", status="400 Bad Request"))
        elif "live=long-poll" in head:
            writer.write(answer("2", b"two", more="stream-closed: true\r\n"))
        else:
            writer.write(answer("1", b"one"))

    async with scripted(reply) as (client, heads), client.follow() as follower, asyncio.timeout(4):
        assert data_of([item async for item in follower]) == [b"one", b"two"]
    assert len(heads) == 3


async def test_long_poll_echoes_the_cursor_and_does_not_spin() -> None:
    async def reply(head: str, writer: asyncio.StreamWriter) -> None:
        live = "live=long-poll" in head
        writer.write(
            answer("1", status="204 No Content", more="stream-up-to-date: true\r\nstream-cursor: c9\r\n") if live else answer("1", b"one")
        )

    async with scripted(reply) as (client, heads), client.follow(live="long-poll") as follower:

        async def drain() -> None:
            async for _ in follower:
                pass

        draining = asyncio.ensure_future(drain())
        async with asyncio.timeout(20):
            while len(heads) < 3:  # noqa: ASYNC110  # a list has no event
                await asyncio.sleep(0.01)
        begun = len(heads)
        await asyncio.sleep(0.5)
        draining.cancel()
        await asyncio.wait({draining})
    assert heads[2].startswith("get /s?cursor=c9&live=long-poll&offset=1 ")
    assert len(heads) - begun < 60


async def test_refresh_abandons_the_live_request_and_proves() -> None:
    async def reply(head: str, writer: asyncio.StreamWriter) -> None:
        if "live=sse" in head:
            writer.write(SSE_HEAD + control("1"))
            await writer.drain()
            await asyncio.sleep(5)
        elif "offset=-1" in head:
            writer.write(answer("1", b"one"))
        else:
            writer.write(answer("2", b"two"))

    async with scripted(reply) as (client, heads), client.follow() as follower:
        await take(follower, 2)
        assert follower.generation == 0
        wanted = follower.refresh()
        [page] = await take(follower, 1)
        assert isinstance(page, Page)
        assert (page.data, page.up_to_date, follower.generation) == (b"two", True, wanted)
    assert "cache-control: no-cache" in heads[2]
    assert "?cursor=" in heads[2]


async def test_a_truncated_body_is_not_yielded() -> None:
    async def reply(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("1", b"half", length=100))

    async with scripted(reply) as (client, heads):
        with pytest.raises(TransportError):
            await client.read()
        assert len(heads) == RETRY.max_attempts
        async with client.follow() as follower:
            [item] = await take(follower, 1)
            assert isinstance(item, Interruption)
            assert isinstance(item.error, TransportError)


async def test_what_no_repetition_changes_is_raised() -> None:
    async def gone(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("1", b'{"error":{"code":"HISTORY_DIVERGED"}}', status="410 Gone", more=f"stream-incarnation: {'a' * 32}\r\n"))

    async with scripted(gone) as (client, heads), client.follow() as follower:
        with pytest.raises(GoneError) as caught:
            await anext(follower)
        assert (caught.value.code, caught.value.incarnation, len(heads)) == ("HISTORY_DIVERGED", "a" * 32, 1)

    async def no_offset(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nhtml")

    async with scripted(no_offset) as (client, _), client.follow() as follower:
        items = await take(follower, 2)
        assert all(isinstance(item, Interruption) for item in items)
        with pytest.raises(ProtocolError, match="Stream-Next-Offset"):
            await anext(follower)


async def test_a_cancelled_consumer_loses_nothing_and_aclose_ends_a_waiting_one() -> None:
    async def reply(head: str, writer: asyncio.StreamWriter) -> None:
        if "live=" in head:
            await asyncio.sleep(5)
        await asyncio.sleep(0.05)
        writer.write(answer("1", b"one"))

    async with scripted(reply) as (client, _):
        follower = client.follow(live="long-poll")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(follower), 0.01)
        assert data_of(await take(follower, 1)) == [b"one"]
        waiting = asyncio.ensure_future(anext(follower, None))
        await asyncio.sleep(0.02)
        await follower.aclose()
        assert await asyncio.wait_for(waiting, 1) is None


async def test_garbage_gives_nothing_but_pages_interruptions_and_our_errors() -> None:
    source = random.Random(7)
    whole = answer("1", b"one", more="content-encoding: gzip\r\n") + SSE_HEAD + control("2")

    async def reply(head: str, writer: asyncio.StreamWriter) -> None:
        broken = bytearray(
            whole[source.randrange(len(whole)) :]
            if source.random() < 0.3
            else (answer("1", b"x") if "live=" not in head else SSE_HEAD + control("2"))
        )
        for _ in range(source.randrange(4)):
            broken[source.randrange(len(broken))] = source.randrange(256)
        writer.write(bytes(broken))

    kinds = set()
    async with scripted(reply) as (client, _):
        for _ in range(25):
            async with client.follow() as follower, asyncio.timeout(5):
                try:
                    for item in await take(follower, 3):
                        kinds.add(type(item))
                except (DsSyncError, StopAsyncIteration) as error:
                    kinds.add(type(error))
    assert {Page, Interruption} <= kinds


async def test_a_plain_append_is_not_repeated_when_its_answer_is_lost() -> None:
    async def lose(head: str, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with scripted(lose) as (client, heads):
        with pytest.raises(TransportError):
            await client.append(b"", content_type="a/b")
        assert len(heads) == 1
        with pytest.raises(TransportError):
            await client.append(b"", content_type="a/b", producer=ProducerStamp("p", 0, 0))
        assert len(heads) == 1 + RETRY.max_attempts
