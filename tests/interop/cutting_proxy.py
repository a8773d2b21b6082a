"""A proxy on loopback before our server that stops a request wherever a test wants it, and cuts every connection (RST)."""

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from types import TracebackType
from typing import Literal

Place = Literal["request", "body", "sent", "answer", "twice", "reading"]


class Stop:
    """One request that stands still, once it was `reached`, until `go_on`, or until its connection is cut."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._reached = asyncio.Event()
        self._released = asyncio.Event()

    async def reached(self) -> None:
        """Wait until there is such a request, and it has come to its place."""
        await asyncio.wait_for(self._reached.wait(), 50)

    def go_on(self) -> None:
        """Let it pass."""
        self._released.set()

    async def stand(self) -> None:
        self._reached.set()
        await self._released.wait()


class CuttingProxy:
    """Passes the bytes of HTTP/1.1 connections to a port and back, from entering the `async with` block to leaving it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.stop: Stop | None = None
        self.read_again = asyncio.Event()
        """Whether a live read of a document was passed on since the last cut."""
        self.hung_up = asyncio.Event()
        """Whether the server has ended a connection since somebody cleared this."""
        self._open: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def stop_at(self, place: Place) -> Stop:
        """Stop the next append to a document, or the next answer to a live read of one.

        "request": it has come whole, and nothing was passed on. "body": half of its body was passed on. "sent": all was. "answer": the
        server has answered, and nothing of that was passed on. "twice": the same, and then the answer is forgotten, and the request
        sent again. "reading": half of what a live read is told was passed on.
        """
        self.stop = Stop(place)
        return self.stop

    async def cut(self) -> None:
        """End all connections on both sides; when it returns, the resets are out."""
        self.read_again.clear()
        ending = tuple(self._open)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def __aenter__(self) -> "CuttingProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        await self.cut()
        await self._server.wait_closed()

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.create_task(_Connection(self, reader, writer).serve())
        self._open.add(task)
        task.add_done_callback(self._open.discard)


class _Connection:
    def __init__(self, proxy: CuttingProxy, reader: StreamReader, writer: StreamWriter) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._server: StreamWriter | None = None
        self._answers: asyncio.Task[None] | None = None
        self._stop: Stop | None = None
        self._reads = False

    async def serve(self) -> None:
        """Pass requests on until somebody hangs up, or the task is cancelled."""
        try:
            while True:
                head = await self._reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                lengths = [line.partition(":")[2] for line in lines if line.lower().startswith("content-length:")]
                await self._pass_request(lines[0], head, await self._reader.readexactly(int(lengths[0]) if lengths else 0))
        except (OSError, EOFError):
            return
        finally:  # without waiting for anything: it may be cancelled twice
            if self._answers is not None:
                self._answers.cancel()
            for writer in filter(None, (self._server, self._writer)):
                _reset(writer)

    async def _pass_request(self, line: str, head: bytes, body: bytes) -> None:
        of_document = "awareness=" not in line
        self._reads = of_document and line.startswith("GET ") and "live=" in line
        if body and of_document and line.startswith("POST ") and self._proxy.stop and self._proxy.stop.place != "reading":
            self._stop, self._proxy.stop = self._proxy.stop, None
        place = self._stop.place if self._stop else None
        if self._stop and place == "request":
            await self._stop.stand()
            self._stop = None
        await self._connect()
        assert self._server is not None
        half = len(body) // 2 if place == "body" else len(body)
        self._server.write(head + body[:half])
        await self._server.drain()
        if self._stop and self._answers and place == "twice":
            await self._answers
            await self._stop.stand()
            self._stop = None
            await self._connect()
            self._server.write(head + body)
        elif self._stop and place in ("body", "sent"):
            await self._stop.stand()
            self._stop = None
        self._server.write(body[half:])
        await self._server.drain()
        if self._reads:
            self._proxy.read_again.set()

    async def _connect(self) -> None:
        if self._server is None or self._answers is None or self._answers.done():
            if self._server is not None:
                _reset(self._server)
            answers, self._server = await asyncio.open_connection("127.0.0.1", self._proxy.port)
            self._answers = asyncio.create_task(self._pass_answers(answers, asyncio.current_task()))

    async def _pass_answers(self, answers: StreamReader, requests: "asyncio.Task[None] | None") -> None:
        try:
            while data := await answers.read(1 << 16):
                only_head = data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n")
                if self._stop and self._stop.place == "twice":
                    return
                if self._stop and self._stop.place == "answer":
                    await self._stop.stand()
                    self._stop = None
                elif self._reads and not only_head and self._proxy.stop and self._proxy.stop.place == "reading":
                    stop, self._proxy.stop = self._proxy.stop, None
                    self._writer.write(data[: len(data) // 2])
                    await self._writer.drain()
                    await stop.stand()
                    data = data[len(data) // 2 :]
                self._writer.write(data)
                await self._writer.drain()
        except OSError:
            pass
        self._proxy.hung_up.set()
        if requests and not (self._stop and self._stop.place == "request"):  # such a one goes to whoever serves then
            requests.cancel()


def _reset(writer: StreamWriter) -> None:
    """Close it so that the other side is told that the connection broke."""
    if not writer.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
