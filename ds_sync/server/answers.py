"""The answers to reads and appends of streams, built from what the engine said (PROTOCOL.md sections 5.2 to 5.6)."""

from __future__ import annotations

from collections.abc import Sequence

from ds_sync.protocol.caching import NO_STORE, build_etag, decide_cache_control, matches_etag
from ds_sync.protocol.decisions import AppendOutcome
from ds_sync.protocol.json_mode import build_json_page
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.protocol.state import StreamState
from ds_sync.server.engines.base import Run
from ds_sync.server.live import SharedPages
from ds_sync.server.responses import Answer, HeaderList


def build_appended(outcome: AppendOutcome, *, numbered: bool) -> Answer:
    """Return the answer to a POST; `numbered`: a producer appended bytes."""
    state = outcome.state
    fields: HeaderList = [
        (b"stream-next-offset", state.tail.encode()),
        (b"stream-incarnation", state.incarnation.encode()),
    ]
    if state.closed:
        fields.append((b"stream-closed", b"true"))
    if outcome.producer is not None:
        fields.append((b"producer-epoch", b"%d" % outcome.producer.epoch))
        fields.append((b"producer-seq", b"%d" % outcome.producer.seq))
    return 200 if numbered and not outcome.duplicate else 204, fields, b""


def build_tail(state: StreamState) -> Answer:
    """Return the answer to a catch-up read from `now`."""
    fields = build_state_fields(state)
    fields += [(b"stream-up-to-date", b"true"), (b"cache-control", NO_STORE.encode())]
    return 200, fields, b"[]" if state.is_json else b""


def build_page(run: Run, offset: str, cursor: str | None, if_none_match: str | None, pages: SharedPages, now: float) -> Answer:
    """Return the answer with what was read from `offset` on; `cursor` for a long-poll, `now` in seconds since 1970."""
    state = run.state
    if state is None:
        raise AssertionError("only pages of living streams are answered")
    end = run.next_offset
    closed = state.closed and run.up_to_date
    # What retention drops changes what is at the beginning, and not how the page ends.
    start = offset if offset != BEGINNING or state.earliest is None else f"{offset}:{state.earliest.position}"
    etag = build_etag(state.incarnation, start, end, closed=closed)
    longest = None if state.deadline is None else state.expiry.longest_cached(now)
    policy = decide_cache_control(from_beginning=offset == BEGINNING, up_to_date=run.up_to_date, live=cursor is not None, longest=longest)
    fields: HeaderList = [
        (b"content-type", state.content_type.encode("latin-1")),
        (b"stream-next-offset", end.encode()),
        (b"stream-incarnation", state.incarnation.encode()),
        (b"etag", etag.encode()),
        (b"cache-control", policy.encode()),
    ]
    if cursor is not None:
        fields.append((b"stream-cursor", cursor.encode()))
    if run.up_to_date:
        fields.append((b"stream-up-to-date", b"true"))
    if closed:
        fields.append((b"stream-closed", b"true"))
    if matches_etag(if_none_match, etag):
        return 304, fields, b""
    if len(run.records) == 1 and not state.is_json:
        return 200, fields, run.records[0]
    return 200, fields, pages.page((state.incarnation, start, end, "page"), lambda: join_records(state, run.records))


def build_silence(run: Run, cursor: str) -> Answer:
    """Return the answer to a long-poll that has waited for nothing."""
    if run.state is None:
        raise AssertionError("only living streams are waited for")
    fields = build_state_fields(run.state, run.next_offset)
    fields += [(b"stream-up-to-date", b"true"), (b"stream-cursor", cursor.encode()), (b"cache-control", NO_STORE.encode())]
    return 204, fields, b""


def build_state_fields(state: StreamState, offset: str | None = None) -> HeaderList:
    """Return the headers that say what a stream is; `offset` in the place of its tail."""
    fields: HeaderList = [
        (b"content-type", state.content_type.encode("latin-1")),
        (b"stream-next-offset", (offset or state.tail).encode()),
        (b"stream-incarnation", state.incarnation.encode()),
    ]
    if state.closed:
        fields.append((b"stream-closed", b"true"))
    if state.ttl is not None:
        fields.append((b"stream-ttl", b"%d" % state.ttl))
    if state.expires_at is not None:
        fields.append((b"stream-expires-at", state.expires_at.encode("latin-1")))
    return fields


def join_records(state: StreamState, records: Sequence[bytes]) -> bytes:
    """Return records as one body."""
    return build_json_page(records) if state.is_json else b"".join(records)
