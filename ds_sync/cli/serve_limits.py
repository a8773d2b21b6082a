"""The limits of `ds-sync serve`: what one client, and all of them together, may take."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, Final

import click

from ds_sync.server.front.head import MAX_HEAD, MAX_TARGET
from ds_sync.server.front.http1 import MAX_CONNECTIONS, MIN_RATE
from ds_sync.server.settled import CACHE_BYTES

OWN_FILES: Final = 200
"""What the server itself may have open, beside its clients' connections."""


@dataclass(frozen=True, slots=True)
class ServeLimits:
    """Sizes are bytes, times seconds. The documentation has them in one table: docs/how-to/run-a-server.md."""

    max_head: int
    max_url: int
    max_connections: int
    max_streams: int
    cache_bytes: int
    request_timeout: float
    idle_timeout: float
    min_rate: float


def limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options, and what was given as `limits`."""
    options = (
        _size("--max-head", MAX_HEAD, 1024, "Bytes a request's line and headers may have; 431 above."),
        _size("--max-url", MAX_TARGET, 256, "Bytes a request's URL may have; 414 above."),
        _size("--max-connections", MAX_CONNECTIONS, 1, "Connections at a time; whoever comes then gets 429."),
        _size("--max-streams", 1_000_000, 1, "Living streams; who makes another gets 507."),
        _size("--cache-bytes", CACHE_BYTES, 0, "Bytes of pages read from the file that are kept in memory."),
        _time("--request-timeout", 60.0, "Seconds a request may fall behind --min-rate (408), and who reads an answer (cut off)."),
        _time("--idle-timeout", 75.0, "Seconds a connection may stay open with nothing asked."),
        _time("--min-rate", MIN_RATE, "Bytes a second."),
    )

    @wraps(command)
    def run(**given: Any) -> None:
        limits = ServeLimits(**{field.name: given.pop(field.name) for field in fields(ServeLimits)})
        command(**given, limits=limits)

    for option in reversed(options):
        run = option(run)
    return run


def allow_open_files(connections: int) -> int:
    """Have the system allow as many connections as it lets us; return how many of `connections` that are."""
    if sys.platform == "win32":
        return connections
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + connections // 10 + OWN_FILES  # those that are turned away hold one, too, until they are told
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == resource.RLIM_INFINITY else max(1, min(connections, (soft - OWN_FILES) * 10 // 11))


def _size(name: str, default: int, least: int, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(name, default=default, show_default=True, type=click.IntRange(least), metavar="N", help=text)


def _time(name: str, default: float, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(name, default=default, show_default=True, type=click.FloatRange(0.1), metavar="N", help=text)
