"""What caches may keep (PROTOCOL.md section 8): entity tags, conditional requests and Cache-Control."""

from __future__ import annotations

from typing import Final

NO_STORE: Final = "no-store"
"""Answers about this moment: HEAD, `offset=now`, errors about history."""

REVALIDATE: Final = "no-cache"
"""Pages that end at the tail, or start without an offset to prove their history: kept, but asked for again each time."""

PAGE_SECONDS: Final = 60
LIVE_SECONDS: Final = 20

IMMUTABLE_PAGE: Final = f"public, max-age={PAGE_SECONDS}"
"""Full pages between two offsets: the bytes behind an offset never change, as long as there is the stream.

Section 8.1 recommends `stale-while-revalidate=300` as well. Caches that obey it, nginx among them, go on answering for a stream that was
deleted or made anew: the 410 is not stored, and each of them asks again.
"""

LIVE_PAGE: Final = f"public, max-age={LIVE_SECONDS}"
"""Answers to long-polls that carry data: whoever asks the same within one cursor interval may share them."""


def build_etag(incarnation: str, start: str, end: str, *, closed: bool) -> str:
    """Return the tag of the page from `start` to `end`; closing the stream changes it although the bytes stay."""
    return f'"{incarnation[:12]}:{start}:{end}{":c" if closed else ""}"'


def matches_etag(if_none_match: str | None, etag: str) -> bool:
    """Whether an If-None-Match header covers `etag`: a list of tags, weak or strong, or `*`."""
    if if_none_match is None:
        return False
    return any(tag.strip() in ("*", etag, f"W/{etag}") for tag in if_none_match.split(","))


def decide_cache_control(*, from_beginning: bool, up_to_date: bool, live: bool, longest: float | None = None) -> str:
    """Return the Cache-Control of a 200 answer with a page; `longest`: seconds it may be kept at most (see `Expiry.longest_cached`)."""
    if from_beginning or (up_to_date and not live):  # -1 is the beginning of whatever life is there; offsets are of one
        return REVALIDATE
    if longest is None:
        return LIVE_PAGE if live else IMMUTABLE_PAGE
    seconds = int(min(longest, LIVE_SECONDS if live else PAGE_SECONDS))
    return f"public, max-age={seconds}" if seconds > 0 else REVALIDATE
