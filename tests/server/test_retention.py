"""Retention over HTTP, on both engines."""

import json
import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ds_sync.exceptions import StorageFullError
from ds_sync.server.app import create_app
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine

pytestmark = pytest.mark.anyio

TEXT = {"content-type": "text/plain"}
BODIES = [b"%02d" % number * 5 for number in range(40)]


def build(engine: StorageEngine, keep: int = 100) -> httpx.AsyncClient:
    app = create_app(engine, retain_bytes=keep, page_bytes=30, long_poll_timeout=0.02, sse_seconds=0.05)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/v1/stream/")


@pytest.fixture(params=["memory", "sqlite"])
async def http(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    engine: StorageEngine = MemoryEngine() if request.param == "memory" else SqliteEngine(tmp_path / "streams.db", settle_rows=5)
    async with build(engine) as client:
        yield client
    await engine.aclose()


async def fill(http: httpx.AsyncClient, path: str) -> list[str]:
    offsets = [(await http.put(path, headers=TEXT)).headers["stream-next-offset"]]
    for body in BODIES:
        answer = await http.post(path, content=body, headers=TEXT)
        assert answer.status_code == 204
        offsets.append(answer.headers["stream-next-offset"])
    return offsets


async def read(http: httpx.AsyncClient, path: str, offset: str = "-1") -> bytes:
    found = b""
    while True:
        page = await http.get(path, params={"offset": offset})
        assert page.status_code == 200, page.text
        found, offset = found + page.content, page.headers["stream-next-offset"]
        if "stream-up-to-date" in page.headers:
            return found


async def test_old_records_go_and_who_asks_for_them_is_told(http: httpx.AsyncClient) -> None:
    offsets = await fill(http, "s")
    left = await read(http, "s")
    assert b"".join(BODIES).endswith(left)
    assert 100 <= len(left) <= 130
    first = len(BODIES) - len(left) // 10
    for number, offset in enumerate(offsets):
        for live in (None, "long-poll", "sse"):
            answer = await http.get("s", params={"offset": offset} | ({} if live is None else {"live": live}))
            if number < first:
                assert (answer.status_code, answer.headers["cache-control"]) == (410, "no-store")
                assert json.loads(answer.content)["error"]["code"] == "OFFSET_EXPIRED"
            else:
                assert answer.status_code in (200, 204)
        if number >= first:
            assert await read(http, "s", offset) == b"".join(BODIES[number:])
    polled = await http.get("s", params={"offset": "-1", "live": "long-poll"})
    assert left.startswith(polled.content)
    events = await http.get("s", params={"offset": "-1", "live": "sse"})
    assert f"data:{left[:30].decode()}\n" in events.text
    assert (await http.get("s", params={"offset": "-1"})).headers["cache-control"] == "no-cache"


async def test_a_fork_holds_on_to_what_was_left(http: httpx.AsyncClient) -> None:
    offsets = await fill(http, "s")
    left = await read(http, "s")
    early = await http.put("f", headers={"stream-forked-from": "/v1/stream/s", "stream-fork-offset": offsets[1]})
    assert early.status_code == 400
    assert (await http.put("f", headers={"stream-forked-from": "/v1/stream/s"})).status_code == 201
    for body in BODIES:
        await http.post("s", content=body, headers=TEXT)
        await http.post("f", content=body, headers=TEXT)
    expected = left + b"".join(BODIES)
    assert (await read(http, "f"), await read(http, "s")) == (expected, expected)
    assert (await http.get("f", params={"offset": offsets[1]})).status_code == 410
    await http.delete("f")
    for _ in range(4):
        await http.post("s", content=b"more", headers=TEXT)
    assert len(await read(http, "s")) < 140


async def test_a_record_larger_than_all_that_is_kept_stays(http: httpx.AsyncClient) -> None:
    await http.put("s", headers=TEXT)
    for size in (10, 5000, 10):
        await http.post("s", content=b"x" * size, headers=TEXT)
    assert len(await read(http, "s")) == 5010
    await http.post("s", content=b"y" * 100, headers=TEXT)
    assert len(await read(http, "s")) == 110


async def test_dropped_records_leave_the_file_also_after_a_restart(tmp_path: Path) -> None:
    for settle_rows in (1000, 1):
        engine = SqliteEngine(tmp_path / "streams.db", settle_rows=settle_rows)
        async with build(engine) as http:
            await fill(http, "s") if settle_rows == 1000 else await http.post("s", content=b"last", headers=TEXT)
        await engine.aclose()
    connection = sqlite3.connect(tmp_path / "streams.db")
    ((count, size),) = connection.execute("SELECT count(*), sum(length(data)) FROM log")
    assert (count, size) == (connection.execute("SELECT count(*) FROM place").fetchone()[0], size)
    assert 100 <= size <= 140
    connection.close()


async def test_an_append_is_acknowledged_even_if_nothing_can_be_dropped(caplog: pytest.LogCaptureFixture) -> None:
    class FullEngine(MemoryEngine):
        async def transact(self, paths: Any, decide: Any, **options: Any) -> Any:
            if "decide_trim" in decide.__code__.co_names:
                raise StorageFullError("no space is left")
            return await super().transact(paths, decide, **options)

    engine = FullEngine()
    async with build(engine) as http:
        await fill(http, "s")
        assert await read(http, "s") == b"".join(BODIES)
    assert ("ds_sync.server.retention", logging.WARNING) in {(record.name, record.levelno) for record in caplog.records}
