"""What is followed, as what the reader wants: pages, bytes, text, or the messages of a JSON stream.

The offset to begin at next time moves only when the reader comes back for more: what was handed out and not dealt with is read again.
"""

from __future__ import annotations

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Self

from ds_sync.exceptions import DsSyncError, ProtocolError
from ds_sync.protocol.messages import Page
from ds_sync.protocol.offsets import Offset


@dataclass(frozen=True, slots=True)
class Interruption:
    """The connection was lost; iteration goes on."""

    error: DsSyncError
    retry_in: float
    """Seconds."""


OnInterruption = Callable[[Interruption], object]


class Views(ABC):
    """An async iterator over Pages and Interruptions, and other ways to iterate over the same: use one of them.

    Those others end the reading when their loop is left.
    """

    def __init__(self, offset: Offset) -> None:
        self.offset = offset
        """Where to begin next time: behind the last page of which everything was taken. It moves when the next thing is asked for."""
        self._taken = offset

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Page | Interruption:
        self.offset = self._taken
        item = await self._next_item()
        if isinstance(item, Page):
            self._taken = item.next_offset
        return item

    @abstractmethod
    async def aclose(self) -> None:
        """Stop, and end the iteration."""

    @abstractmethod
    async def _next_item(self) -> Page | Interruption:
        """Return the next one. Raises StopAsyncIteration at the end."""

    @abstractmethod
    def _allow_pieces(self) -> None:
        """From now on a page may come in pieces: pages that say the offset before them, and at last the one that says the offset after."""

    async def pages(self, *, interrupted: OnInterruption | None = None) -> AsyncIterator[Page]:
        """Yield the pages alone; `interrupted` is called with what came between."""
        try:
            async for item in self:
                if isinstance(item, Page):
                    yield item
                elif interrupted is not None:
                    interrupted(item)
        finally:  # whoever leaves the loop has no other handle on what runs
            await self.aclose()

    async def chunks(self, *, interrupted: OnInterruption | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes as they come: joined together they are the stream. Where a chunk ends means nothing.

        A page is never held in memory as a whole, however large the server makes it (but for a JSON stream's).
        """
        self._allow_pieces()
        async for page in self.pages(interrupted=interrupted):
            if page.data:
                yield page.data

    async def text(self, *, errors: str = "strict", interrupted: OnInterruption | None = None) -> AsyncIterator[str]:
        """Yield the stream as text in UTF-8; a character that two pages share comes whole, with the second.

        `errors` is what `bytes.decode` takes. Raises ProtocolError for bytes that are not UTF-8; `offset` is then before them.
        """
        self._allow_pieces()
        decoder = codecs.getincrementaldecoder("utf-8")(errors)
        whole = self.offset
        async for page in self.pages(interrupted=interrupted):
            try:
                found = decoder.decode(page.data, page.closed)
            except UnicodeDecodeError:
                raise ProtocolError("the stream is not text in UTF-8") from None
            if not decoder.getstate()[0]:
                whole = page.next_offset
            self._taken = whole  # not in the middle of a character
            if found:
                yield found

    async def json(self, *, interrupted: OnInterruption | None = None) -> AsyncIterator[Any]:
        """Yield the messages of a JSON stream (PROTOCOL.md section 7.1), each as `json.loads` gives it.

        Raises ProtocolError for a page that is no JSON array; `offset` is then before it.
        """
        async for page in self.pages(interrupted=interrupted):
            for message in parse_messages(page.data):
                yield message


def parse_messages(data: bytes) -> list[Any]:
    """Return the messages in a page of a JSON stream (PROTOCOL.md section 7.1). Raises ProtocolError."""
    if not data:
        return []
    try:
        messages = json.loads(data)
    except (ValueError, RecursionError):
        raise ProtocolError("a page of a JSON stream is not JSON") from None
    if not isinstance(messages, list):
        raise ProtocolError("a page of a JSON stream is not an array")
    return messages
