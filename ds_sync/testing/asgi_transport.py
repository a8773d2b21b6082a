"""A Transport that calls an ASGI application directly: no sockets, and the answer streams as it is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from ds_sync.client.transport import Response
from ds_sync.exceptions import ClosedError, TransportError, TransportTimeoutError

Application = Callable[..., Awaitable[None]]


class AsgiTransport:
    """Requests go to `app`, whatever their host; None stands for a server that is down (TransportError).

    A request that is given up goes on in the application, as it does on a real server, which notices a hang-up late: an append may be
    committed although its sender was cancelled. `aclose` waits until all have ended.
    """

    def __init__(self, app: Application | None = None) -> None:
        self.app = app
        self._calls: set[asyncio.Task[None]] = set()
        self._closed = False

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", timeout: float | None) -> Response:
        """Return the application's whole answer."""
        async with self._call(method, url, headers, body) as answer:
            try:
                async with asyncio.timeout(timeout):
                    await answer.head()
                    return Response(answer.status, answer.headers, b"".join([chunk async for chunk in answer.chunks()]))
            except TimeoutError:
                raise TransportTimeoutError("no answer in time") from None

    @asynccontextmanager
    async def stream(self, method: str, url: str, *, headers: Mapping[str, str], timeout: float | None) -> AsyncIterator[_Answer]:
        """Hand out the application's answer as it is made."""
        async with self._call(method, url, headers, b"", timeout) as answer:
            await answer.head()
            yield answer

    async def aclose(self) -> None:
        """Wait for what the application is still doing, and take no more requests."""
        self._closed = True
        await self.settle()

    async def settle(self) -> None:
        """Wait for requests that were given up and go on in the application."""
        while self._calls:
            await asyncio.wait(self._calls)

    @asynccontextmanager
    async def _call(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout: float | None = None
    ) -> AsyncIterator[_Answer]:
        if self._closed:
            raise ClosedError("the transport is closed")
        if self.app is None:
            raise TransportError("no connection")
        answer = _Answer(body, timeout)
        call = asyncio.ensure_future(answer.run(self.app, _build_scope(method, url, headers, body)))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        try:
            yield answer
        finally:
            answer.hang_up()


class _Answer:
    """One call of the application, and what it sends."""

    status = 0

    def __init__(self, body: bytes, timeout: float | None) -> None:
        self.headers: Mapping[str, str] = {}
        self._body: bytes | None = body
        self._timeout = timeout
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._gone = asyncio.Event()

    async def run(self, app: Application, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._messages.put)
        finally:
            self._messages.put_nowait(None)

    def hang_up(self) -> None:
        self._gone.set()

    async def head(self) -> None:
        message = await self._next()
        self.status = message["status"]
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]}

    async def chunks(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._next()
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _next(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._timeout):
                message = await self._messages.get()
        except TimeoutError:
            raise TransportTimeoutError("no answer in time") from None
        if message is None:
            raise TransportError("the connection was cut off in the middle of an answer")
        return message


def _build_scope(method: str, url: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    parts = urlsplit(url)
    sent = {"host": parts.netloc, "content-length": str(len(body)), **headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": parts.scheme,
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()],
    }
