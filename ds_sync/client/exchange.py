"""One request and its answer: credentials, 401, redirects. No retries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from ds_sync.client.credentials import Credentials, Extras
from ds_sync.client.transport import Response, StreamingResponse, Transport
from ds_sync.exceptions import InvalidRequestError, ProtocolError
from ds_sync.protocol.urls import redact_url, split_url

MAX_REDIRECTS = 5

_REDIRECTS = {301: ("GET", "HEAD"), 302: ("GET", "HEAD"), 307: (), 308: ()}  # empty: any method (RFC 9110 section 15.4)


@dataclass(frozen=True, slots=True)
class _Asked:
    url: str
    credentials: Mapping[str, str]
    extras: Mapping[str, str]
    redirects: int = 0
    renewed: bool = False


class Exchange:
    """The requests to one URL."""

    def __init__(self, url: str, transport: Transport, credentials: Credentials, extras: Extras | None = None) -> None:
        self.url = url
        self._transport = transport
        self._credentials = credentials
        self._extras = extras or Extras()

    async def request(
        self,
        method: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout: float | None,
        redirects: bool = True,
    ) -> Response:
        """Return the answer, whatever its status. Raises what the transport raises, and ProtocolError for a redirect not to follow.

        Without `redirects` a redirect is an answer like others.
        """
        asked: _Asked | None = await self._begin(query)
        while asked is not None:
            sent = {**asked.extras, **asked.credentials, **(headers or {})}
            response = await self._transport.request(method, asked.url, headers=sent, body=body, timeout=timeout)
            asked = await self._next(method, asked, response.status, response.headers, redirects=redirects)
        return response

    @asynccontextmanager
    async def stream(
        self, *, query: Mapping[str, str], headers: Mapping[str, str] | None = None, timeout: float | None
    ) -> AsyncIterator[StreamingResponse]:
        """Like `request` with GET, for an answer that is read as it comes."""
        asked = await self._begin(query)
        while True:
            sent = {**asked.extras, **asked.credentials, **(headers or {})}
            async with self._transport.stream("GET", asked.url, headers=sent, timeout=timeout) as response:
                following = await self._next("GET", asked, response.status, response.headers)
                if following is None:
                    yield response
                    return
                asked = following

    async def _begin(self, query: Mapping[str, str] | None) -> _Asked:
        params = await self._extras.params()
        return _Asked(build_url(self.url, {**params, **(query or {})}), await self._credentials.get(), await self._extras.headers())

    async def _next(self, method: str, asked: _Asked, status: int, headers: Mapping[str, str], *, redirects: bool = True) -> _Asked | None:
        """Return what to ask instead; None if the answer stands."""
        if status == 401 and not asked.renewed:
            fresh = await self._credentials.refresh(asked.credentials)
            if fresh is asked.credentials:
                return None
            return replace(asked, credentials=fresh, extras=await self._extras.headers(), renewed=True)
        location = headers.get("location")
        if not redirects or status not in _REDIRECTS or location is None or (_REDIRECTS[status] and method not in _REDIRECTS[status]):
            return None
        if asked.redirects == MAX_REDIRECTS:
            raise ProtocolError(f"more than {MAX_REDIRECTS} redirects")
        try:
            target = urljoin(asked.url, location)
            same = _origin(target) == _origin(asked.url)
        except ValueError:
            raise ProtocolError("a redirect to something that is not a URL") from None
        # A login page of a hotel's network redirects like this: neither credentials nor a document go there.
        if not same:
            raise ProtocolError(f"a redirect to another origin, which is not followed: {redact_url(target)[:80]!r}")
        return replace(asked, url=target, redirects=asked.redirects + 1)


def build_url(url: str, query: Mapping[str, str]) -> str:
    """Return `url` with the parameters added, sorted by name so that caches see one URL (PROTOCOL.md section 8.1).

    Raises InvalidRequestError for something that is not a URL.
    """
    try:
        parts = split_url(url)
    except ValueError as error:
        raise InvalidRequestError(str(error)) from error
    present = [piece for piece in parts.query.split("&") if piece and piece.partition("=")[0] not in query]
    added = [f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items()]
    return urlunsplit(parts._replace(query="&".join(sorted([*present, *added])), fragment=""))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
