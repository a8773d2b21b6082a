"""What a program adds to its requests: who it is (headers and a token, fetched once), and what is new with every request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from ds_sync.exceptions import DsSyncError, TransportError

Value = str | Callable[[], str | Awaitable[str]]
"""A fixed value, or the function that finds it, which may be async."""


class Credentials:
    """The headers that identify a client. One object may serve any number of streams: the values are fetched once for all of them.

    Functions are asked at the first request, and once more after a 401.
    """

    def __init__(self, *, token: Value | None = None, headers: Mapping[str, Value] | None = None) -> None:
        """`token` goes out as `Authorization: Bearer ...`; `headers` go out as they are."""
        self._sources: dict[str, Value] = {name.lower(): value for name, value in (headers or {}).items()}
        self._token = token
        self._known: Mapping[str, str] | None = None
        self._lock = asyncio.Lock()

    @property
    def empty(self) -> bool:
        """True if there is nothing to give away."""
        return self._token is None and not self._sources

    async def get(self) -> Mapping[str, str]:
        """Return the headers, fetched if need be. Raises TransportError if a callable fails: being offline, it may well fail."""
        if self._known is None:
            return await self.refresh(None)
        return self._known

    async def refresh(self, refused: Mapping[str, str] | None) -> Mapping[str, str]:
        """Return headers other than those the server `refused`, fetching them again unless somebody has meanwhile.

        At most one refresh runs at a time. With fixed values alone the same object comes back: asking the server again is useless.
        """
        async with self._lock:
            if self._known is None or (self._known is refused and self._fetched):
                self._known = await self._fetch()
            return self._known

    @property
    def _fetched(self) -> bool:
        return callable(self._token) or any(callable(value) for value in self._sources.values())

    async def _fetch(self) -> Mapping[str, str]:
        headers = {name: await _ask(value) for name, value in self._sources.items()}
        if self._token is not None:
            headers["authorization"] = f"Bearer {await _ask(self._token)}"
        return headers


class Extras:
    """Headers and query parameters whose functions are asked anew for every request, repetitions included."""

    def __init__(self, *, headers: Mapping[str, Value] | None = None, params: Mapping[str, Value] | None = None) -> None:
        self._headers: dict[str, Value] = {name.lower(): value for name, value in (headers or {}).items()}
        self._params = dict(params or {})

    async def headers(self) -> dict[str, str]:
        """Return the headers for one request. Raises TransportError if a function fails."""
        return {name: await _ask(value) for name, value in self._headers.items()}

    async def params(self) -> dict[str, str]:
        """Return the query parameters for one request. Raises TransportError if a function fails."""
        return {name: await _ask(value) for name, value in self._params.items()}


async def _ask(value: Value) -> str:
    if isinstance(value, str):
        return value
    try:
        found = value()
        return await found if isinstance(found, Awaitable) else found
    except DsSyncError:
        raise
    except Exception as error:
        raise TransportError(f"a header or parameter could not be fetched: {type(error).__name__}") from error
