"""How long presence is there, in seconds of a clock that the test turns."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ds_sync.client.transport import Response
from ds_sync.environment import Environment
from ds_sync.server.app import create_app
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.testing.asgi_transport import AsgiTransport

pytestmark = pytest.mark.anyio

DOC = "http://example.org/v1/yjs/notes/docs/a"
PRESENCE = f"{DOC}?awareness=cursors"


class Asker:
    """A server whose clocks stand still, and requests to it."""

    def __init__(self) -> None:
        self.seconds = 1_000.0
        self._engine = MemoryEngine()
        environment = Environment(monotonic=lambda: self.seconds, now=lambda: 1.8e9 + self.seconds)
        self._app = create_app(self._engine, environment=environment, compact_after=None, sse_seconds=0.0)
        self._transport = AsgiTransport(self._app)

    async def __call__(self, method: str, url: str, body: bytes = b"") -> Response:
        return await self._transport.request(method, url, headers={}, body=body, timeout=5)

    async def aclose(self) -> None:
        await self._app.aclose()
        await self._transport.aclose()
        await self._engine.aclose()


@pytest.fixture
async def ask() -> AsyncIterator[Asker]:
    asker = Asker()
    await asker("PUT", DOC)
    yield asker
    await asker.aclose()


async def test_what_was_said_is_served_for_24_seconds(ask: Asker) -> None:
    """Also to who asked before: nothing was written since, and the offsets are the same."""
    await ask("POST", PRESENCE, b"one,")
    await ask("POST", PRESENCE, b"two,")
    ask.seconds += 12
    await ask("POST", PRESENCE, b"three")
    for live, both, last in (("", b"one,two,three", b"three"), ("&live=sse", b"b25lLHR3byx0aHJlZQ==", b"dGhyZWU=")):
        began = ask.seconds
        for _ in range(2):
            assert both in (await ask("GET", f"{PRESENCE}&offset=-1{live}")).body
        ask.seconds = began + 11.9
        assert both in (await ask("GET", f"{PRESENCE}&offset=-1{live}")).body
        ask.seconds = began + 12
        found = (await ask("GET", f"{PRESENCE}&offset=-1{live}")).body
        assert last in found
        assert both not in found
        ask.seconds = began + 24
        assert last not in (await ask("GET", f"{PRESENCE}&offset=-1{live}")).body
        await ask("POST", PRESENCE, b"one,")
        await ask("POST", PRESENCE, b"two,")
        ask.seconds += 12
        await ask("POST", PRESENCE, b"three")


async def test_a_stream_of_presence_is_gone_an_hour_after_its_last_word(ask: Asker) -> None:
    assert (await ask("PUT", PRESENCE)).status == 201
    ask.seconds += 3_000
    assert (await ask("POST", PRESENCE, b"here")).status == 204
    ask.seconds += 3_599
    assert (await ask("HEAD", PRESENCE)).status == 200
    ask.seconds += 1
    assert (await ask("HEAD", PRESENCE)).status == 404
    assert (await ask("PUT", PRESENCE)).status == 201
