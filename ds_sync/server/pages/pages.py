"""Pages for people: files of the package, and answers that no other origin may read or frame."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from ds_sync.server.responses import HeaderList, Scope, Send

FOLDER: Final = Path(__file__).parent / "web"

KINDS: Final = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".txt": b"text/plain; charset=utf-8",
}

ServePage: TypeAlias = Callable[[Scope, Send], Awaitable[None]]
"""Answers what is asked at and below one segment of the server's root. Raises nothing."""


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file of the package."""

    kind: bytes
    body: bytes


def read_files(names: Sequence[str]) -> dict[str, WebFile]:
    """Return files by name. They are read now, so that a server goes on with what it began with."""
    return {name: WebFile(KINDS[Path(name).suffix], (FOLDER / name).read_bytes()) for name in names}


async def answer_closed(scope: Scope, send: Send, status: int, kind: bytes, body: bytes, policy: bytes) -> None:
    """Send an answer under a content security policy that no other origin may read, frame or keep."""
    headers: HeaderList = [
        (b"content-type", kind),
        (b"content-length", b"%d" % len(body)),
        (b"content-security-policy", policy),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cache-control", b"no-store"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
