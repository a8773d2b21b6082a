"""Counts what goes over WebSocket connections, on its way: gateways need not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ds_sync.server.gateway import PUSH
from ds_sync.server.responses import Message, Receive, Scope, Send


class Traffic:
    """Messages, and the bytes in them, since the start."""

    def __init__(self) -> None:
        self.received = self.received_bytes = 0
        self.sent = self.sent_bytes = 0

    def watch(self, scope: Scope, receive: Receive, send: Send) -> tuple[Scope, Receive, Send]:
        """Return a connection that counts, in place of one that does not."""

        async def counted_receive() -> Message:
            message = await receive()
            if message["type"] == "websocket.receive":
                self.received += 1
                self.received_bytes += _measure(message)
            return message

        async def counted_send(message: Message) -> None:
            await send(message)
            if message["type"] == "websocket.send":
                self.sent += 1
                self.sent_bytes += _measure(message)

        extensions: dict[str, Any] = scope.get("extensions") or {}
        push: Callable[[bytes], bool] | None = extensions.get(PUSH)
        if push is None:
            return scope, counted_receive, counted_send

        def counted_push(data: bytes) -> bool:
            if not push(data):
                return False
            self.sent += 1
            self.sent_bytes += len(data)
            return True

        return {**scope, "extensions": {**extensions, PUSH: counted_push}}, counted_receive, counted_send


def _measure(message: Message) -> int:
    data: bytes | None = message.get("bytes")
    return len(message.get("text", "").encode("utf-8", "replace") if data is None else data)
