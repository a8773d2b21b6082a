"""A Transport that makes the network, the proxies and the servers misbehave on demand.

    transport = FaultyTransport(HttpTransport())
    transport.inject(lose_answer(), when=is_append)              # the next append is committed, and its answer lost
    replica = Replica("notes.db", server=url, transport=transport)

Faults are chosen by the first injection that fits a request and is not used up. `transport.requests` lists what was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ds_sync.client.transport import Response, StreamingResponse, Transport
from ds_sync.exceptions import TransportError

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for. Header names are as the client sent them: lower case."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""


async def _send_it(request: Request) -> Response | None:
    return None


async def _pass_it_on(request: Request, response: Response) -> Response:
    return response


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request. Each field alone is a fault; the functions below make the usual ones."""

    before: Callable[[Request], Awaitable[Response | None]] = _send_it
    """Awaited before sending. May raise, wait, or return an answer; then nothing is sent."""
    after: Callable[[Request, Response], Awaitable[Response]] = _pass_it_on
    """Awaited when the answer is there; returns what the client is given, or raises. Of an answer that streams it gets the head."""
    copies: int = 1
    """How many times the request is delivered; the last answer counts."""
    keep: int | None = None
    """Bytes of the body after which an answer breaks off; None leaves it whole."""


@dataclass(slots=True)
class Injection:
    """A fault, and which requests it befalls."""

    fault: Fault
    when: Callable[[Request], bool]
    times: int | None
    """How many more requests it befalls; None: all."""
    hits: int = 0
    """How many it has befallen."""


def drop_before_sending() -> Fault:
    """The request never reaches the server."""

    async def before(request: Request) -> Response | None:
        raise TransportError("dropped before sending (injected)")

    return Fault(before=before)


def lose_answer() -> Fault:
    """The server does what it was asked for; its answer is lost."""

    async def after(request: Request, response: Response) -> Response:
        raise TransportError("the answer was lost (injected)")

    return Fault(after=after)


def delay(seconds: float, *, sleep: Sleep = asyncio.sleep) -> Fault:
    """The request takes its time to the server."""

    async def before(request: Request) -> Response | None:
        await sleep(seconds)
        return None

    return Fault(before=before)


def duplicate(copies: int = 2) -> Fault:
    """A proxy delivers the request several times, and hands back the last answer."""
    return Fault(copies=copies)


def truncate(keep: int) -> Fault:
    """The connection breaks off after `keep` bytes of the answer's body."""
    return Fault(keep=keep)


def respond(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Fault:
    """Somebody else answers, and the server never hears of the request."""

    async def before(request: Request) -> Response | None:
        return Response(status, dict(headers or {}), body)

    return Fault(before=before)


def respond_after(status: int, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Fault:
    """The server does what it was asked for, and the client is told something else; what is not given stays as it was."""

    async def after(request: Request, response: Response) -> Response:
        return Response(status, {**response.headers, **(headers or {})}, response.body if body is None else body)

    return Fault(after=after)


def hold(until: asyncio.Event, *, committed: bool = False) -> Fault:
    """The request waits for `until` before it reaches the server; or, `committed`, its answer does."""

    async def before(request: Request) -> Response | None:
        await until.wait()
        return None

    async def after(request: Request, response: Response) -> Response:
        await until.wait()
        return response

    return Fault(after=after) if committed else Fault(before=before)


def is_append(request: Request) -> bool:
    """For `when`: appends."""
    return request.method == "POST"


def is_read(request: Request) -> bool:
    """For `when`: reads of all kinds."""
    return request.method == "GET"


def is_live(request: Request) -> bool:
    """For `when`: long-polls and SSE."""
    return request.method == "GET" and "live=" in request.url


def anything(request: Request) -> bool:
    """For `when`: every request."""
    return True


class FaultyTransport:
    """Wraps a Transport; without injections it changes nothing."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.requests: list[Request] = []
        """All requests of the client, oldest first, also those that were dropped."""
        self._injections: list[Injection] = []

    def inject(self, fault: Fault, *, when: Callable[[Request], bool] = anything, times: int | None = 1) -> Injection:
        """Let `fault` befall the next `times` requests that `when` fits (None: all, until `clear`). Returns a handle that counts."""
        injection = Injection(fault, when, times)
        self._injections.append(injection)
        return injection

    def clear(self) -> None:
        """Nothing goes wrong any more. What hangs already goes on hanging."""
        self._injections.clear()

    def count(self, when: Callable[[Request], bool] = anything) -> int:
        """Return how many requests were made that `when` fits."""
        return sum(map(when, self.requests))

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", timeout: float | None) -> Response:
        """As Transport.request, with what goes wrong."""
        request, fault = self._note(Request(method, url, dict(headers), body))
        response = await fault.before(request)
        if response is None:
            for _ in range(fault.copies):
                response = await self.inner.request(method, url, headers=headers, body=body, timeout=timeout)
        if response is None:
            raise ValueError("a fault that delivers a request zero times must answer it")
        if fault.keep is not None and len(response.body) > fault.keep:
            raise TransportError("the connection was cut off in the middle of an answer (injected)")
        return await fault.after(request, response)

    @asynccontextmanager
    async def stream(self, method: str, url: str, *, headers: Mapping[str, str], timeout: float | None) -> AsyncIterator[StreamingResponse]:
        """As Transport.stream, with what goes wrong."""
        request, fault = self._note(Request(method, url, dict(headers)))
        given = await fault.before(request)
        if given is not None:
            yield _Changed(given, _once(given.body), fault.keep)
            return
        async with self.inner.stream(method, url, headers=headers, timeout=timeout) as answer:
            head = Response(answer.status, answer.headers)
            changed = await fault.after(request, head)
            yield _Changed(changed, answer.chunks() if changed.body == b"" else _once(changed.body), fault.keep)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self.inner.aclose()

    def _note(self, request: Request) -> tuple[Request, Fault]:
        self.requests.append(request)
        for injection in self._injections:
            if injection.times != 0 and injection.when(request):
                injection.times = None if injection.times is None else injection.times - 1
                injection.hits += 1
                return request, injection.fault
        return request, Fault()


async def _once(body: bytes) -> AsyncIterator[bytes]:
    if body:
        yield body


class _Changed:
    """A streaming answer with another head, or one that breaks off."""

    def __init__(self, head: Response, chunks: AsyncIterator[bytes], keep: int | None) -> None:
        self.status = head.status
        self.headers = head.headers
        self._chunks = chunks
        self._keep = keep

    async def chunks(self) -> AsyncIterator[bytes]:
        left = self._keep
        async for chunk in self._chunks:
            if left is not None and len(chunk) > left:
                yield chunk[:left]
                raise TransportError("the connection was cut off in the middle of an answer (injected)")
            left = None if left is None else left - len(chunk)
            yield chunk
