"""Who may enter a room, and whether to write there: what an application decides, by what the client sent (`create_app(admit=...)`).

It is asked once for each WebSocket connection. Requests over HTTP have no part in it: an application that mounts the server judges them
before they reach it, as it does all its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias
from urllib.parse import parse_qsl

from ds_sync.server.requests import parse_headers
from ds_sync.server.responses import Scope


class Access(Enum):
    """What a client may do in a room."""

    WRITE = "write"
    READ = "read"
    """It gets the document and what others change, sees who is there, and says who it is. What it changes itself is not taken."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A client that asks to enter a room."""

    service: str
    room: str
    """The path of the document, decoded."""
    headers: Mapping[str, str]
    """By name in lower case. A page of a stranger connects with its visitor's cookies: who goes by `cookies` compares `origin`, too."""
    query: Mapping[str, str]
    """Of the URL, decoded: what y-websocket clients have as `params`. Of a repeated name the last."""
    cookies: Mapping[str, str]
    """As they are spelled."""
    scope: Scope
    """The connection's ASGI scope: what middleware found out about it."""


Admit: TypeAlias = Callable[[Visitor], Awaitable[Access]]
"""Raises UnauthorizedError or ForbiddenError for who may not enter. Any other failure lets nobody in, either."""


async def admit_everybody(visitor: Visitor) -> Access:
    """Refuse nobody anything: a server without accounts."""
    return Access.WRITE


def build_visitor(scope: Scope, service: str, room: str) -> Visitor:
    """Return who asks, by a WebSocket connection's scope."""
    headers = parse_headers(scope)
    query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True))
    pieces = (piece.partition("=") for piece in headers.get("cookie", "").split(";"))
    cookies = {name.strip(): value.strip() for name, equals, value in pieces if equals}
    return Visitor(service, room, headers, query, cookies, scope)
