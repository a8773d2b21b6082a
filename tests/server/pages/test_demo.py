"""`/demo`: files of the package, for whoever asked for them."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from ds_sync.server.app import create_app
from ds_sync.server.engines.memory import MemoryEngine

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    engine = MemoryEngine()
    app = create_app(engine, demo=True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as asking:
        yield asking
    await app.aclose()
    await engine.aclose()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/demo", "text/html; charset=utf-8"),
        ("/demo/", "text/html; charset=utf-8"),
        ("/demo/demo.js", "text/javascript; charset=utf-8"),
        ("/demo/demo.css", "text/css; charset=utf-8"),
        ("/demo/licenses.txt", "text/plain; charset=utf-8"),
    ],
)
async def test_its_files(client: httpx.AsyncClient, path: str, kind: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert answer.headers["content-length"] == str(len(answer.content))
    assert "script-src 'self';" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = await client.head(path)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(answer.content)))


async def test_every_package_in_the_bundle_is_named_with_its_licence(client: httpx.AsyncClient) -> None:
    licences = (await client.get("/demo/licenses.txt")).text
    for name in ("codemirror", "@codemirror/view", "yjs", "y-websocket", "y-codemirror.next", "y-protocols", "lib0"):
        assert f"\n{name} " in licences
    named = re.findall(r"^\S+ [\d.]+ \((.+)\)$", licences, re.MULTILINE)
    assert set(named) == {"MIT"}
    assert licences.count("Permission is hereby granted") == len(named) > 15


async def test_nothing_else_is_there(client: httpx.AsyncClient) -> None:
    for path in ("/demo/x", "/demo/../inspector.py", "/demo/demo.html", "/demos"):
        assert (await client.get(path)).status_code == 404
    assert (await client.post("/demo")).status_code == 405
