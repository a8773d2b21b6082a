"""SIGTERM and a start under appends: who follows sees every message once and in order, however it follows, and replicas go on."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pycrdt import Text

from ds_sync import Replica
from ds_sync.client.retry import RetryPolicy
from ds_sync.client.stream import StreamClient
from ds_sync.exceptions import TransportError
from ds_sync.protocol.tail import Live
from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.anyio

HASTY = RetryPolicy(max_attempts=40, first_delay=0.05, max_delay=0.2)
MESSAGES = 150
PAUSE = 0.02


@pytest.fixture
async def server(tmp_path: Path, anyio_backend: str) -> AsyncIterator[ServerProcess]:
    with ServerProcess(tmp_path / "streams.db") as running:
        yield running


async def restart(server: ServerProcess) -> None:
    """SIGTERM while everything is under way, and a start on the same port and file."""
    assert await asyncio.to_thread(server.terminate) == 0
    await asyncio.sleep(0.2)
    await asyncio.to_thread(server.start)


async def collect(client: StreamClient, live: Live, followed: asyncio.Event, lost: list[object]) -> list[int]:
    found: list[int] = []
    async for message in client.follow(live=live).json(interrupted=lost.append):
        found.append(message)
        followed.set()
    return found


async def test_followers_see_no_gap_and_nothing_twice_over_two_restarts(server: ServerProcess) -> None:
    url = f"{server.url}/v1/stream/messages"
    modes: tuple[Live, ...] = ("sse", "long-poll", "auto")
    clients = [StreamClient(url, retry=HASTY) for _ in range(4)]
    writer = clients.pop()
    await writer.create(content_type="application/json")
    begun, lost = [asyncio.Event() for _ in modes], [[] for _ in modes]  # type: ignore[var-annotated]
    following = [
        asyncio.create_task(collect(client, live, event, noted))
        for client, live, event, noted in zip(clients, modes, begun, lost, strict=True)
    ]
    async with asyncio.timeout(40):
        async with writer.producer(linger=0.0) as producer:
            await producer.append_json(0)
            for event in begun:
                await event.wait()
            restarting = asyncio.create_task(twice(server))
            for number in range(1, MESSAGES):
                await producer.append_json(number)
                await asyncio.sleep(PAUSE)
            await restarting
            await producer.close()
        for found, live in zip(await asyncio.gather(*following), modes, strict=True):
            assert found == [*range(MESSAGES)], live
    assert all(lost), "everybody was cut off at least once"
    for client in (writer, *clients):
        await client.aclose()


async def twice(server: ServerProcess) -> None:
    for _ in range(2):
        await asyncio.sleep(0.4)
        await restart(server)


async def test_replicas_go_on_over_a_restart(server: ServerProcess, tmp_path: Path) -> None:
    async with asyncio.timeout(40):
        async with Replica(tmp_path / "one.db", server=server.url) as one, Replica(tmp_path / "two.db", server=server.url) as two:
            writing, reading = await one.open("notes"), await two.open("notes")
            text = writing.doc.get("body", type=Text)
            text += "begin "
            await writing.synced()
            await reading.synced()
            restarting = asyncio.create_task(twice(server))
            for number in range(100):
                text += f"{number} "
                await asyncio.sleep(PAUSE)
            await restarting
            await writing.synced()
            await reading.synced()
            assert str(reading.doc.get("body", type=Text)) == "begin " + "".join(f"{number} " for number in range(100))
            assert (writing.status.state, reading.status.state) == ("live", "live")


async def test_appends_without_a_producer_are_in_the_stream_if_they_were_acknowledged(server: ServerProcess) -> None:
    """Whoever gets no answer does not know; whoever got one does."""
    url = f"{server.url}/v1/stream/plain"
    async with asyncio.timeout(40), StreamClient(url, retry=HASTY) as client:
        await client.create(content_type="application/json")
        acknowledged: list[int] = []
        refused = 0
        numbers = itertools.count()
        restarting = asyncio.create_task(restart(server))
        while not restarting.done():
            number = next(numbers)
            try:
                await client.append_json(number)
                acknowledged.append(number)
            except TransportError:
                refused += 1
            await asyncio.sleep(PAUSE)
        await restarting
        for number in itertools.islice(numbers, 20):
            await client.append_json(number)
            acknowledged.append(number)
        await client.append_json("end")
        found = [message async for message in client.follow(live=False).json()]
    assert found == [*sorted(set(found[:-1])), "end"]
    assert set(acknowledged) <= set(found)
    assert len(acknowledged) > 20, "before it and after it"
    assert refused > 0
