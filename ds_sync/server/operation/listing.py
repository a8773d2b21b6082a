"""Which streams there are: `/v1/stream/__ds/streams`. An addition of ours, for people; the protocol has no such request."""

from __future__ import annotations

import json
from bisect import bisect_right
from typing import Final

from ds_sync.exceptions import InvalidRequestError
from ds_sync.protocol.headers import parse_integer
from ds_sync.server.engines.base import INTERNAL, StorageEngine
from ds_sync.server.requests import MAX_PATH, only_value, parse_query
from ds_sync.server.responses import HeaderList, Scope, Send, answer

LIST_PATH: Final = "__ds/streams"
"""Below the mount of streams."""

PAGE: Final = 10_000
"""Paths in an answer at most."""


async def serve_list(engine: StorageEngine, scope: Scope, send: Send) -> None:
    """Answer with the paths of living streams that match `pattern`, sorted, after `after`, `limit` at most.

    Raises InvalidRequestError for a query that makes no sense.
    """
    if scope["method"] not in ("GET", "HEAD"):
        refusal = json.dumps({"error": {"code": "METHOD_NOT_ALLOWED", "message": "streams are listed by GET"}}).encode()
        await answer(send, 405, [(b"allow", b"GET, HEAD"), (b"content-type", b"application/json")], refusal)
        return
    query = parse_query(scope["query_string"])
    pattern, after, limit = (only_value(query, name) for name in ("pattern", "after", "limit"))
    pattern = "**" if pattern is None else pattern
    if not pattern or len(pattern) > MAX_PATH or pattern.startswith(INTERNAL):
        raise InvalidRequestError(f"pattern must have 1 to {MAX_PATH} characters", code="INVALID_PATTERN")
    size = PAGE if limit is None else min(parse_integer(limit, "limit"), PAGE)
    if not size:
        raise InvalidRequestError("limit must be at least 1")
    paths = await engine.list(pattern)
    first = 0 if after is None else bisect_right(paths, after)
    page = paths[first : first + size]
    body = json.dumps({"streams": page, "next": page[-1] if first + size < len(paths) else None}).encode()
    fields: HeaderList = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    await answer(send, 200, fields, b"" if scope["method"] == "HEAD" else body)
