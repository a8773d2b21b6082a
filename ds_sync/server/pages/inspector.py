"""The inspector: `/inspect`, a page for people that shows what the server holds, and the JSON behind it.

It shows everything, so it is more closed than the streams themselves: only the server's own page reads it (no CORS, `Sec-Fetch-Site`),
and without a token only who asks this machine for itself. A page of a stranger that has its own name point here (DNS rebinding) sends that
name as `Host`, and a proxy that forwards strangers says so; both are refused. What is shown was written by strangers too: the page sets
text only, and its policy allows no script and no style but its own two files.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from ds_sync.exceptions import DsSyncError, ForbiddenError, InvalidRequestError, NotFoundError, UnauthorizedError
from ds_sync.protocol.headers import parse_integer
from ds_sync.protocol.history import parse_place
from ds_sync.server.pages.pages import answer_closed, read_files
from ds_sync.server.pages.survey import Survey, parse_updates_path
from ds_sync.server.requests import only_value, parse_headers, parse_query
from ds_sync.server.responses import Scope, Send, build_refusal
from ds_sync.server.streams import raw_path

MOUNT: Final = "/inspect"

PAGE: Final = 50
"""Rows in an answer."""

PAGE_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

MIN_TOKEN: Final = 16
"""Characters."""

FORWARDED: Final = ("forwarded", "via", "x-forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "cf-")
"""What the names of headers begin with that proxies add."""

FILES: Final = {"": "inspect.html", "inspect.js": "inspect.js", "inspect.css": "inspect.css"}
"""By what follows the mount."""

log = logging.getLogger(__name__)

Query: TypeAlias = Mapping[str, list[str]]


@dataclass(frozen=True, slots=True)
class InspectAccess:
    """Who may look."""

    token: str | None = None
    """What requests for data bring as `Authorization: Bearer`. None: nothing; then they must be made to this machine by one of its own
    names (localhost, 127.0.0.1, [::1]), and not by way of a proxy."""

    def __post_init__(self) -> None:
        if self.token is not None and (len(self.token) < MIN_TOKEN or not self.token.isascii() or not self.token.isprintable()):
            raise ValueError(f"a token has at least {MIN_TOKEN} printable ASCII characters")


class Inspector:
    """Answers the requests below `/inspect`."""

    def __init__(self, survey: Survey, access: InspectAccess) -> None:
        self._survey = survey
        self._access = access
        self._files = read_files(tuple(FILES.values()))
        self._answers: dict[str, Callable[[Query], Awaitable[dict[str, Any]]]] = {
            "documents": self._find_documents,
            "streams": self._find_streams,
            "records": self._read_records,
            "content": self._read_content,
        }

    def close(self) -> None:
        """Look no more."""
        self._survey.close()

    async def serve(self, scope: Scope, send: Send) -> None:
        """Answer. Raises nothing: refusals are answers, too, and carry no CORS headers."""
        headers = parse_headers(scope)
        name = raw_path(scope)[len(MOUNT) :].removeprefix(b"/").decode("latin-1")
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise InvalidRequestError("the inspector only reads", code="METHOD_NOT_ALLOWED", status=405)
            self._check_way(headers)
            if name in FILES:
                file = self._files[FILES[name]]
                await answer_closed(scope, send, 200, file.kind, file.body, PAGE_POLICY)
                return
            if name not in self._answers:
                raise NotFoundError("nothing is served at this path", code="NOT_FOUND")
            self._check_caller(headers)
            found = await self._answers[name](parse_query(scope["query_string"]))
        except DsSyncError as error:
            status, _, body = build_refusal(error)
            if status >= 500:
                log.warning("%s: %s", scope["path"], error)
            await answer_closed(scope, send, status, b"application/json", body, PAGE_POLICY)
        except (TimeoutError, OSError) as error:
            log.warning("%s: %r", scope["path"], error)
            refusal = {"error": {"code": "TOO_SLOW", "message": "this document could not be read in time"}}
            await answer_closed(scope, send, 503, b"application/json", json.dumps(refusal).encode(), PAGE_POLICY)
        else:
            await answer_closed(scope, send, 200, b"application/json", json.dumps(found).encode(), PAGE_POLICY)

    def _check_way(self, headers: Mapping[str, str]) -> None:
        if self._access.token is None and (not is_own_name(headers.get("host", "")) or any(name.startswith(FORWARDED) for name in headers)):
            raise ForbiddenError("without a token the inspector answers this machine only, by its own name: see --inspect-token")

    def _check_caller(self, headers: Mapping[str, str]) -> None:
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise ForbiddenError("the inspector answers its own page")
        if self._access.token is not None:
            kind, _, brought = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(brought.strip().encode(), self._access.token.encode()):
                raise UnauthorizedError("the inspector wants its token", code="UNAUTHORIZED", status=401)

    async def _find_documents(self, query: Query) -> dict[str, Any]:
        return await self._survey.find_documents(*_parse_search(query))

    async def _find_streams(self, query: Query) -> dict[str, Any]:
        return await self._survey.find_streams(*_parse_search(query))

    async def _read_records(self, query: Query) -> dict[str, Any]:
        offset = only_value(query, "offset")
        return await self._survey.read_records(_require(query, "path"), None if offset is None else parse_place(offset))

    async def _read_content(self, query: Query) -> dict[str, Any]:
        name = parse_updates_path(_require(query, "path"))
        if name is None:
            raise InvalidRequestError("path is no document's stream of updates")
        return await self._survey.read_content(name)


def is_own_name(host: str) -> bool:
    """Whether a Host header names this machine to itself."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.removeprefix("[").removesuffix("]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _parse_search(query: Query) -> tuple[str, str, int]:
    wanted, after, limit = (only_value(query, name) for name in ("find", "after", "limit"))
    size = PAGE if limit is None else min(parse_integer(limit, "limit"), PAGE)
    return wanted or "", after or "", max(size, 1)


def _require(query: Query, name: str) -> str:
    value = only_value(query, name)
    if not value:
        raise InvalidRequestError(f"{name} is missing")
    return value
