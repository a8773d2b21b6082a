"""Which gateway a connection is handed to, and what becomes of one that fails."""

import asyncio
import logging
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from ds_sync.server import gateways
from ds_sync.server.app import create_app
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.gateway import Doorway, Receive, Scope, Send

pytestmark = pytest.mark.anyio


class Parrot:
    """A gateway that accepts, and says the name it was built with."""

    def __init__(self, doorway: Doorway) -> None:
        self.closed = False

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": scope["path"]})

    def stop(self) -> None:
        return

    async def aclose(self) -> None:
        self.closed = True


async def connect(app: Any, path: str) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await asyncio.wait_for(app({"type": "websocket", "path": path, "query_string": b""}, receive, send), 5)
    return sent


async def test_the_segment_after_the_version_says_which_gateway() -> None:
    built: list[Parrot] = []

    def build(doorway: Doorway) -> Parrot:
        built.append(Parrot(doorway))
        return built[-1]

    engine = MemoryEngine()
    app = create_app(engine, gateways={"parrot": build})
    refused = [{"type": "websocket.close", "code": 1008}]
    for path in ("/v1/parrot", "/v1/parrot/a/b"):
        assert (await connect(app, path))[1] == {"type": "websocket.send", "text": path}
    for path in ("/v1/parrots/a", "/v2/parrot/a", "/parrot", "/", "/v1/"):
        assert await connect(app, path) == refused
    assert len(built) == 1
    await app.drain(1)
    assert await connect(app, "/v1/parrot/a") == refused
    await app.aclose()
    assert built[0].closed
    await engine.aclose()


async def test_each_connection_is_a_line_in_the_log_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ds_sync.access")
    engine = MemoryEngine()
    app = create_app(engine, gateways={"parrot": Parrot})
    await connect(app, "/v1/parrot/a/b")
    await connect(app, "/v1/nobody/a")
    logged = [vars(record)["fields"] for record in caplog.records if record.name == "ds_sync.access"]
    assert [(line["method"], line["path"], line["status"]) for line in logged] == [
        ("GET", "/v1/parrot/a/b", 101),
        ("GET", "/v1/nobody/a", 403),
    ]
    await app.aclose()
    await engine.aclose()


async def test_the_y_websocket_gateway_is_installed() -> None:
    assert "ws" in gateways.find_gateways()


async def test_one_that_cannot_be_imported_does_not_take_the_others_along(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    points = [
        EntryPoint("broken", "no_such_module:Gateway", gateways.GROUP),
        EntryPoint("good", "collections:OrderedDict", gateways.GROUP),
    ]
    monkeypatch.setattr(gateways, "entry_points", lambda group: EntryPoints(points).select(group=group))
    assert list(gateways.find_gateways()) == ["good"]
    assert "the gateway broken can't be loaded" in caplog.text


async def test_one_that_cannot_be_opened_fails_its_connections_and_the_end_is_quiet() -> None:
    def build(doorway: Doorway) -> Parrot:
        raise ValueError("on purpose")

    engine = MemoryEngine()
    app = create_app(engine, gateways={"parrot": build})
    with pytest.raises(ValueError, match="on purpose"):
        await connect(app, "/v1/parrot/a")
    await app.aclose()
    await engine.aclose()


async def test_conversations_are_counted_by_document_while_they_last() -> None:
    class Listener(Parrot):
        async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
            counts.append((app._gateways.count("notes", "a/b c"), app._gateways.count("notes", "a")))

    counts: list[tuple[int, int]] = []
    engine = MemoryEngine()
    app = create_app(engine, gateways={"listener": Listener})
    for path in ("/v1/listener/notes/a/b%20c", "/v1/listener//notes//a/b%20c/"):
        await connect(app, path)
    assert counts == [(1, 0), (1, 0)]
    assert app._gateways.count("notes", "a/b c") == 0
    await app.aclose()
    await engine.aclose()
