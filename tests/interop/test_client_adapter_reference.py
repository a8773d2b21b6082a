"""The adapter on the official reference server, as the official suite drives it; with that server's own injected faults, too."""

import asyncio
import json
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ds_sync import StreamClient
from ds_sync.cli.ports import pick_port
from ds_sync.exceptions import NotFoundError
from ds_sync.testing.client_adapter.cases import run_case
from ds_sync.testing.client_adapter.dialogues import DIALOGUES
from ds_sync.testing.client_adapter.driver import AdapterProcess
from ds_sync.testing.client_adapter.proxy import FaultyProxy

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def reference(node: str) -> Iterator[str]:
    """The URL of the reference server."""
    port = pick_port()
    command = [node, "reference-server.mjs", str(port), "", "500"]
    process = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        # Its own messages come on standard output, too.
        yield next(line.strip() for line in process.stdout if line.startswith("http://"))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def proxy(reference: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(reference) as faulty:
        yield faulty


@pytest.fixture(scope="module")
def adapter() -> Iterator[AdapterProcess]:
    with AdapterProcess() as process:
        yield process


@pytest.mark.parametrize("name", DIALOGUES)
def test_dialogues(name: str, adapter: AdapterProcess, proxy: FaultyProxy, reference: str) -> None:
    run_case(DIALOGUES[name], adapter, proxy, reference, "")


def inject(reference: str, path: str, fault: Mapping[str, Any]) -> None:
    body = json.dumps({"path": path, "count": 1, **fault}).encode()
    request = urllib.request.Request(f"{reference}/_test/inject-error", data=body, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


DATA = {"success": True, "status": 200, "data": "[1]"}
BROKEN = {"success": False, "errorCode": "PARSE_ERROR"}


@pytest.mark.parametrize(
    ("fault", "command", "expected"),
    [
        ({"status": 500, "count": 2}, {}, DATA),
        ({"status": 503}, {}, DATA),
        ({"status": 429, "retryAfter": 1}, {}, DATA),
        ({"status": 400}, {}, {"success": False, "status": 400, "errorCode": "INVALID_OFFSET"}),
        ({"dropConnection": True, "count": 2}, {}, DATA),
        ({"delayMs": 300, "jitterMs": 300}, {}, DATA),
        ({"delayMs": 200, "status": 503}, {}, DATA),
        ({"corruptBody": True}, {}, BROKEN),
        ({"truncateBodyBytes": 2}, {}, BROKEN),
        ({"injectSseEvent": {"eventType": "future", "data": "x"}}, {"live": "sse", "maxChunks": 1}, DATA),
        ({"injectSseEvent": {"eventType": "control", "data": "{broken"}}, {"live": "sse", "maxChunks": 1}, BROKEN),
        ({"injectSseEvent": {"eventType": "control", "data": ""}}, {"live": "sse", "maxChunks": 1}, BROKEN),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_faults_that_the_reference_server_injects(
    fault: dict[str, Any], command: dict[str, Any], expected: dict[str, Any], adapter: AdapterProcess, reference: str
) -> None:
    path = f"/injected-{uuid.uuid4()}"
    assert adapter.ask("init", serverUrl=reference)["success"]
    assert adapter.ask("create", path=path, contentType="application/json")["status"] == 201
    assert adapter.ask("append", path=path, data="1")["success"]
    inject(reference, path, fault)
    answer = adapter.ask("read", path=path, **command)
    answer["data"] = "".join(chunk["data"] for chunk in answer.get("chunks", ()))
    assert {name: answer.get(name) for name in expected} == expected
    with urllib.request.urlopen(urllib.request.Request(f"{reference}/_test/inject-error", method="DELETE"), timeout=10):
        assert adapter.ask("read", path=path)["chunks"][0]["data"] == "[1]"


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 503, "method": "POST"}, {"dropConnection": True}])
def test_an_append_that_meets_a_fault_stands_there_once(fault: dict[str, Any], adapter: AdapterProcess, reference: str) -> None:
    path = f"/injected-{uuid.uuid4()}"
    assert adapter.ask("init", serverUrl=reference)["success"]
    assert adapter.ask("create", path=path, contentType="text/plain")["status"] == 201
    inject(reference, path, fault)
    assert adapter.ask("append", path=path, data="once")["status"] == 200
    assert adapter.ask("read", path=path)["chunks"][0]["data"] == "once"


@pytest.mark.anyio
async def test_the_client_forks(reference: str) -> None:
    async with StreamClient(f"{reference}/source-{uuid.uuid4()}") as source, StreamClient(f"{reference}/fork-{uuid.uuid4()}") as fork:
        await source.create(content_type="text/plain")
        first = await source.append(b"one")
        await source.append(b"two")
        assert first.tail is not None
        assert (await fork.fork(source.url.removeprefix(reference), offset=first.tail, sub_offset=1)).created
        await fork.append(b"!")
        assert [text async for text in fork.follow(live=False).text()] == ["onet!"]
    async with StreamClient(f"{reference}/other") as other:
        with pytest.raises(NotFoundError):
            await other.fork("/nowhere")


@pytest.mark.anyio
async def test_the_producer_on_the_reference_server(reference: str) -> None:
    async with StreamClient(f"{reference}/produced-{uuid.uuid4()}") as stream:
        await stream.create(content_type="application/json")
        async with stream.producer("p", max_batch_items=5, max_in_flight=8) as producer:
            for number in range(300):
                await producer.append_json(number)
        async with stream.producer("p") as again:
            await again.append_json("again")
            await again.close('"end"')
        async with asyncio.timeout(10):
            assert [message async for message in stream.follow().json()] == [*range(300), "again", "end"]
