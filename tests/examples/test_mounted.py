"""The server inside other people's applications: FastAPI (which is Starlette) and Django, on uvicorn, as processes."""

import asyncio
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
from pycrdt import Text
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from ds_sync import Replica
from tests.examples.sites import APPLICATIONS, KEY, Site
from tests.interop.silence import see_her_go

DENIED = b"\x02\x00\x10the key is wrong"  # y-protocols/auth.js


@pytest.fixture(params=APPLICATIONS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    made = Site(request.param, tmp_path / "streams.db")
    yield made
    made.stop(signal.SIGKILL)


async def write(site: Site, file: Path, words: str) -> str:
    async with Replica(file, server=site.url, token=KEY) as replica:
        note = await replica.open("notes/today")
        text = note.doc.get("body", type=Text)
        text += words
        async with asyncio.timeout(20):
            await note.synced()
        return str(text)


async def hear_first(url: str) -> bytes:
    async with connect(url) as websocket, asyncio.timeout(10):
        data = await websocket.recv()
        assert isinstance(data, bytes)
        return data


def test_the_application_and_the_server_share_a_port_and_the_data_outlives_both(site: Site, tmp_path: Path) -> None:
    assert httpx.get(f"{site.url}/hello").json() == {"hello": "from the application"}
    assert asyncio.run(write(site, tmp_path / "one.db", "one ")) == "one "
    room = f"ws://127.0.0.1:{site.port}/v1/ws/default/notes/today?key={KEY.replace(' ', '%20')}"
    assert asyncio.run(hear_first(room)).startswith(b"\x00\x00"), "a room asks: what do you have"
    assert site.stop() == ""
    assert not Path(f"{site.data}-wal").exists(), "the engine was closed at the end"
    with closing(sqlite3.connect(site.data)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    site.start()
    assert sorted(asyncio.run(write(site, tmp_path / "two.db", "two ")).split()) == ["one", "two"]


def test_ending_does_not_wait_for_readers(site: Site) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    httpx.put(f"{site.url}/v1/stream/log", headers=headers).raise_for_status()
    with httpx.stream("GET", f"{site.url}/v1/stream/log?offset=-1&live=sse", headers=headers) as reading:
        assert reading.status_code == 200
        begun = time.monotonic()
        site.stop()
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize("site", ["in_fastapi"], indirect=True)
def test_who_has_no_key_gets_nothing(site: Site) -> None:
    assert httpx.put(f"{site.url}/v1/stream/log").status_code == 401
    assert httpx.put(f"{site.url}/v1/stream/log", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert httpx.put(f"{site.url}/v1/stream/log", headers={"authorization": f"Bearer {KEY}"}).status_code == 201
    assert httpx.put(f"{site.url}/v1/stream/log?key={KEY}").status_code == 401, "not in the address of a request, which logs keep"
    assert httpx.options(f"{site.url}/v1/stream/log").status_code == 204
    for query in ("", "?key=wrong", "?key="):
        assert asyncio.run(hear_all(f"ws://127.0.0.1:{site.port}/v1/ws/default/notes/today{query}")) == ([DENIED], 4403)


async def hear_all(url: str) -> tuple[list[bytes], int]:
    """Return what is said until the end, and the close code."""
    heard = []
    async with connect(url) as websocket, asyncio.timeout(10):
        with suppress(ConnectionClosed):
            while True:
                heard.append(await websocket.recv(decode=False))
        return heard, websocket.close_code or 0


def test_who_is_gone_without_a_word_is_not_present_any_more(tmp_path: Path) -> None:
    """uvicorn's pings find out; by default only after 40 s, which is after everybody has forgotten her."""
    site = Site("in_fastapi", tmp_path / "streams.db", pings=(0.2, 0.3))
    try:
        assert asyncio.run(see_her_go(f"ws://127.0.0.1:{site.port}/v1/ws/default/room?key=a%20key")) < 8
    finally:
        site.stop()
