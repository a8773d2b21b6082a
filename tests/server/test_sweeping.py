"""Expired streams that nobody asks for, on both engines, in virtual time."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ds_sync.environment import Environment
from ds_sync.exceptions import StorageFullError
from ds_sync.server import sweeping
from ds_sync.server.app import Application, create_app
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine

pytestmark = pytest.mark.anyio


class World:
    """A clock that moves when it is told to, and whoever sleeps by it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.sleeps: list[float] = []
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self._arrived = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        if seconds < sweeping.ROUND_SECONDS:
            await asyncio.sleep(0)
            return
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, sleeper))
        self._arrived.set()
        await sleeper

    async def rest(self) -> None:
        """Wait until the sweeper has nothing more to do in this round."""
        async with asyncio.timeout(5):
            while not self._sleepers:
                self._arrived.clear()
                await self._arrived.wait()

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and all rounds that are due."""
        await self.rest()
        self.now += seconds
        due, self._sleepers = (
            [sleeper for at, sleeper in self._sleepers if at <= self.now],
            [(at, sleeper) for at, sleeper in self._sleepers if at > self.now],
        )
        for sleeper in due:
            sleeper.set_result(None)
        await self.rest()


class Server:
    def __init__(self, engine: StorageEngine) -> None:
        self.engine = engine
        self.world = World()
        self.app: Application = create_app(engine, environment=replace(Environment(), now=lambda: self.world.now, sleep=self.world.sleep))
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url="http://test/v1/stream/")

    async def make(self, path: str, body: bytes = b"x", **headers: str) -> None:
        fields = {"content-type": "text/plain", **{name.replace("_", "-"): value for name, value in headers.items()}}
        answer = await self.http.put(path, content=body, headers=fields)
        assert answer.status_code == 201, answer.text

    async def aclose(self) -> None:
        await self.http.aclose()
        await self.app.aclose()


@pytest.fixture(params=["memory", "sqlite"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StorageEngine]:
    made: StorageEngine = MemoryEngine() if request.param == "memory" else SqliteEngine(tmp_path / "s.db")
    yield made
    await made.aclose()


@pytest.fixture
async def server(engine: StorageEngine) -> AsyncIterator[Server]:
    made = Server(engine)
    yield made
    await made.aclose()


async def test_what_nobody_asks_for_is_ended(server: Server) -> None:
    await server.make("before", stream_ttl="60")  # stands there when the server is started
    await server.app.start()
    await server.make("relative", stream_ttl="60")
    await server.make("absolute", stream_expires_at="1970-01-12T13:48:00Z")  # 1,000,080
    await server.make("never")
    await server.world.pass_time(59)
    assert await server.engine.list("**") == ["absolute", "before", "never", "relative"]
    await server.world.pass_time(10)
    assert await server.engine.list("**") == ["absolute", "never"]
    state = (await server.engine.read("relative", None, 0)).state
    assert state is not None
    assert (state.deleted, state.position) == (True, 0)
    await server.world.pass_time(20)
    assert await server.engine.list("**") == ["never"]
    answer = await server.http.get("absolute", params={"offset": "-1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "STREAM_EXPIRED")


async def test_a_deadline_that_is_moved_counts(server: Server) -> None:
    await server.app.start()
    await server.make("read", stream_ttl="60")
    await server.make("remade", stream_ttl="600")
    await server.world.pass_time(50)
    assert (await server.http.get("read", params={"offset": "-1"})).text == "x"
    assert (await server.http.delete("remade")).status_code == 204
    await server.make("remade", stream_ttl="20")
    await server.world.pass_time(30)
    assert await server.engine.list("**") == ["read"]
    await server.world.pass_time(40)
    assert await server.engine.list("**") == []


async def test_a_source_is_kept_for_its_forks(server: Server) -> None:
    await server.app.start()
    await server.make("source", b"abc", stream_ttl="60")
    await server.make("fork", b"", stream_forked_from="/v1/stream/source", stream_ttl="300")
    await server.world.pass_time(100)
    assert await server.engine.list("**") == ["fork"]
    assert (await server.http.get("fork", params={"offset": "-1"})).text == "abc"
    await server.world.pass_time(301)
    for path in ("fork", "source"):
        state = (await server.engine.read(path, None, 0)).state
        assert state is not None
        assert state.deleted


async def test_who_waits_is_told(server: Server) -> None:
    await server.app.start()
    await server.make("s", stream_expires_at="1970-01-12T13:47:40Z")
    waiting = asyncio.ensure_future(server.http.get("s", params={"offset": "now", "live": "long-poll"}))
    await asyncio.sleep(0.01)
    await server.world.pass_time(70)
    assert (await asyncio.wait_for(waiting, 5)).json()["error"]["code"] == "STREAM_EXPIRED"


async def test_it_goes_slowly_and_starts_once(server: Server) -> None:
    for number in range(450):
        await server.make(f"s{number}", stream_ttl="5")
    await server.app.start()
    await server.app.start()
    await server.world.rest()
    assert server.world.sleeps == [0, 0, sweeping.ROUND_SECONDS]  # after 200 and 400 others had their turn
    server.world.sleeps.clear()
    await server.world.pass_time(10)
    assert await server.engine.list("**") == []
    assert server.world.sleeps.count(sweeping.PAUSE_SECONDS) == 450


async def test_what_can_not_be_ended_does_not_keep_the_others(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    transact = server.engine.transact
    full = True

    async def refuse(paths: Sequence[str], decide: Callable[..., Any], *, producer: str | None = None) -> Any:
        if full and paths == ("a",):
            raise StorageFullError("no space")
        return await transact(paths, decide, producer=producer)

    await server.make("a", stream_ttl="5")
    await server.make("b", stream_ttl="6")
    await server.app.start()
    monkeypatch.setattr(server.engine, "transact", refuse)
    await server.world.pass_time(10)
    assert [record.getMessage() for record in caplog.records] == ["'a' has expired, and stays for the time being: no space"]
    await server.world.pass_time(10)
    assert await server.engine.list("**") == ["a"]
    full = False
    await server.world.pass_time(sweeping.RETRY_SECONDS)
    assert await server.engine.list("**") == []
    assert len(caplog.records) == 1


async def test_without_a_start_nothing_runs(server: Server) -> None:
    await server.make("s", stream_ttl="5")
    server.world.now += 100
    await asyncio.sleep(0.01)
    assert (await server.engine.list("**"), server.world.sleeps) == (["s"], [])
