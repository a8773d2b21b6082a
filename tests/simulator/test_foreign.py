"""Servers that are not ours, streams that end, streams that are trimmed: many seeds of each; and the server itself, asked directly."""

import asyncio
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ds_sync.client.stream import StreamClient
from ds_sync.environment import Environment
from ds_sync.exceptions import InvalidRequestError, SequenceGapError, StreamClosedError
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.testing.asgi_transport import AsgiTransport
from ds_sync.testing.simulator import run_seed
from ds_sync.testing.simulator.foreign import ForeignApp, Habits, spell_offset
from ds_sync.testing.simulator.scenario import Scenario, draw_endings, draw_foreign

pytestmark = pytest.mark.anyio
PATH = "/v1/stream/x"


@pytest.mark.parametrize("draw", [draw_foreign, draw_endings])
def test_seeds(draw: Callable[[random.Random], Scenario]) -> None:
    outcomes = [run_seed(seed, scenario=draw(random.Random(seed))) for seed in range(30)]
    assert [f"{outcome.seed}: {outcome.violations[0]}" for outcome in outcomes if outcome.violations] == []
    assert any(outcome.counts["death"] for outcome in outcomes)


async def _run_at_once(call: Callable[..., Any], *args: Any) -> Any:
    return call(*args)


def open_server(path: Path, **habits: Any) -> StreamClient:
    app = ForeignApp(path, Habits(**habits), Environment(), _run_at_once, random.Random(1))
    return StreamClient(f"http://server{PATH}", transport=AsgiTransport(app))


async def append(client: StreamClient, body: bytes, seq: int) -> bool:
    """Append; return whether it was answered as new."""
    result = await client.append(body, content_type="a/b", producer=ProducerStamp("p", 0, seq))
    return not result.duplicate


async def test_pages_end_anywhere_and_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    client = open_server(tmp_path / "file", page_bytes=4)
    await client.create(content_type="a/b")
    assert [await append(client, b"abcdef", 0), await append(client, b"ghi", 1), await append(client, b"ghi", 1)] == [True, True, False]
    client, pages, offset = open_server(tmp_path / "file", page_bytes=4), [], BEGINNING
    while True:
        page = await client.read(offset)
        pages.append(page.data)
        offset = page.next_offset
        if page.up_to_date:
            break
    assert pages == [b"abcd", b"efgh", b"i"]
    assert offset == spell_offset(PATH, 9)
    assert page.incarnation is None


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_live_pages_end_anywhere_too(tmp_path: Path, live: Any) -> None:
    client = open_server(tmp_path / "file", page_bytes=4)
    await client.create(content_type="a/b")
    async with asyncio.timeout(5), client.follow(live=live) as follower:
        assert (await anext(follower)).data == b""
        await append(client, b"abcdef", 0)
        found = b""
        while found != b"abcdef":
            page = await anext(follower)
            assert len(page.data) <= 4
            found += page.data


async def test_another_stream_is_read_on_from_its_middle(tmp_path: Path) -> None:
    client = open_server(tmp_path / "file")
    for body in (b"abcdef", b"ghijklmn"):
        await client.create(content_type="a/b")
        await append(client, body, 0)
        page = await client.read(spell_offset(PATH, 3))
        assert page.data == body[3:]
        await client.delete()


@pytest.mark.parametrize(
    ("producers", "answers", "stored"),
    [
        ("numbers", [True, False, SequenceGapError], b"a"),
        ("repetitions", [True, False, True], b"ac"),
        ("mute", [False, False, SequenceGapError], b"a"),
        ("swallow", [False, False, False], b""),
    ],
)
async def test_what_it_makes_of_producer_numbers(tmp_path: Path, producers: Any, answers: list[Any], stored: bytes) -> None:
    client = open_server(tmp_path / "file", producers=producers)
    await client.create(content_type="a/b")
    for (body, seq), expected in zip(((b"a", 0), (b"a", 0), (b"c", 2)), answers, strict=True):
        if isinstance(expected, bool):
            assert await append(client, body, seq) is expected
        else:
            with pytest.raises(expected):
                await append(client, body, seq)
    assert (await client.read()).data == stored


async def test_it_closes_a_stream_that_is_full_and_says_so(tmp_path: Path) -> None:
    client = open_server(tmp_path / "file", closes_at=3)
    await client.create(content_type="a/b")
    assert await append(client, b"abc", 0)
    with pytest.raises(StreamClosedError):
        await append(client, b"d", 1)
    page = await client.read()
    assert (page.data, page.closed) == (b"abc", True)


@pytest.mark.parametrize("habits", [{"sse": False}, {"long_poll": False}])
async def test_it_may_refuse_one_way_of_reading_live(tmp_path: Path, habits: Mapping[str, bool]) -> None:
    client = open_server(tmp_path / "file", **habits)
    await client.create(content_type="a/b")
    refused: Any = "sse" if "sse" in habits else "long-poll"
    async with asyncio.timeout(5), client.follow(live=refused) as follower:
        await anext(follower)
        with pytest.raises(InvalidRequestError):
            await anext(follower)
