import asyncio
import json
from collections.abc import Iterator, Mapping

import pytest

from ds_sync.client.retry import RetryPolicy
from ds_sync.client.stream import StreamClient
from ds_sync.client.transport import HttpTransport, Response
from ds_sync.exceptions import GoneError, InvalidRequestError, NotFoundError, SequenceRegressionError, StreamClosedError, TransportError
from ds_sync.protocol.messages import Page, ProducerStamp
from ds_sync.protocol.offsets import Offset
from ds_sync.testing.faults import FaultyTransport, is_append, lose_answer
from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(long_poll_timeout=2.0) as process:
        yield process


@pytest.mark.parametrize("content_type", ["text/plain", "text/markdown; charset=utf-8", "application/octet-stream"])
@pytest.mark.parametrize("known", [False, True])
async def test_what_is_followed_is_what_was_appended_to_the_byte(server: ServerProcess, content_type: str, known: bool) -> None:
    written = [b"first\r\n", b"\r", b"\n\n", b" data: x\r\n\r\n", b"\xff\x00 is no text\r"]
    url = f"{server.url}/v1/stream/bytes/{content_type[:6]}-{len(content_type)}-{known}"
    async with StreamClient(url, content_type=content_type if known else None) as stream, asyncio.timeout(10):
        await stream.create(content_type=content_type, body=written[0])
        read = b""
        async with stream.follow(catch_up=not known) as follower:
            for piece in written[1:]:
                read += (await anext(follower)).data
                await stream.append(piece, content_type=content_type)
            await stream.close()
            read += b"".join([chunk async for chunk in follower.chunks()])
    assert read == b"".join(written)


async def test_create_append_read_head_delete(server: ServerProcess) -> None:
    async with StreamClient(f"{server.url}/v1/stream/client/plain") as client:
        assert (await client.create(content_type="a/b")).created
        assert not (await client.create(content_type="a/b")).created
        stamp = ProducerStamp("p", 0, 0)
        first = await client.append(b"one", content_type="a/b", producer=stamp)
        assert not first.duplicate
        assert (await client.append(b"one", content_type="a/b", producer=stamp)).duplicate
        page = await client.read(fresh=True)
        assert (page.data, page.next_offset, page.up_to_date) == (b"one", first.tail, True)
        assert page.incarnation == (await client.head()).incarnation is not None
        assert (await client.read(page.next_offset)).data == b""
        await client.delete()
        with pytest.raises(NotFoundError):
            await client.head()


async def test_an_append_for_a_life_that_is_over_lands_nowhere(server: ServerProcess) -> None:
    async with StreamClient(f"{server.url}/v1/stream/client/lives") as client:
        first = (await client.create(content_type="a/b")).incarnation
        assert (await client.append(b"one", content_type="a/b", incarnation=first)).incarnation == first
        await client.delete()
        second = (await client.create(content_type="a/b")).incarnation
        assert second != first
        with pytest.raises(GoneError) as caught:
            await client.append(b"two", content_type="a/b", incarnation=first, producer=ProducerStamp("p", 0, 0))
        assert (caught.value.status, caught.value.code, caught.value.incarnation) == (410, "HISTORY_DIVERGED", second)
        await client.append(b"three", content_type="a/b", incarnation=second)
        assert (await client.read()).data == b"three"


async def test_a_stream_seq_that_does_not_rise(server: ServerProcess) -> None:
    async with StreamClient(f"{server.url}/v1/stream/client/sequence") as client:
        await client.create(content_type="a/b")
        await client.append(b"one", content_type="a/b", stream_seq="2")
        with pytest.raises(SequenceRegressionError):
            await client.append(b"two", content_type="a/b", stream_seq="2")
        assert (await client.read()).data == b"one"


@pytest.mark.parametrize("live", ["sse", "long-poll", "auto"])
async def test_follow_to_the_close(server: ServerProcess, live: str) -> None:
    async with StreamClient(f"{server.url}/v1/stream/client/{live}") as client:
        await client.create(body=b"one")
        got = b""
        async with client.follow(live=live) as follower, asyncio.timeout(10):  # type: ignore[arg-type]
            async for page in follower:
                assert isinstance(page, Page)
                got += page.data
                if page.data == b"one":  # pages without data follow: each live request says at once where it stands
                    await client.append(b"\xfftwo", content_type="application/octet-stream")
                elif got == b"one\xfftwo":
                    await client.close()
        assert got == b"one\xfftwo"
        assert page.closed
        with pytest.raises(StreamClosedError):
            await client.append(b"x", content_type="application/octet-stream")


async def test_json_is_an_array_in_every_mode(server: ServerProcess) -> None:
    async with StreamClient(f"{server.url}/v1/stream/client/json") as client:
        await client.create(content_type="application/json", body=b'[{"a":1}]')
        found: list[object] = []
        async with client.follow(live="sse") as follower, asyncio.timeout(10):
            async for page in follower:
                assert isinstance(page, Page)
                found += json.loads(page.data)
                if page.data == b'[{"a":1}]':
                    await client.append(b"[2,3]", content_type="application/json", close=True)
        assert found == [{"a": 1}, 2, 3]


async def test_refresh_proves(server: ServerProcess) -> None:
    async with StreamClient(f"{server.url}/v1/stream/client/refresh") as client:
        await client.create(body=b"one")
        async with client.follow(live="long-poll") as follower, asyncio.timeout(10):
            assert isinstance(await anext(follower), Page)
            await client.append(b"two", content_type="application/octet-stream")
            wanted, got = follower.refresh(), b""
            while True:
                page = await anext(follower)
                assert isinstance(page, Page)
                got += page.data
                if page.up_to_date and follower.generation >= wanted:
                    break
        assert got == b"two"


async def test_the_content_type_is_found_out(server: ServerProcess) -> None:
    url = f"{server.url}/v1/stream/client/types"
    async with StreamClient(url) as maker:
        await maker.create(content_type="application/json")
    async with StreamClient(url) as client:
        await client.append(b"[1]")
        await client.append_json({"a": "é"}, [2], None)
        await client.close(b'"end"')
        assert [message async for message in client.follow(live=False).json()] == [1, {"a": "é"}, [2], None, "end"]
    async with StreamClient(f"{server.url}/v1/stream/client/none") as client:
        with pytest.raises(NotFoundError):
            await client.append(b"x")


async def test_a_life_is_given_in_seconds_or_until_a_time(server: ServerProcess) -> None:
    async with StreamClient(f"{server.url}/v1/stream/client/ttl") as client:
        assert (await client.create(ttl=60)).created
        with pytest.raises(InvalidRequestError):
            await client.create(ttl=60, expires_at="2999-01-01T00:00:00Z")
    async with StreamClient(f"{server.url}/v1/stream/client/until") as client:
        assert (await client.create(expires_at="2999-01-01T00:00:00Z")).created


async def test_a_producer_on_a_real_server(server: ServerProcess) -> None:
    async with StreamClient(f"{server.url}/v1/stream/client/produced") as client:
        await client.create(content_type="application/json")
        async with client.producer("p", max_batch_items=7) as producer:
            for number in range(200):
                await producer.append_json(number)
        async with client.producer("p") as again:  # the same name, begun anew
            await again.append_json("again")
            await again.close('"end"')
        found = [message async for message in client.follow().json()]
    assert found == [*range(200), "again", "end"]


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_following_without_catch_up_asks_live_at_once(server: ServerProcess, live: str) -> None:
    transport = FaultyTransport(HttpTransport())
    async with StreamClient(
        f"{server.url}/v1/stream/client/at-once-{live}", transport=transport, content_type="application/json"
    ) as client:
        await client.create(body=b"[1]")
        await client.append(b"[2]", close=True)
        assert [message async for message in client.follow(live=live, catch_up=False).json()] == [1, 2]  # type: ignore[arg-type]
        assert all(f"live={live}" in request.url for request in transport.requests if request.method == "GET")
        await transport.aclose()


async def test_a_plain_append_is_sent_again_after_silence_only_if_that_is_wished(server: ServerProcess) -> None:
    transport = FaultyTransport(HttpTransport())
    for wished, expected in ((False, b"x"), (True, b"xx")):
        retry = RetryPolicy(first_delay=0.01, max_delay=0.02, resend_unknown=wished)
        async with StreamClient(f"{server.url}/v1/stream/client/silence-{wished}", transport=transport, retry=retry) as client:
            await client.create()
            transport.inject(lose_answer(), when=is_append)
            if wished:
                await client.append(b"x")
            else:
                with pytest.raises(TransportError):
                    await client.append(b"x")
            assert (await client.read()).data == expected
    await transport.aclose()


async def test_a_fork_begins_with_what_its_source_holds(server: ServerProcess) -> None:
    source, path = f"{server.url}/v1/stream/client/fork%20source", "/v1/stream/client/fork%20source"
    async with StreamClient(source) as old, StreamClient(f"{server.url}/v1/stream/client/fork") as client:
        with pytest.raises(NotFoundError):
            await client.fork(path)
        await old.create(content_type="text/plain")
        first = (await old.append(b"once ", content_type="text/plain")).tail
        await old.append(b"upon", content_type="text/plain")
        info = await client.fork(path, offset=first, sub_offset=2)
        assert (info.created, info.content_type) == (True, "text/plain")
        assert not (await client.fork(path, offset=first, sub_offset=2)).created
        await client.append(b"side down")
        assert (await client.read()).data == b"once upside down"
        assert (await client.read(first)).data == b"upside down"
        async with StreamClient(f"{server.url}/v1/stream/client/other") as other:
            with pytest.raises(InvalidRequestError):
                await other.fork(path, offset=Offset("0" * 16 + "_" + "0" * 15 + "7"))
        await old.delete()
        with pytest.raises(GoneError) as caught:
            await old.read()
        assert caught.value.code == "STREAM_DELETED"
        assert (await client.read()).data == b"once upside down"


async def test_a_fork_says_what_it_wants() -> None:
    class Server:
        async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", timeout: float | None) -> Response:
            asked.append((method, {name: value for name, value in headers.items() if name.startswith(("stream-", "content-"))}))
            return Response(201, {"stream-next-offset": "7", "content-type": "text/plain"})

    asked: list[tuple[str, dict[str, str]]] = []
    client = StreamClient("http://a/new", transport=Server())  # type: ignore[arg-type]
    info = await client.fork("/old")
    assert (info.created, info.tail, await client.find_content_type()) == (True, "7", "text/plain")
    await client.fork("/old", offset=Offset("3"), sub_offset=2, content_type="text/plain")
    assert asked == [
        ("PUT", {"stream-forked-from": "/old"}),
        (
            "PUT",
            {
                "stream-forked-from": "/old",
                "stream-fork-offset": "3",
                "stream-fork-sub-offset": "2",
                "content-type": "text/plain",
            },
        ),
    ]
