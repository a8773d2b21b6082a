"""Bodies that come too slowly, where the HTTP server in front lets everybody take their time: HTTP/2."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ds_sync.exceptions import InvalidRequestError
from ds_sync.server.responses import Message, Receive

MIN_RATE: Final = 1000.0
"""Bytes a second."""


class TimedBody:
    """Stands for `receive`: the body may fall behind MIN_RATE by `patience` seconds. After it, anybody may wait for the hang-up."""

    def __init__(self, receive: Receive, patience: float, monotonic: Callable[[], float]) -> None:
        self._receive = receive
        self._patience = patience
        self._monotonic = monotonic
        self._since = monotonic()
        self._complete = False

    async def __call__(self) -> Message:
        """Return the next message. Raises InvalidRequestError (408, REQUEST_TIMEOUT)."""
        if self._complete:
            return await self._receive()
        left = self._since + self._patience - self._monotonic()
        try:
            async with asyncio.timeout(left):
                message = await self._receive()
        except TimeoutError:
            raise InvalidRequestError("the body comes too slowly", status=408, code="REQUEST_TIMEOUT") from None
        self._complete = not message.get("more_body", False)
        self._since = min(self._monotonic(), self._since + len(message.get("body", b"")) / MIN_RATE)
        return message
