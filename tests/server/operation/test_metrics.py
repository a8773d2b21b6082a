"""`/metrics`: what it says is what happened."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from ds_sync.protocol import subscription as machine
from ds_sync.server.app import Application, create_app
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.operation.metrics import METHODS
from ds_sync.testing.server_process import ServerProcess
from tests.server.conftest import Receiver, build_answer, build_service

pytestmark = pytest.mark.anyio

TEXT = {"content-type": "text/plain"}


def read_samples(text: str) -> dict[str, float]:
    """Every sample by its name and labels, as they are spelled."""
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


@pytest.fixture
async def app(anyio_backend: str) -> AsyncIterator[Application]:
    made = create_app(MemoryEngine(), long_poll_timeout=0.05)
    yield made
    await made.aclose()


@pytest.fixture
async def client(app: Application) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as asking:
        yield asking


async def scrape(client: httpx.AsyncClient) -> dict[str, float]:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return read_samples(answer.text)


async def test_requests_are_counted_by_method_and_status(client: httpx.AsyncClient) -> None:
    await client.put("/v1/stream/a", headers=TEXT)
    for _ in range(3):
        await client.post("/v1/stream/a", headers=TEXT, content=b"12345")
    await client.get("/v1/stream/a")
    await client.get("/v1/stream/none")
    await client.request("BREW", "/v1/stream/a")
    await client.request("STEAL", "/v1/stream/a")
    await client.options("/v1/stream/a")
    found = await scrape(client)
    assert found['ds_sync_requests_total{method="PUT",status="201"}'] == 1
    assert found['ds_sync_requests_total{method="POST",status="204"}'] == 3
    assert found['ds_sync_requests_total{method="GET",status="200"}'] == 1
    assert found['ds_sync_requests_total{method="GET",status="404"}'] == 1
    assert found['ds_sync_requests_total{method="other",status="405"}'] == 2
    assert found['ds_sync_requests_total{method="OPTIONS",status="204"}'] == 1
    assert found['ds_sync_request_seconds_count{method="POST"}'] == 3
    assert found['ds_sync_request_seconds_bucket{le="+Inf",method="POST"}'] == 3
    assert 0 < found['ds_sync_request_seconds_sum{method="POST"}'] < 3
    assert found["ds_sync_sent_bytes_total"] >= 15
    assert found["ds_sync_requests_under_way"] == 1  # this one
    assert found['ds_sync_info{durable="false",version="0.1.0"}'] == 1
    assert (await scrape(client))['ds_sync_requests_total{method="GET",status="200"}'] == 2


async def test_streams_are_counted_and_live_readers_are_not_slow_requests(client: httpx.AsyncClient) -> None:
    for path in ("a", "b"):
        await client.put(f"/v1/stream/{path}", headers=TEXT)
    await client.delete("/v1/stream/a")
    await client.get("/v1/stream/b", params={"offset": "now", "live": "long-poll"})
    found = await scrape(client)
    assert found["ds_sync_streams"] == 1
    assert found["ds_sync_live_readers"] == 0
    assert found['ds_sync_requests_total{method="GET",status="204"}'] == 1
    assert 'ds_sync_request_seconds_count{method="GET"}' not in found


async def test_nobody_makes_up_labels(app: Application, client: httpx.AsyncClient) -> None:
    for number in range(50):
        await client.request(f"M{number}", f"/v1/stream/{number}")
    assert {method for method, _ in app.metrics.answers} <= METHODS | {"other"}
    assert len(app.metrics.answers) == 1


async def test_head_and_other_methods(client: httpx.AsyncClient) -> None:
    assert (await client.head("/metrics")).content == b""
    assert (await client.post("/metrics")).status_code == 404


async def test_websockets_are_counted_while_they_are_open_and_their_messages_for_ever() -> None:
    with ServerProcess() as server:
        url = f"{server.url.replace('http', 'ws', 1)}/v1/ws/default"

        async def look() -> dict[str, float]:
            async with httpx.AsyncClient(base_url=server.url) as asking:
                return await scrape(asking)

        assert (await look())["ds_sync_websockets"] == 0
        async with connect(f"{url}/a") as one, connect(f"{url}/a"), connect(f"{url}/b"):
            step_1 = bytes(await one.recv())  # type: ignore[arg-type]  # no text frames here
            await one.send(step_1)
            answer = bytes(await one.recv())  # type: ignore[arg-type]
            found = await look()
            assert (found["ds_sync_websockets"], found["ds_sync_websocket_rooms"]) == (3, 2)
            assert found['ds_sync_websocket_messages_total{direction="in"}'] == 1
            assert found['ds_sync_websocket_bytes_total{direction="in"}'] == len(step_1)
            assert found['ds_sync_websocket_messages_total{direction="out"}'] >= 2
            assert found['ds_sync_websocket_bytes_total{direction="out"}'] >= len(step_1) + len(answer)
        for _ in range(500):
            found = await look()
            if not found["ds_sync_websockets"]:
                break
            await asyncio.sleep(0.01)
        assert (found["ds_sync_websockets"], found["ds_sync_websocket_rooms"]) == (0, 0)
        assert found['ds_sync_websocket_messages_total{direction="in"}'] == 1


async def test_subscriptions_their_wakes_and_what_came_of_webhooks(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "FIRST_PAUSE", 1000.0)  # the webhook is not repeated while we look
    service = build_service(MemoryEngine())

    async def look() -> dict[str, float]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://x") as asking:
            return await scrape(asking)

    def deliveries(found: dict[str, float]) -> dict[str, float]:
        outcomes = ("finished", "accepted", "refused", "cut", "silent")
        counts = {outcome: found[f'ds_sync_webhook_deliveries_total{{outcome="{outcome}"}}'] for outcome in outcomes}
        return {outcome: count for outcome, count in counts.items() if count}

    try:
        assert deliveries(await look()) == {}
        await service.subscribe("pull", type="pull-wake", pattern="a/*", wake_stream="wakes")
        await service.subscribe("hook", type="webhook", pattern="b/*", webhook={"url": receiver.url})
        receiver.answer = build_answer("503 Later")
        await service.append("a/1")
        await service.append("b/1")
        await receiver.wait()
        for _ in range(500):
            found = await look()
            if deliveries(found) and found['ds_sync_subscriptions{status="failed"}']:
                break
            await asyncio.sleep(0.01)
        assert deliveries(found) == {"refused": 1}
        assert [found[f'ds_sync_subscriptions{{status="{status}"}}'] for status in ("active", "failed", "damaged")] == [1, 1, 0]
        assert found['ds_sync_wakes{phase="offered"}'] == 2  # the webhook's, to be repeated
        assert (await service.ask("POST", "__ds/subscriptions/pull/claim", {"worker": "w"}))[0] == 200
        found = await look()
        assert [found[f'ds_sync_wakes{{phase="{phase}"}}'] for phase in ("offered", "sent", "leased")] == [1, 0, 1]
    finally:
        await service.aclose()


def test_a_server_tells_of_its_connections_its_files_and_its_process(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "streams.db") as server, httpx.Client(base_url=server.url) as client:
        client.put("/v1/stream/a", headers=TEXT)
        client.post("/v1/stream/a", headers=TEXT, content=b"x" * 100_000)
        found = read_samples(client.get("/metrics").text)
    assert found["ds_sync_connections"] == 1
    assert found['ds_sync_file_bytes{file="data"}'] >= 4096
    assert found['ds_sync_file_bytes{file="wal"}'] > 100_000
    assert found["ds_sync_disk_free_bytes"] > 0
    assert found["process_resident_memory_bytes"] > 1_000_000


def test_what_the_how_to_watches_exists(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "watch-a-server.md").read_text("utf-8")
    named = set(re.findall(r"\b(?:ds_sync|process)_[a-z_]+", page)) - {"ds_sync_"}
    with ServerProcess(tmp_path / "streams.db") as server, httpx.Client(base_url=server.url) as client:
        client.put("/v1/stream/a", headers=TEXT)
        client.get("/v1/stream/a")
        client.get("/v1/stream/" + "a" * 40_000)
        text = client.get("/metrics").text
    known = {re.split(r"[{ ]", line.removeprefix("# TYPE "))[0] for line in text.splitlines() if not line.startswith("# HELP ")}
    assert len(named) > 8
    assert named <= known
