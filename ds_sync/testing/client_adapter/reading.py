"""The suite's `read`: follow until it has enough, and say what came."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from ds_sync.client.stream import Interruption, StreamClient
from ds_sync.client.transport import Response, StreamingResponse, Transport
from ds_sync.client.views import parse_messages
from ds_sync.exceptions import DsSyncError, ProtocolError
from ds_sync.protocol.headers import media_type
from ds_sync.protocol.json_mode import JSON_MEDIA_TYPE
from ds_sync.protocol.messages import Page
from ds_sync.protocol.offsets import BEGINNING, Offset
from ds_sync.protocol.tail import Live

MAX_INTERRUPTIONS: Final = 5
"""In a row: then the command fails. A program that follows a stream goes on for ever; the suite's commands have 30 seconds."""

MAX_SECONDS: Final = 25.0
"""A read that may take longer ends after this long, with what has come."""

_STRING_OR_SPACE: Final = re.compile(rb'("(?:[^"\\]|\\.)*")|[ \t\r\n]+')


class Watched:
    """A transport that remembers the status of the first answer that was not an error."""

    def __init__(self, transport: Transport) -> None:
        self.status: int | None = None
        self._transport = transport

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", timeout: float | None) -> Response:
        response = await self._transport.request(method, url, headers=headers, body=body, timeout=timeout)
        self._see(response.status)
        return response

    def stream(
        self, method: str, url: str, *, headers: Mapping[str, str], timeout: float | None
    ) -> AbstractAsyncContextManager[StreamingResponse]:
        @asynccontextmanager
        async def watched() -> AsyncIterator[StreamingResponse]:
            async with self._transport.stream(method, url, headers=headers, timeout=timeout) as response:
                self._see(response.status)
                yield response

        return watched()

    async def aclose(self) -> None:
        """Nothing: the transport inside is somebody else's."""

    def _see(self, status: int) -> None:
        if self.status is None and 200 <= status < 300:
            self.status = status


async def read(client: StreamClient, watched: Watched, command: Mapping[str, Any], content_type: str) -> dict[str, Any]:
    """Carry out a `read`. Raises what no repetition changes, ProtocolError for the first damaged answer, and the error that repeats."""
    live: Live = {"long-poll": "long-poll", "sse": "sse", "auto": "auto", True: "auto"}.get(command.get("live") or "", False)  # type: ignore[assignment]
    offset = Offset(str(command.get("offset") or BEGINNING))
    reading = _Reading(command, offset, json=media_type(content_type) == JSON_MEDIA_TYPE)
    # A mode that is named begins at once: what the suite injects is meant for the live answer.
    async with client.follow(offset, live=live, catch_up=live in ("auto", False)) as follower:
        try:
            async with asyncio.timeout(_seconds(command)):
                async for item in follower:
                    if reading.receive_item(item):
                        break
        except TimeoutError:
            reading.receive_timeout()
    return {
        "type": "read",
        "success": True,
        "status": watched.status or 200,
        "chunks": reading.chunks,
        "offset": reading.offset,
        "upToDate": reading.up_to_date,
        "streamClosed": reading.closed,
    }


def _seconds(command: Mapping[str, Any]) -> float:
    seconds = float(command.get("timeoutMs", 5000)) / 1000
    return seconds if 0 <= seconds <= MAX_SECONDS else MAX_SECONDS


class _Reading:
    """What came so far, and whether it is enough."""

    def __init__(self, command: Mapping[str, Any], offset: Offset, *, json: bool) -> None:
        self.chunks: list[dict[str, Any]] = []
        self.offset = offset
        self.up_to_date = False
        self.closed = False
        self._max_chunks = int(command.get("maxChunks", 100))
        self._until_tail = bool(command.get("waitForUpToDate"))
        self._json = json
        self._answered = False
        self._interruptions = 0
        self._error: DsSyncError | None = None

    def receive_item(self, item: Page | Interruption) -> bool:
        """Take what came; return whether it is enough."""
        if isinstance(item, Interruption):
            self._interruptions += 1
            self._error = item.error
            if isinstance(item.error, ProtocolError) or self._interruptions >= MAX_INTERRUPTIONS:
                raise item.error
            return False
        self._interruptions, self._answered = 0, True
        data = _compact(item.data) if self._json else item.data
        if data:
            self.chunks.append({"data": data.decode(errors="replace"), "offset": item.next_offset})
        self.offset, self.up_to_date, self.closed = item.next_offset, item.up_to_date, item.closed
        return len(self.chunks) >= self._max_chunks or (self._until_tail and item.up_to_date)

    def receive_timeout(self) -> None:
        """The time is over: with an answer, or with nothing but waiting, that is being caught up."""
        if not self._answered and self._error is not None:
            raise self._error
        self.up_to_date = True


def _compact(page: bytes) -> bytes:
    """Return a page of JSON without the spaces between its parts, numbers and strings as they are; b"" for one without messages."""
    return _STRING_OR_SPACE.sub(rb"\1", page) if parse_messages(page) else b""
