"""One client's WebSocket: what is to be sent waits in a bounded queue, and who does not read it is cut off."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from ds_sync.environment import Environment
from ds_sync.server.gateway import Send

QUEUE_BYTES: Final = 8 * 1024 * 1024
"""Of others' updates and presence that may wait for one client. What it asked for itself does not count."""

STALL_SECONDS: Final = 20.0
"""After which a client that does not take a message is cut off; a long message has longer."""

SLOWEST: Final = 32 * 1024
"""Bytes a second that a client should be able to take."""

GOODBYE_SECONDS: Final = 2.0
"""For the last messages and the close frame. A client that takes none of them loses the connection without."""

NORMAL: Final = 1000
TOO_BIG: Final = 1009
FAILED: Final = 1011
RESTART: Final = 1012
COME_BACK: Final = 1013
UNSUPPORTED: Final = 4422
"""What it sends can't be kept. y-websocket clients do not come back by themselves after 4400 to 4499."""


class Connection:
    """The sending side of one client's connection."""

    __slots__ = (
        "_bell",
        "_due",
        "_environment",
        "_farewell",
        "_push",
        "_queue",
        "_queued",
        "_send",
        "answered",
        "entered",
        "hung_up",
        "last_sent",
        "may_write",
        "told_to_read_only",
    )

    def __init__(self, send: Send, environment: Environment, push: Callable[[bytes], bool] | None = None) -> None:
        self._send = send
        self._push = push
        """Of the server, if it has it (`ds_sync.server.gateway.PUSH`): sends at once, with no turn of the event loop for each client."""
        self._environment = environment
        self._queue: deque[tuple[bytes, asyncio.Future[None] | None]] = deque()
        self._queued = 0
        """Bytes that nobody waits for."""
        self._bell: asyncio.Future[None] | None = None
        self._farewell: tuple[int, str] | None = None
        self._due: float | None = None
        """Until when the message that is being sent should be."""
        self.hung_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done as soon as we hang up, before the client knows."""
        self.last_sent = environment.monotonic()
        self.entered = False
        """Whether it was told where we are, and gets what comes."""
        self.answered = False
        """Whether the client has answered our sync step 1. What it says of presence until then it says of itself."""

        self.may_write = True
        self.told_to_read_only = False

    @property
    def closing(self) -> bool:
        """Whether nothing is sent to it any more, or taken from it."""
        return self._farewell is not None

    def post(self, message: bytes) -> None:
        """Send, after what waits. A client that has too much waiting is cut off instead, and told to come back."""
        if self._farewell is not None:
            return
        if self._push is not None and not self._queue and self._due is None and self._push(message):
            self.last_sent = self._environment.monotonic()
            return
        if self._queued and self._queued + len(message) > QUEUE_BYTES:
            self.cut_off()
            return
        self._queue.append((message, None))
        self._queued += len(message)
        self._ring()

    async def answer(self, message: bytes) -> None:
        """Send, after what waits, and return when it is sent or we have hung up: until then nothing more should be read from the client."""
        if self._farewell is not None:
            return
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((message, sent))
        self._ring()
        await asyncio.wait((sent, self.hung_up), return_when=asyncio.FIRST_COMPLETED)

    def close(self, code: int, reason: str) -> None:
        """Send what waits, and hang up."""
        if self._farewell is None:
            self._farewell = (code, reason)
            self.hung_up.set_result(None)
            self._ring()

    def cut_off(self) -> None:
        """Hang up on a client that does not read."""
        self._queue.clear()
        self._queued = 0
        self.close(COME_BACK, "too slow: come back")

    def look_after(self, now: float, heartbeat: bytes, quiet: float) -> None:
        """Cut off a stalled client; send one that has heard nothing for `quiet` seconds a `heartbeat`. To be called now and then."""
        if self._due is not None and now > self._due:
            self.cut_off()
        elif self._due is None and now - self.last_sent > quiet:
            self.post(heartbeat)

    async def pump(self) -> None:
        """Send what is posted until we hang up. Raises what the HTTP server does when the client is gone."""
        monotonic = self._environment.monotonic
        while True:
            while self._queue:
                message, sent = self._queue.popleft()
                self._due = monotonic() + STALL_SECONDS + len(message) / SLOWEST
                await self._send({"type": "websocket.send", "bytes": message})
                self.last_sent, self._due = monotonic(), None
                if sent is None:
                    self._queued -= len(message)
                elif not sent.done():
                    sent.set_result(None)
            if self._farewell is not None:
                return
            self._bell = asyncio.get_running_loop().create_future()
            await self._bell

    async def say_goodbye(self, pumping: asyncio.Task[None]) -> None:
        """Wait for what is being sent by `pumping`, and send the close frame, if the client takes it in time."""
        code, reason = self._farewell or (NORMAL, "")
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await pumping
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except TimeoutError:
            return  # the connection ends with the conversation

    def _ring(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)
