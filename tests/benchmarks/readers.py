"""The reading connections of the load generator: from the beginning to the tail, by SSE, by long-poll, and idle."""

from __future__ import annotations

import asyncio
import time

from wire import BrokenAnswerError, Connection, build_request, is_up_to_date, next_offset

MESSAGE = 100
"""Bytes of one message of the fan-out."""


def build_message(number: int) -> bytes:
    """Return message `number` as text: its number, when it was made, padding."""
    return (b"%08d%020d" % (number, time.perf_counter_ns())).ljust(MESSAGE, b"x")


BUFFER = bytearray(128 * 1024)
"""What `CatchUpReader` receives into: a body is counted and forgotten. Making bytes of all that came would cost more than receiving it."""


class CatchUpReader(Connection):
    """Reads `path` from its beginning to its tail, and again, until `stop`."""

    def __init__(self, done: asyncio.Future[None], path: str, size: int) -> None:
        super().__init__(done)
        self._path, self._size = path, size
        self._first = build_request("GET", f"{path}?offset=-1")
        self._received = 0
        self.latencies: list[float] = []

    def start(self, stop: float) -> None:
        """Send the first request."""
        self._stop = stop
        self._began = time.perf_counter()
        self.send(self._first)

    def receive_head(self, status: int, head: bytes) -> None:
        if status != 200:
            raise BrokenAnswerError(f"a read was answered {head!r}")

    def get_buffer(self, hint: int) -> bytearray:
        """As asyncio.BufferedProtocol has it."""
        return BUFFER

    def buffer_updated(self, size: int) -> None:
        """As asyncio.BufferedProtocol has it."""
        if self._count_part(size):
            self._received += size
        else:
            self.data_received(bytes(memoryview(BUFFER)[:size]))

    def receive_part(self, data: bytes) -> None:
        self._received += len(data)

    def receive_end(self, head: bytes) -> None:
        if not is_up_to_date(head):
            self.send(build_request("GET", f"{self._path}?offset={next_offset(head)}"))
            return
        if self._received != self._size:
            raise BrokenAnswerError(f"{self._received} bytes were read of {self._size}")
        self._received = 0
        now = time.perf_counter()
        self.latencies.append(now - self._began)
        if now < self._stop or len(self.latencies) < 2:
            self._began = now
            self.send(self._first)
        else:
            self.finish()
            self.close()


class FanOutReader(Connection):
    """Follows `path`; every message must come once and in order. Latency is from the making of the message to its reading."""

    def __init__(self, done: asyncio.Future[None], path: str) -> None:
        super().__init__(done)
        self._path = path
        self._expected: int | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it is reading live."""
        self.latencies: list[float] = []

    def expect(self, messages: int) -> None:
        """Finish when so many have come."""
        self._expected = messages
        if len(self.latencies) == messages:
            self.finish()

    def receive_messages(self, data: bytes) -> None:
        """Take whole messages."""
        now = time.perf_counter_ns()
        for start in range(0, len(data), MESSAGE):
            if int(data[start : start + 8]) != len(self.latencies):
                raise BrokenAnswerError(f"message {data[start : start + 8]!r} came as number {len(self.latencies)}")
            self.latencies.append((now - int(data[start + 8 : start + 28])) / 1e9)
        if len(self.latencies) == self._expected:
            self.finish()

    def is_reading(self) -> None:
        """Note that the reader is there."""
        if not self.ready.done():
            self.ready.set_result(None)


class SseReader(FanOutReader):
    """Follows by SSE, on one answer."""

    def begin(self) -> None:
        self._text = b""
        self.send(build_request("GET", f"{self._path}?offset=-1&live=sse"))

    def receive_head(self, status: int, head: bytes) -> None:
        if status != 200:
            raise BrokenAnswerError(f"SSE was answered {head!r}")

    def receive_part(self, data: bytes) -> None:
        *events, self._text = (self._text + data).split(b"\n\n")
        for event in events:
            lines = event.split(b"\n")
            if lines[0].removeprefix(b"event:").strip() == b"data":
                self.receive_messages(b"".join(line[5:].strip() for line in lines[1:]))
            else:
                self.is_reading()

    def receive_end(self, head: bytes) -> None:
        raise BrokenAnswerError("the SSE answer ended")


class LongPollReader(FanOutReader):
    """Follows by long-poll, one answer after the other."""

    def begin(self) -> None:
        self._body = b""
        self._poll("-1")
        self.is_reading()

    def receive_head(self, status: int, head: bytes) -> None:
        if status not in (200, 204):
            raise BrokenAnswerError(f"a long-poll was answered {head!r}")

    def receive_part(self, data: bytes) -> None:
        self._body += data

    def receive_end(self, head: bytes) -> None:
        body, self._body = self._body, b""
        self._poll(next_offset(head))
        self.receive_messages(body)

    def _poll(self, offset: str) -> None:
        self.send(build_request("GET", f"{self._path}?offset={offset}&live=long-poll"))


class IdleReader(Connection):
    """Waits at the tail until something comes; done when it has."""

    def __init__(self, done: asyncio.Future[None], path: str, created: bytes, *, live: str) -> None:
        super().__init__(done)
        self._request = build_request("GET", f"{path}?offset={next_offset(created)}&live={live}")
        self._tail = b""

    def begin(self) -> None:
        self.send(self._request)

    def receive_head(self, status: int, head: bytes) -> None:
        if status != 200:
            raise BrokenAnswerError(f"an idle reader was answered {head!r}")

    def receive_part(self, data: bytes) -> None:
        self._tail = self._tail[-MESSAGE:] + data
        if b"x" * (MESSAGE - 28) in self._tail:
            self.finish()
            self.close()
