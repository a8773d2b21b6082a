"""Pages that change no more: read from the file once, and given to nobody whose stream is another one by now."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from ds_sync.protocol.history import Place, parse_place
from ds_sync.protocol.retention import decide_trim
from ds_sync.server.app import create_app
from ds_sync.server.engines.base import Run
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.server.front.http1 import Http1Server
from ds_sync.server.settled import Found, PageKey, SettledPages

pytestmark = pytest.mark.anyio

TEXT = {"content-type": "text/plain"}
RECORDS = [b"%d" % number * 100 for number in range(9)]


class CountingEngine(SqliteEngine):
    """Counts how often it was read from the file, and waits with that if told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.settled = SettledPages()
        """Of the application."""
        self.reads = 0
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, path: str, after: Place | None, limit: int) -> Run:
        self.reads += 1
        self.entered.set()
        await self.gate.wait()
        return await super().read(path, after, limit)


def joined(engine: CountingEngine) -> list[object]:
    """Who waits for the page that somebody else has asked for."""
    return [done for waiting in engine.settled._reading.values() for done in waiting]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nobody tells who waits
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(file: Path, **options: int) -> AsyncIterator[tuple[httpx.AsyncClient, CountingEngine]]:
    """A server on `file`, nothing of it in memory yet; a page holds two of RECORDS."""
    engine = CountingEngine(file)
    app = create_app(engine, page_bytes=250, **options)  # type: ignore[arg-type]
    assert app.express is not None
    engine.settled = app.express.lane.settled
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        server = Http1Server(app, express=app.express)
        await server.start(listener)
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/v1/stream") as client:
                yield client, engine
        finally:
            await server.aclose()
            await app.aclose()
            await engine.aclose()


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    """A server's file with the stream `s` of RECORDS."""
    path = tmp_path / "server.db"
    async with serving(path) as (client, _):
        await fill(client)
    return path


async def fill(client: httpx.AsyncClient, records: list[bytes] = RECORDS) -> None:
    assert (await client.put("/s", headers=TEXT)).status_code == 201
    for record in records:
        assert (await client.post("/s", headers=TEXT, content=record)).status_code == 204


async def catch_up(client: httpx.AsyncClient, offset: str = "-1") -> bytes:
    data = b""
    while True:
        page = await client.get("/s", params={"offset": offset})
        assert page.status_code == 200, page.text
        data += page.content
        offset = page.headers["stream-next-offset"]
        if "stream-up-to-date" in page.headers:
            return data


async def test_what_was_read_once_is_not_read_again_though_the_stream_goes_on(file: Path) -> None:
    async with serving(file) as (client, engine):
        assert await catch_up(client) == b"".join(RECORDS)
        first = engine.reads
        assert first >= 5
        assert (await client.post("/s", headers=TEXT, content=b"more")).status_code == 204
        assert await catch_up(client) == b"".join(RECORDS) + b"more"
        assert engine.reads <= first + 1, "the page that was the last"
        assert await catch_up(client) == b"".join(RECORDS) + b"more"
        assert engine.reads <= first + 1


async def test_those_who_ask_meanwhile_share_one_reading(file: Path) -> None:
    async with serving(file) as (client, engine):
        engine.gate.clear()
        asked = [asyncio.create_task(client.get("/s", params={"offset": "-1"})) for _ in range(8)]
        await engine.entered.wait()
        await until(lambda: len(joined(engine)) == 7)
        engine.gate.set()
        pages = await asyncio.gather(*asked)
        assert {page.content for page in pages} == {RECORDS[0] + RECORDS[1]}
        assert engine.reads == 1


async def test_a_page_at_the_tail_is_read_once_and_not_given_to_who_knows_more(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    async with serving(path) as (client, _):
        await fill(client, RECORDS[:1])
    async with serving(path) as (client, engine):
        assert await catch_up(client) == await catch_up(client) == RECORDS[0]
        assert engine.reads == 1
    async with serving(path) as (client, engine):
        engine.gate.clear()
        early = asyncio.create_task(client.get("/s", params={"offset": "-1"}))
        await engine.entered.wait()
        assert (await client.post("/s", headers=TEXT, content=b"more")).status_code == 204
        late = asyncio.create_task(client.get("/s", params={"offset": "-1"}))
        await until(lambda: len(joined(engine)) == 1)
        engine.gate.set()
        assert (await early).content in (RECORDS[0], RECORDS[0] + b"more")
        assert (await late).content == RECORDS[0] + b"more", "it was acknowledged before this one asked"


async def test_a_stream_that_was_deleted_and_made_anew_is_another_one(file: Path) -> None:
    async with serving(file) as (client, _):
        await catch_up(client)
        assert (await client.delete("/s")).status_code == 204
        assert (await client.get("/s", params={"offset": "-1"})).status_code == 404
        await fill(client, RECORDS[::-1])
        assert await catch_up(client) == b"".join(RECORDS[::-1])


async def test_what_retention_dropped_is_gone(file: Path) -> None:
    async with serving(file) as (client, engine):
        first = await client.get("/s", params={"offset": "-1"})
        second = first.headers["stream-next-offset"]
        assert (await client.get("/s", params={"offset": second})).content == RECORDS[2] + RECORDS[3]
        run = await engine.read("s", parse_place(second), 250)
        assert run.state is not None
        life = run.state.incarnation
        assert await engine.transact(("s",), lambda views: decide_trim(views[0], life, run.end, 0.0))
        assert (await client.get("/s", params={"offset": second})).status_code == 410
        assert (await client.get("/s", params={"offset": "-1"})).content == RECORDS[4] + RECORDS[5]


async def test_not_modified_and_head_are_as_ever(file: Path) -> None:
    async with serving(file) as (client, engine):
        page = await client.get("/s", params={"offset": "-1"})
        known = {"if-none-match": page.headers["etag"]}
        for _ in range(2):
            again = await client.get("/s", params={"offset": "-1"}, headers=known)
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", page.headers["etag"])
        assert engine.reads == 2
        without_date = [{name: value for name, value in one.headers.items() if name != "date"} for one in (page, await client.get("/s"))]
        assert without_date[0] == without_date[1]


async def test_nothing_is_kept_if_nothing_may_be(file: Path) -> None:
    async with serving(file, cache_bytes=0) as (client, engine):
        assert await catch_up(client) == b"".join(RECORDS)
        first = engine.reads
        assert await catch_up(client) == b"".join(RECORDS)
        assert engine.reads > first


async def test_what_is_kept_is_bounded_and_what_is_asked_for_stays() -> None:
    pages = SettledPages(1000)
    keys = [PageKey("life", 0, b"offset=%d" % number, None) for number in range(30)]
    answers: list[object] = []

    async def read() -> Found:
        return Found((200, b"h" * 20, b"b" * 80), settled=True)

    for key in keys:
        pages.fetch(key, read, answers.append)
        await asyncio.sleep(0)
        assert pages.find(keys[0]) is not None
    assert len(answers) == 30
    assert [key for key in keys if pages.find(key) is not None] == [keys[0], *keys[-9:]]

    async def read_large() -> Found:
        return Found((200, b"", b"b" * 900), settled=True)

    pages.fetch(keys[1], read_large, answers.append)
    await asyncio.sleep(0)
    assert answers[-1] == (200, b"", b"b" * 900)
    assert pages.find(keys[1]) is None


async def test_a_reading_that_fails_is_told_to_all_and_the_next_one_reads_again() -> None:
    pages = SettledPages()
    key = PageKey("life", 0, b"", None)
    answers: list[object] = []

    async def fail() -> Found:
        raise OSError("on purpose")

    pages.fetch(key, fail, answers.append)
    pages.fetch(key, fail, answers.append)
    await asyncio.sleep(0)
    assert answers == [None, None]
    page = (200, b"h", b"b")

    async def read() -> Found:
        return Found(page, settled=False)

    pages.fetch(key, read, answers.append)
    pages.fetch(key, read, answers.append)
    await asyncio.sleep(0)
    assert answers[2:] == [page, None], "not settled: only for who asked before it was read"


async def test_what_retention_drops_from_the_only_page_is_not_served_from_memory(tmp_path: Path) -> None:
    async with serving(tmp_path / "server.db") as (client, engine):
        await fill(client, RECORDS[:2])
        page = await client.get("/s", params={"offset": "-1"})
        assert page.content == RECORDS[0] + RECORDS[1]
        run = await engine.read("s", parse_place("0000000000000000_0000000000000000"), 150)
        assert run.state is not None
        assert not run.up_to_date
        life = run.state.incarnation
        assert await engine.transact(("s",), lambda views: decide_trim(views[0], life, run.end, 0.0))
        again = await client.get("/s", params={"offset": "-1"}, headers={"if-none-match": page.headers["etag"]})
        assert (again.status_code, again.content) == (200, RECORDS[1])
        assert again.headers["stream-next-offset"] == page.headers["stream-next-offset"]
