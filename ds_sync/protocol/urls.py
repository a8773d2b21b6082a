"""URLs as people and logs may see them."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

HIDDEN: Final = "***"

_USER: Final = re.compile(r"^((?:[A-Za-z][A-Za-z0-9+.-]*:)?/*)[^/@]*(?:@[^/@]*)*@")
"""User and password, which stand before the host; in what is no URL, before the first slash that follows the scheme."""


def split_url(url: str) -> SplitResult:
    """Return the parts of `url`. Raises ValueError, which does not repeat what may be secret, as Python's own does."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises for what is no number
    except ValueError:
        raise ValueError("not a URL: its host or port can't be read") from None
    return parts


def redact_url(url: str) -> str:
    """Return `url` without what may be secret in it: user and password, the values of its query, its fragment. Takes any text."""
    address, _, query = url.partition("#")[0].partition("?")
    shown = _USER.sub(r"\1", address)
    if not query:
        return shown
    pieces = (piece.partition("=") for piece in query.split("&"))
    return f"{shown}?{'&'.join(f'{name}={HIDDEN}' if equals else HIDDEN for name, equals, _ in pieces)}"
