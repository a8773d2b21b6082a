"""Streams that end by themselves: Stream-TTL and Stream-Expires-At (PROTOCOL.md section 5.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ds_sync.exceptions import InvalidRequestError
from ds_sync.protocol.headers import parse_integer

RENEWAL_SHARE: Final = 0.05
"""Of a time to live: a read moves the deadline only if it gains this much, so that reading costs few commits."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """When a stream ends: `ttl` seconds after its last read or append, or at `expires_at`, or (neither) never."""

    ttl: int | None = None
    expires_at: str | None = None
    """As the creator spelled it."""

    def deadline(self, now: float) -> float | None:
        """Return the end, in seconds since 1970, for a stream made or used at `now`."""
        if self.ttl is not None:
            return now + self.ttl
        return None if self.expires_at is None else parse_timestamp(self.expires_at)

    def longest_cached(self, now: float) -> float | None:
        """Return how many seconds after `now` a cache may answer for the stream; None for as long as it likes.

        Not past its end, and no longer than half a time to live: what a cache answers renews nothing.
        """
        if self.ttl is not None:
            return self.ttl / 2
        return None if self.expires_at is None else parse_timestamp(self.expires_at) - now


_LEAP_SECOND: Final = re.compile(r"^(.{17})60")
"""RFC 3339 section 5.7 has it; Python does not."""

NEVER: Final = Expiry()


def parse_expiry(ttl: str | None, expires_at: str | None) -> Expiry:
    """Read the two headers, of which a request may have one. Raises InvalidRequestError."""
    if ttl is not None and expires_at is not None:
        raise InvalidRequestError("Stream-TTL and Stream-Expires-At exclude each other")
    if ttl is not None:
        return Expiry(ttl=parse_integer(ttl, "Stream-TTL", canonical=True))
    if expires_at is not None:
        parse_timestamp(expires_at)
        return Expiry(expires_at=expires_at)
    return NEVER


def parse_timestamp(text: str) -> float:
    """Return seconds since 1970 for an RFC 3339 time, or another of ISO 8601; one without a zone is UTC. Raises InvalidRequestError."""
    whole = _LEAP_SECOND.sub(r"\g<1>59", text)
    try:
        moment = datetime.fromisoformat(whole.upper())
        seconds = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
        return seconds + (whole != text)
    except (ValueError, OverflowError):
        raise InvalidRequestError("Stream-Expires-At must be an ISO 8601 time") from None
