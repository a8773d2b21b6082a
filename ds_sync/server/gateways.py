"""WebSocket connections are handed to the gateway that is mounted at their path."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Final
from urllib.parse import unquote_to_bytes

from ds_sync.server.gateway import Doorway, Gateway, OpenGateway
from ds_sync.server.operation.logs import access, log_request
from ds_sync.server.responses import Message, Receive, Scope, Send
from ds_sync.server.streams import raw_path
from ds_sync.server.traffic import Traffic

GROUP: Final = "ds_sync.gateways"

POLICY_VIOLATION: Final = 1008

log = logging.getLogger(__name__)


def find_gateways() -> dict[str, OpenGateway]:
    """Return the installed gateways by the name they are served under. Imports them; one that can't be is left out and logged."""
    found: dict[str, OpenGateway] = {}
    for point in entry_points(group=GROUP):
        try:
            found[point.name] = point.load()
        except Exception:  # whoever wrote it: the others are served
            log.exception("the gateway %s can't be loaded", point.name)
    return found


class Gateways:
    """The gateways of one application, opened at the first connection."""

    def __init__(self, doorway: Doorway, offered: Mapping[str, OpenGateway] | None) -> None:
        self._doorway = doorway
        self._offered = offered
        """None: those that are installed."""
        self._opening: asyncio.Task[dict[str, Gateway]] | None = None
        self._stopping = False
        self._talking: Counter[str] = Counter()
        """Conversations under way, by service and path."""
        self.traffic = Traffic()
        """Of all conversations."""

    @property
    def conversations(self) -> int:
        """How many are under way."""
        return self._talking.total()

    @property
    def topics(self) -> int:
        """How many documents they are about: rooms with somebody in them."""
        return len(self._talking)

    def count(self, service: str, path: str) -> int:
        """Return how many clients talk about the document."""
        return self._talking[f"{service}/{path}"]

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; one that no gateway wants is refused."""
        if not access.isEnabledFor(logging.INFO):
            await self._serve(scope, receive, send)
            return
        began, status = self._doorway.environment.monotonic(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if not status:
                status = 101 if message["type"] == "websocket.accept" else 403
            await send(message)

        try:
            await self._serve(scope, receive, watched)
        finally:
            log_request({**scope, "method": "GET"}, status, 0, self._doorway.environment.monotonic() - began)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        version, _, rest = raw_path(scope).removeprefix(b"/").partition(b"/")
        name = rest.partition(b"/")[0].decode("latin-1")
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
        gateway = (await asyncio.shield(self._opening)).get(name)
        if version != b"v1" or gateway is None or self._stopping:
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        topic = _topic(rest)
        self._talking[topic] += 1
        try:
            await gateway.serve(*self.traffic.watch(scope, receive, send))
        finally:
            self._talking[topic] -= 1
            if not self._talking[topic]:
                del self._talking[topic]

    def stop(self) -> None:
        """End all conversations soon."""
        self._stopping = True
        for gateway in self._opened():
            gateway.stop()

    async def aclose(self) -> None:
        """End all conversations."""
        self.stop()
        if self._opening is not None:
            await asyncio.wait((self._opening,))
        for gateway in self._opened():
            await gateway.aclose()
        self._doorway.close()

    async def _open(self) -> dict[str, Gateway]:
        offered = self._offered
        if offered is None:  # in a thread: importing a CRDT library would hold everybody up
            offered = await self._doorway.environment.run_in_thread(find_gateways)
        return {name: build(self._doorway) for name, build in offered.items()}

    def _opened(self) -> list[Gateway]:
        if self._opening is None or not self._opening.done() or self._opening.exception() is not None:
            return []
        return list(self._opening.result().values())


def _topic(rest: bytes) -> str:
    """Return service and path, spelled as a `DocumentName` spells them, of what follows `/v1/`."""
    decoded = unquote_to_bytes(rest.partition(b"/")[2]).decode("utf-8", "replace")
    return "/".join(segment for segment in decoded.split("/") if segment)
