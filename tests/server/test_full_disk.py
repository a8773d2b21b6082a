"""A server's disk is full: 507, nothing acknowledged is lost, what is there is read, and it goes on when there is space again."""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from ds_sync.server.app import create_app
from ds_sync.server.engines.sqlite import SqliteEngine

pytestmark = pytest.mark.anyio

BINARY = {"content-type": "application/octet-stream"}
STREAM = "/v1/stream/s"


@dataclass
class Disk:
    """A small disk, or what stands in for one where tests may not mount any."""

    folder: Path
    real: bool

    def open(self, settle_rows: int) -> SqliteEngine:
        engine = SqliteEngine(self.folder / "streams.db", settle_rows=settle_rows, recent_bytes=0)
        if not self.real:
            engine._writer.execute("PRAGMA max_page_count = 60")
        return engine

    def grow(self, engine: SqliteEngine) -> None:
        if self.real:
            subprocess.run(["mount", "-o", "remount,size=32m", str(self.folder)], check=True)
        else:
            engine._writer.execute("PRAGMA max_page_count = 1000000")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        print(f"NOT A REAL FULL DISK: mount said {mounted.stderr.decode()!r}; PRAGMA max_page_count stands in for it", file=sys.stderr)
    yield Disk(folder, not mounted.returncode)
    if not mounted.returncode:
        subprocess.run(["umount", str(folder)], check=True)


@asynccontextmanager
async def serving(engine: SqliteEngine) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(engine, page_bytes=64 * 1024 * 1024, compact_after=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        yield client
    await app.aclose()
    await engine.aclose()


async def fill(client: httpx.AsyncClient, body: Callable[[int], bytes]) -> bytes:
    """Append until there is no space for one more byte; return what was acknowledged."""
    kept = b""
    refusals = 0
    seq = number = 0
    while refusals < 20:
        data = body(number) if not refusals else b"%d," % number  # at last, as little as can be
        number += 1
        producer = {"producer-id": "p", "producer-epoch": "0", "producer-seq": str(seq)}
        answer = await client.post(STREAM, headers={**BINARY, **producer}, content=data)
        if answer.status_code == 200:
            kept += data
            seq += 1
        else:
            assert (answer.status_code, answer.json()["error"]["code"]) == (507, "STORAGE_FULL")
            assert int(answer.headers["retry-after"]) > 0
            refusals += 1
        assert number < 3000
    return kept


@pytest.mark.parametrize("settle_rows", [3, 10_000])
@pytest.mark.parametrize("size", [100, 4000, 90_000])
async def test_what_was_acknowledged_stays_and_appends_go_on_when_there_is_space(
    disk: Disk, tmp_path: Path, size: int, settle_rows: int
) -> None:
    engine = disk.open(settle_rows)
    async with serving(engine) as client:
        await client.put(STREAM, headers=BINARY)
        if size == 100:  # a disk that is all but full at once: small appends would take long to fill it
            (disk.folder / "filler").write_bytes(bytes(1_500_000))
        kept = await fill(client, lambda number: b"%06d" % number + bytes((number % 256,)) * size)
        assert len(kept) > size
        assert (await client.put("/v1/stream/new", headers=BINARY)).status_code in (201, 507)
        assert (await client.get("/health")).status_code == 200
        answer = await client.get(STREAM)
        assert answer.content == kept
        tail = answer.headers["stream-next-offset"]
        # What a SIGKILL would leave behind is what another server opens, on a disk with space.
        copy = tmp_path / "copy"
        copy.mkdir()
        for file in disk.folder.glob("streams.db*"):
            if not file.name.endswith(("-owner", "-shm")):
                shutil.copy(file, copy)
        async with serving(SqliteEngine(copy / "streams.db")) as other:
            found = await other.get(STREAM)
            assert (found.content, found.headers["stream-next-offset"]) == (kept, tail)
        disk.grow(engine)
        producer = {"producer-id": "after", "producer-epoch": "0", "producer-seq": "0"}
        assert (await client.post(STREAM, headers={**BINARY, **producer}, content=b"space")).status_code == 200
        assert (await client.get(STREAM, params={"offset": tail})).content == b"space"
        assert (await client.put("/v1/stream/newer", headers=BINARY)).status_code == 201
    engine = SqliteEngine(disk.folder / "streams.db")
    async with serving(engine) as client:
        assert (await client.get(STREAM)).content == kept + b"space"


async def test_a_server_that_is_started_on_a_full_disk_lets_everybody_read(disk: Disk) -> None:
    engine = disk.open(10_000)
    async with serving(engine) as client:
        await client.put(STREAM, headers=BINARY)
        kept = await fill(client, lambda number: b"%06d" % number + b"x" * 50_000)
    if disk.real:
        # SQLite shares 32 kB between connections, and needs them to open the file.
        (disk.folder / "room").write_bytes(bytes(max(0, free(disk.folder) - 200_000)))
        (disk.folder / "rest").write_bytes(bytes(max(0, free(disk.folder) - 120_000)))
    engine = disk.open(10_000)
    async with serving(engine) as client:
        assert (await client.get(STREAM)).content == kept
        assert await find_refusal(client) == 507
        assert (await client.get(STREAM)).content.startswith(kept)


def free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


async def find_refusal(client: httpx.AsyncClient) -> int:
    """Append large bodies until one is refused; return the status it got."""
    for _ in range(50):
        answer = await client.post(STREAM, headers=BINARY, content=b"y" * 100_000)
        if answer.status_code != 204:
            return answer.status_code
    return 204
