"""How requests travel: a port with two methods, and httpx behind it.

The simulator and the tests put their own transport in its place. This is the only file that imports httpx, at the first request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ds_sync.exceptions import ClosedError, DsSyncError, InvalidRequestError, ProtocolError, TransportError, TransportTimeoutError

if TYPE_CHECKING:
    import httpx

MAX_BODY = 1024 * 1024 * 1024
"""Bytes. A foreign server may answer with a whole stream in one page, so the bound is high; above it the answer is refused."""

CONNECT_TIMEOUT = 5.0
"""Seconds for a connection to come about. Below the time a silent SSE answer is given, so that a dead network is not taken for a proxy."""

KEEP_ALIVE = 4.0
"""Seconds an idle connection is kept. Node's servers hang up after 5, and a request that meets the hang-up is lost."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. Header names are in lower case; the body is decoded (gzip, deflate)."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class StreamingResponse(Protocol):
    """An answer whose body is still on its way."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the decoded body as it arrives. Raises TransportError if it is cut off before its end."""


class Transport(Protocol):
    """Carries requests. Order: none between requests. Errors: TransportError and TransportTimeoutError if no whole answer came,
    ProtocolError for an answer that can't be decoded, InvalidRequestError for a request that can't be put on the wire, ClosedError
    after `aclose`; any status is an answer, not an error. Redirects are not followed. Cancelling a call ends its request at once.
    """

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", timeout: float | None) -> Response:
        """Send and wait for the whole answer. `timeout`: seconds in which nothing at all arrives; None waits for ever."""

    def stream(
        self, method: str, url: str, *, headers: Mapping[str, str], timeout: float | None
    ) -> AbstractAsyncContextManager[StreamingResponse]:
        """Send, wait for the head of the answer, and hand out the body as it comes. Leaving the context ends the request at once."""

    async def aclose(self) -> None: ...


class HttpTransport:
    """The transport for real networks: one connection pool, to be shared by all documents.

    The pool has no limit: each document that is followed holds a connection, and an append must never wait for one of them.
    """

    def __init__(self, *, max_body: int = MAX_BODY) -> None:
        self._max_body = max_body
        self._client: httpx.AsyncClient | None = None
        self._closed = False

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", timeout: float | None) -> Response:
        async with self._open(method, url, headers, body, timeout) as answer:
            size, parts = 0, []
            async for chunk in answer.chunks():
                size += len(chunk)
                if size > self._max_body:
                    raise ProtocolError(f"the answer's body is above {self._max_body} bytes")
                parts.append(chunk)
            return Response(answer.status, answer.headers, b"".join(parts))

    def stream(
        self, method: str, url: str, *, headers: Mapping[str, str], timeout: float | None
    ) -> AbstractAsyncContextManager[StreamingResponse]:
        return self._open(method, url, headers, b"", timeout)

    async def aclose(self) -> None:
        """Close all connections. Requests after this raise ClosedError."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    @asynccontextmanager
    async def _open(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout: float | None
    ) -> AsyncIterator[_HttpxResponse]:
        client = self._connected()
        import httpx

        limits = httpx.Timeout(timeout, connect=CONNECT_TIMEOUT if timeout is None else min(timeout, CONNECT_TIMEOUT))
        with _errors_mapped():
            async with client.stream(method, url, headers=dict(headers), content=body, timeout=limits) as answer:
                yield _HttpxResponse(answer)

    def _connected(self) -> httpx.AsyncClient:
        if self._closed:
            raise ClosedError("the transport is closed")
        if self._client is None:
            import httpx

            self._client = httpx.AsyncClient(
                follow_redirects=False,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE),
            )
        return self._client


class _HttpxResponse:
    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer
        self.status = answer.status_code
        self.headers: Mapping[str, str] = dict(answer.headers)  # httpx gives names in lower case, values of one name joined

    async def chunks(self) -> AsyncIterator[bytes]:
        # Mapped here and not only around the request: an iterator's errors rise in its user's frame.
        with _errors_mapped():
            async for chunk in self._answer.aiter_bytes():
                yield chunk


@contextmanager
def _errors_mapped() -> Generator[None]:
    """Turn httpx's errors into ours, by the first row that fits."""
    import httpx

    table: tuple[tuple[type[Exception], type[DsSyncError], str], ...] = (
        (httpx.TimeoutException, TransportTimeoutError, "no answer in time"),
        # These two never reach the wire, and their text may quote a header: a token must not end up in a log.
        (httpx.LocalProtocolError, InvalidRequestError, "the request has a header that can't be sent"),
        (httpx.UnsupportedProtocol, InvalidRequestError, "the URL must begin with http:// or https://"),
        (httpx.InvalidURL, InvalidRequestError, "the URL can't be parsed"),
        (httpx.DecodingError, ProtocolError, "the answer's body can't be decoded"),
        (httpx.RemoteProtocolError, TransportError, "the connection was cut off in the middle of an answer, or it is not HTTP"),
        (httpx.ConnectError, TransportError, "no connection"),
        (httpx.TransportError, TransportError, "the connection was lost"),
        (httpx.StreamError, TransportError, "the connection was closed"),
    )
    try:
        yield
    except tuple(row[0] for row in table) as error:
        _, ours, text = next(row for row in table if isinstance(error, row[0]))
        raise ours(text) from (None if ours is InvalidRequestError else error)
