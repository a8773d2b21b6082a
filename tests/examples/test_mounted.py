"""The server inside other people's applications: FastAPI (which is Starlette) and Django, on uvicorn, as processes."""

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from pycrdt import Text
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from ds_sync import Replica

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = "a key"
APPLICATIONS = {"in_fastapi": "app:app", "in_django": "asgi:application"}


class Site:
    """An example, served by uvicorn."""

    def __init__(self, example: str, data: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.example = example
        self.data = data
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        options = ("--port", str(self.port), "--timeout-graceful-shutdown", "1", "--log-level", "warning")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", APPLICATIONS[self.example], *options],
            cwd=EXAMPLES / self.example,
            env={**os.environ, "SYNC_DATA": str(self.data), "SYNC_KEY": KEY, "DJANGO_SETTINGS_MODULE": "settings"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(600):
            try:
                httpx.get(self.url)
                return
            except httpx.TransportError:
                assert self._process.poll() is None, self._process.communicate()
                time.sleep(0.05)
        raise AssertionError("the example did not start")

    def stop(self, number: int = signal.SIGTERM) -> str:
        """End it; return what it wrote to standard error."""
        self._process.send_signal(number)
        return self._process.communicate(timeout=20)[1]


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
    for query in ("", "?key=wrong"):
        with pytest.raises(ConnectionClosed) as refused:
            asyncio.run(hear_first(f"ws://127.0.0.1:{site.port}/v1/ws/default/notes/today{query}"))
        assert refused.value.rcvd is not None
        assert refused.value.rcvd.code == 4403
