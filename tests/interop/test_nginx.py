"""nginx with a cache before the server, as examples/proxies/nginx.conf sets it up."""

import asyncio
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from pycrdt import Text

from ds_sync import Replica
from ds_sync.cli.ports import pick_port
from ds_sync.testing.server_process import ServerProcess
from tests.interop.silence import see_her_go

pytestmark = [pytest.mark.anyio, pytest.mark.nginx]

EXAMPLE = Path(__file__).parents[2] / "examples" / "proxies" / "nginx.conf"
TEXT = {"content-type": "text/plain"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server.db", long_poll_timeout=5) as process:
        yield process


@pytest.fixture
def proxy(server: ServerProcess, tmp_path: Path) -> Iterator[str]:
    """The example, with other addresses; nothing else in it is changed."""
    program = shutil.which("nginx")
    assert program is not None, "nginx is not installed; deselect with -m 'not nginx'"
    port = pick_port()
    site = EXAMPLE.read_text()
    for wanted, ours in (
        ("/var/cache/nginx/ds-sync", str(tmp_path / "cache")),
        ("127.0.0.1:4437", f"127.0.0.1:{server.port}"),
        ("listen 80;", f"listen 127.0.0.1:{port};"),
    ):
        assert site.count(wanted) == 1
        site = site.replace(wanted, ours)
    folders = " ".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    log = f"log_format mine '$request_method $request_uri $status $upstream_cache_status'; access_log {tmp_path}/access.log mine;"
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log; worker_processes 1; user root;"
        f"events {{ worker_connections 2048; }} http {{ {folders} {log} {site} }}"
    )
    process = subprocess.Popen([program, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)])
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (tmp_path / "error.log").read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
async def http(proxy: str) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=proxy, timeout=30, limits=limits) as client:
        yield client


async def fill(http: httpx.AsyncClient, stream: str, *bodies: bytes) -> list[str]:
    """Make a stream; return the offset after each body."""
    assert (await http.put(stream, headers=TEXT)).status_code == 201
    return [(await http.post(stream, content=body, headers=TEXT)).headers["stream-next-offset"] for body in bodies]


async def test_rooms_pass_and_who_is_gone_without_a_word_is_not_present_any_more(proxy: str) -> None:
    """nginx acknowledges for a client that has gone: only an answer to a ping tells."""
    assert await see_her_go(f"{proxy.replace('http', 'ws', 1)}/v1/ws/notes/room") < 8


async def test_pages_of_history_come_from_the_cache(http: httpx.AsyncClient, server: ServerProcess) -> None:
    stream = "/v1/stream/history"
    offsets = await fill(http, stream, b"a" * 600_000, b"b" * 600_000, b"c" * 600_000, b"d" * 600_000)
    url = f"{stream}?offset={offsets[0]}"
    first, second = await http.get(url), await http.get(url)
    assert [answer.headers["x-cache"] for answer in (first, second)] == ["MISS", "HIT"]
    assert first.content == second.content == b"b" * 600_000
    assert second.headers["stream-next-offset"] == offsets[1]
    tail = [(await http.get(f"{stream}?offset={offsets[-1]}")).headers["x-cache"] for _ in range(2)]
    assert "HIT" not in tail, "the tail may grow at any time"
    await http.post(stream, content=b"news", headers=TEXT)
    assert (await http.get(f"{stream}?offset={offsets[-1]}")).content == b"news"


async def test_two_hundred_long_polls_are_one_request(http: httpx.AsyncClient, server: ServerProcess, tmp_path: Path) -> None:
    stream = "/v1/stream/crowd"
    (offset,) = await fill(http, stream, b"before")
    url = f"{stream}?offset={offset}&live=long-poll&cursor=1"
    waiting = [asyncio.ensure_future(http.get(url)) for _ in range(200)]
    await asyncio.sleep(1.0)
    await http.post(stream, content=b"after", headers=TEXT)
    answers = await asyncio.gather(*waiting)
    assert {(answer.status_code, answer.content) for answer in answers} == {(200, b"after")}
    states = [answer.headers["x-cache"] for answer in answers]
    assert states.count("MISS") == 1, states
    assert states.count("HIT") == 199
    late = await http.get(url)
    assert (late.content, late.headers["x-cache"]) == (b"after", "HIT")


async def test_events_are_not_held_back(http: httpx.AsyncClient) -> None:
    stream = "/v1/stream/events"
    (offset,) = await fill(http, stream, b"before")
    async with http.stream("GET", f"{stream}?offset={offset}&live=sse") as answer:
        lines = answer.aiter_lines()
        async with asyncio.timeout(3):
            async for line in lines:
                if line.startswith("data:{"):
                    break
        sent = time.monotonic()
        await http.post(stream, content=b"news", headers=TEXT)
        async with asyncio.timeout(3):
            async for line in lines:
                if line == "data:news":
                    break
        assert time.monotonic() - sent < 2


async def test_a_stream_that_is_made_anew_is_never_answered_from_the_old_one(http: httpx.AsyncClient) -> None:
    stream = "/v1/stream/again"
    old = await fill(http, stream, b"o" * 700_000, b"p" * 700_000, b"q" * 700_000)
    middle = f"{stream}?offset={old[0]}"
    kept = await http.get(middle)
    seconds = re.search(r"max-age=(\d+)", kept.headers["cache-control"])
    assert seconds is not None
    assert int(seconds[1]) <= 60, "how long an old page may still be seen by who asks for the old place"
    assert "stale" not in kept.headers["cache-control"], "nginx obeys that, and answers with old pages for longer"
    assert (await http.delete(stream)).status_code == 204
    new = await fill(http, stream, b"n" * 700_000, b"m" * 700_000, b"l" * 700_000)
    assert not set(old) & set(new), "no place of the new one has an old one's name"
    whole = await http.get(f"{stream}?offset=-1")
    assert whole.content == b"n" * 700_000
    assert (await http.get(f"{stream}?offset={new[0]}")).content == b"m" * 700_000
    assert (await http.get(f"{stream}?offset={old[1]}")).status_code == 410, "what was not kept is known to be gone"


async def test_replicas_sync_through_it(proxy: str, tmp_path: Path) -> None:
    async with Replica(tmp_path / "one.db", server=proxy) as one, Replica(tmp_path / "two.db", server=proxy) as two:
        here, there = await one.open("notes"), await two.open("notes")
        for number in range(5):
            here.doc.get("body", type=Text).insert(0, f"{number} ")
            await asyncio.wait_for(here.synced(), 10)
            await asyncio.wait_for(there.synced(), 10)
        assert str(there.doc.get("body", type=Text)) == "4 3 2 1 0 "


async def test_what_is_for_who_runs_the_server_is_not_passed_on(server: ServerProcess, proxy: str) -> None:
    async with httpx.AsyncClient() as client:
        for path in ("/inspect", "/inspect/documents", "//inspect/streams", "/%69nspect", "/x/../inspect", "/metrics"):
            asked = httpx.Request("GET", proxy, headers={"host": "127.0.0.1"})
            asked.url = asked.url.copy_with(raw_path=path.encode())
            assert (await client.send(asked)).status_code == 404, path
        assert (await client.get(f"{server.url}/inspect/documents")).status_code == 200
        told = {"host": "127.0.0.1", "x-forwarded-proto": "http"}  # what the example's proxy says, should it pass this on
        assert (await client.get(f"{server.url}/inspect/documents", headers=told)).status_code == 403
