"""A map that is not Yjs syncs through replicas and a real server, found by its entry point: the port knows no Yjs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from ds_sync import Replica
from ds_sync.client.stream import StreamClient
from ds_sync.client.transport import HttpTransport
from ds_sync.exceptions import FormatMismatchError, NotFoundError
from ds_sync.protocol.framing import build_frame, parse_frames
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.replica.document import Document
from ds_sync.replica.local import Tuning
from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.anyio

TUNING = Tuning(store_retry=0.02, heal_jitter=0.02, pause=0.1, compact_after=300)
LWW = "application/json-lww"


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "installed" / "ds_sync_lww-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ds-sync-lww\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ds_sync.adapters]\nlww = lww_map:LwwMapAdapter\n")
    monkeypatch.syspath_prepend(str(info.parent))


@pytest.fixture
async def server(tmp_path: Path, anyio_backend: str) -> AsyncIterator[ServerProcess]:
    with ServerProcess(tmp_path / "server.db", long_poll_timeout=2.0) as made:
        yield made


async def synced(*documents: Document) -> None:
    async with asyncio.timeout(15):
        for document in documents:
            await document.synced()


async def stream_of(server: ServerProcess, crdt: str) -> tuple[str, list[bytes]]:
    """Return the content type and the updates of the document `shared` as the server has them."""
    async with AsyncExitStack() as stack:
        transport = HttpTransport()
        stack.push_async_callback(transport.aclose)
        client = StreamClient(f"{server.url}/v1/stream/{crdt}/default/docs/shared/.updates", transport=transport)
        data = (await client.read(BEGINNING)).data
        return (await client.head()).content_type, list(parse_frames(data).payloads)


async def test_two_replicas_of_a_map_meet_through_disconnects_and_a_dead_server(server: ServerProcess, tmp_path: Path) -> None:
    async with Replica(tmp_path / "a.db", tuning=TUNING) as one, Replica(tmp_path / "b.db", server=server.url, tuning=TUNING) as two:
        here = await one.open("shared", crdt="lww")
        there = await two.open("shared", crdt="lww")
        here.doc.set("made", "offline")
        here.doc.set("both", "one")
        there.doc.set("both", "two")
        await one.connect(server.url)
        await synced(here, there, here)
        assert here.doc.to_py() == there.doc.to_py()
        assert here.doc.to_py()["made"] == "offline"

        await one.disconnect()
        for number in range(20):
            here.doc.set(f"key{number}", number)
            there.doc.set(f"key{number + 10}", -number)
        here.doc.set("made", None)
        await one.connect()
        server.kill()
        there.doc.set("while", "it was dead")
        server.start()
        await synced(here, there, here)
        assert here.doc.to_py() == there.doc.to_py()
        assert "made" not in here.doc.to_py()
        assert here.doc.to_py()["while"] == "it was dead"
        assert {f"key{number}" for number in range(30)} <= set(here.doc.to_py())
        expected = here.doc.to_py()
        assert (here.status.unsent, here.status.sent, here.status.durable) == (0, 0, 23)

    async with Replica(tmp_path / "a.db") as again:
        assert (await again.open("shared", crdt="lww")).doc.to_py() == expected
    async with Replica(tmp_path / "c.db", server=server.url) as fresh:
        document = await fresh.open("shared", crdt="lww")
        await synced(document)
        assert document.doc.to_py() == expected
    content_type, payloads = await stream_of(server, "lww")
    assert content_type == LWW
    assert len(payloads) == len(set(payloads))
    with pytest.raises(NotFoundError):
        await stream_of(server, "yjs")


async def test_what_is_no_map_is_put_aside_and_the_map_goes_on(server: ServerProcess, tmp_path: Path) -> None:
    async with Replica(tmp_path / "a.db", server=server.url, tuning=TUNING) as replica:
        document = await replica.open("shared", crdt="lww")
        document.doc.set("before", 1)
        await synced(document)
        transport = HttpTransport()
        client = StreamClient(f"{server.url}/v1/stream/lww/default/docs/shared/.updates", transport=transport)
        await client.append(build_frame(b"not a map"), content_type=LWW)
        await client.append(build_frame(b'[["after", 9, "z", true]]'), content_type=LWW)
        await transport.aclose()
        await synced(document)
        assert document.doc.to_py() == {"after": True, "before": 1}
        assert [bad.data for bad in document.quarantined()] == [b"not a map"]


async def test_one_name_under_two_adapters_is_two_documents(server: ServerProcess, tmp_path: Path) -> None:
    async with Replica(tmp_path / "a.db", server=server.url, tuning=TUNING) as replica:
        mapped = await replica.open("shared", crdt="lww")
        plain = await replica.open("shared")
        mapped.doc.set("key", "value")
        await synced(mapped, plain)
        assert plain.doc.get_update() == b"\x00\x00"
        assert sorted(info.crdt for info in replica.documents()) == ["lww", "yjs"]


async def test_a_map_kept_in_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Replica(tmp_path / "a.db") as replica:
        (await replica.open("shared", crdt="lww")).doc.set("key", "value")
    import lww_map

    monkeypatch.setattr(lww_map.LwwMapAdapter, "format", "lww-v2")
    async with Replica(tmp_path / "a.db") as replica:
        with pytest.raises(FormatMismatchError) as caught:
            await replica.open("shared", crdt="lww")
    assert (caught.value.found, caught.value.expected) == ("lww-v1", "lww-v2")
