"""HTTP requests that mean something, from tables: a new header, path or method is one line."""

from __future__ import annotations

import random

METHODS = ["GET", "GET", "GET", "PUT", "PUT", "POST", "POST", "POST", "HEAD", "DELETE", "OPTIONS", "PATCH", "TRACE", "get", "X-\xff"]

STREAMS = {
    "/v1/stream/fuzz/a": "application/octet-stream",
    "/v1/stream/fuzz/b": "application/octet-stream",
    "/v1/stream/fuzz/json": "application/json",
    "/v1/stream/fuzz/text": "text/plain",
    "/v1/stream/fuzz/closed": "text/plain",
    "/v1/stream/fuzz/brief": "text/plain",
    "/v1/stream/fuzz/fork": "application/octet-stream",
    "/v1/stream/yjs/fuzz/docs/d/.updates": "application/octet-stream",
    "/v1/yjs/fuzz/docs/d": "application/octet-stream",
    "/v1/yjs/fuzz/docs/d?awareness=x": "application/octet-stream",
}
"""Most requests go to one of these, with what it holds."""

PATHS = [
    *("/v1/stream/", "/v1/stream", "/", "/health", "/metrics", "http://127.0.0.1/v1/stream/fuzz/a"),
    *("/v1/stream/__ds/subscriptions", "/v1/stream/__ds/subscriptions/fuzz", "/v1/stream/__ds/subscriptions/fuzz/claim"),
    *("/v1/stream/__ds/subscriptions/fuzz/ack", "/v1/stream/__ds/subscriptions/fuzz/callback", "/v1/stream/__ds/jwks"),
    *("/v1/yjs/fuzz/docs/d", "/v1/yjs/fuzz/docs/e/f", "/v1/yjs/fuzz/docs/d?awareness=x", "/v1/yjs/fuzz/docs/d?offset=snapshot"),
    *("/v1/stream/yjs/fuzz/docs/d/.index", "/v1/stream/yjs/fuzz/docs/d/.awareness/x", "/v1/stream/yjs/fuzz/docs/d/.snapshots/-1_snapshot"),
    *("/v1/yjs/fuzz/docs/d?offset=snapshot&live=sse", "/v1/yjs/fuzz/docs/d?offset=-1_snapshot", "/v1/yjs/fuzz/docs/d?awareness="),
    *("/v1/yjs/fuzz/docs/d?offset=0000000000000005_0000000000000007_snapshot", "/v1/yjs/fuzz/docs/d?awareness=.index&live=sse"),
    *("/v1/ws/fuzz/room", "/v1/stream/%2e%2e/x", "/v1/stream/fuzz%2Fa", "/v1/stream/%ff", "/v1/stream/a%00b"),
]

OFFSETS = [
    *("-1", "now", "0000000000000000_0000000000000000", "9999999999999999_9999999999999999", "0000000000000005_0000000000000001", ""),
    *("-2", "0", "a,b", "..", "%00", "x" * 300, "0000000000000000_0000000000000001"),
]

NUMBERS = ["0", "1", "2", "7", "3600", "-1", "05", "1.5", "9007199254740991", "9007199254740992", "99999999999999999999", "", "1abc"]

QUERY = {
    "offset": OFFSETS,
    "live": ["long-poll", "sse", "true", "", "SSE"],
    "cursor": [*NUMBERS, "abc", "x" * 500],
}

HEADERS = {
    "Content-Type": ["application/octet-stream", "application/json", "text/plain", "text/plain; charset=utf-8", "a/b", "nonsense", ""],
    "Stream-Seq": ["a", "b", "0001", "\xff", "x" * 2000],
    "Stream-TTL": NUMBERS,
    "Stream-Expires-At": ["2000-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "2026-W01", "99999-01-01"],
    "Stream-Closed": ["true", "TRUE", "false", "1"],
    "Stream-Incarnation": ["0" * 32, "f" * 32, "xyz", ""],
    "Stream-Forked-From": ["/v1/stream/fuzz/a", "/v1/stream/fuzz/json", "fuzz/a", "/v1/stream/none", "/v1/stream/fuzz/fork", "", "%"],
    "Stream-Fork-Offset": OFFSETS,
    "Stream-Fork-Sub-Offset": NUMBERS,
    "Producer-Id": ["p", "q", "", "x" * 300, "\xe9"],
    "Producer-Epoch": NUMBERS,
    "Producer-Seq": NUMBERS,
    "If-None-Match": ["*", '"x"', 'W/"x"', "", ","],
    "Accept": ["text/event-stream", "*/*"],
    "Authorization": ["Bearer x", "Bearer ", "\xff"],
    "Origin": ["http://example.com", "null"],
    "Range": ["bytes=0-5", "bytes=5-0"],
    "Expect": ["100-continue", "200-ok"],
    "Upgrade": ["h2c", "websocket"],
    "Connection": ["close", "keep-alive", "Upgrade"],
    "Content-Length": ["0", "5", "-1", "abc", "99999999999"],
    "Transfer-Encoding": ["chunked", "gzip", "chunked, chunked"],
}

BUNDLES = [
    ("Producer-Id", "Producer-Epoch", "Producer-Seq"),
    ("Stream-Forked-From", "Stream-Fork-Offset", "Stream-Fork-Sub-Offset"),
    ("Stream-Closed", "Producer-Id", "Producer-Epoch", "Producer-Seq"),
]
"""Headers that mean something together; their first values are the sensible ones."""

BODIES = [
    *(b"", b"", b"hello", b"\x00\xff\xfe", b"x" * 5000, b"\x05hello", b"\x05hello", b"\x05hell", b"\xff\xff\xff\xff\x0f"),
    *(b'{"a":1}', b"[1,2,3]", b"[]", b"[[],[]]", b"[" * 3000, b'"\\ud800"', b"1e999", b"NaN", b"[1,]", b'{"a":1}{}', b"\xef\xbb\xbf[]"),
    *(b"\x01\x09\x01\x02{}", b"\x06\x01\x09\x01\x02{}", b"\x02\x00\x00", b"\x01\x09\xff\xff\xff\xff\x0f\x00", b"\x05\x01\x09\x02\x04null"),
    b'{"type":"pull-wake","pattern":"fuzz/**","streams":["fuzz/a"],"wake_stream":"fuzz/wake","lease_ttl_ms":30000}',
    b'{"type":"webhook","pattern":"fuzz/*","webhook":{"url":"http://127.0.0.1:9/x"}}',
    b'{"worker":"w"}',
    b'{"wake_id":"w","generation":1,"acks":[{"stream":"fuzz/a","offset":"-1"}],"done":true}',
    b'{"streams":["fuzz/b"]}',
]

WORDS = (
    [name.encode() for name in HEADERS] + [path.encode("latin-1") for path in (*STREAMS, *PATHS)] + [offset.encode() for offset in OFFSETS]
)
"""Pieces for the mutator."""

SETUP = [
    ("PUT", "/v1/stream/fuzz/a", {"Content-Type": "application/octet-stream"}, b"first"),
    ("PUT", "/v1/stream/fuzz/b", {"Content-Type": "application/octet-stream"}, b""),
    ("PUT", "/v1/stream/fuzz/json", {"Content-Type": "application/json"}, b'[{"a":1},2]'),
    ("PUT", "/v1/stream/fuzz/text", {"Content-Type": "text/plain"}, "né\n".encode()),
    ("PUT", "/v1/stream/fuzz/closed", {"Content-Type": "text/plain", "Stream-Closed": "true"}, b"end"),
    ("PUT", "/v1/stream/fuzz/brief", {"Content-Type": "text/plain", "Stream-TTL": "1"}, b"soon over"),
    ("PUT", "/v1/stream/yjs/fuzz/docs/d/.updates", {"Content-Type": "application/octet-stream"}, b""),
    ("PUT", "/v1/yjs/fuzz/docs/d", {"Content-Type": "application/octet-stream"}, b""),
    ("POST", "/v1/yjs/fuzz/docs/d?awareness=x", {"Content-Type": "application/octet-stream"}, b"\x06\x01\x09\x01\x02{}"),
]
"""Sent again from time to time, for requests to find something."""


def build_request(method: str, target: str, headers: dict[str, str], body: bytes, *, length: bool = True) -> bytes:
    """Spell an HTTP/1.1 request."""
    fields = {"Host": "localhost", **headers}
    if length and "Transfer-Encoding" not in fields:
        fields.setdefault("Content-Length", str(len(body)))
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
    return head.encode("latin-1") + body


def make_request(rng: random.Random) -> bytes:
    """Return a request out of the tables: most of them make sense."""
    headers = {name: rng.choice(HEADERS[name]) for name in rng.sample(list(HEADERS), rng.choice((0, 0, 1, 2, 4)))}
    if rng.random() < 0.97:
        for name in ("Content-Length", "Transfer-Encoding", "Upgrade", "Expect"):
            headers.pop(name, None)
    method, path = rng.choice(METHODS), rng.choice(PATHS)
    if rng.random() < 0.8:
        path, kind = rng.choice(list(STREAMS.items()))
        headers.setdefault("Content-Type", kind)
    if rng.random() < 0.4:
        names = rng.choice(BUNDLES)
        headers |= {name: rng.choice(HEADERS[name][:4]) for name in names[: rng.choice((len(names), len(names), 1, 2))]}
    asked = [name for name in QUERY for _ in range(rng.choice((0, 1, 1, 1, 2)) if method == "GET" else 0)]
    query = "&".join(f"{name}={rng.choice(QUERY[name])}" for name in asked)
    if rng.random() < 0.4:
        query = query and f"offset={rng.choice(OFFSETS[:3])}"
    target, body = path + (f"{'&' if '?' in path else '?'}{query}" if query else ""), rng.choice(BODIES)
    if rng.random() < 0.15:
        return build_request(method, target, headers | {"Transfer-Encoding": "chunked"}, chunk(rng, body))
    return build_request(method, target, headers, body, length=rng.random() < 0.97)


def chunk(rng: random.Random, body: bytes) -> bytes:
    """Spell a body in chunks (RFC 9112 section 7.1), with an extension and a trailer at times."""
    spelled, size = b"", rng.choice((1, 3, 1000))
    for at in range(0, len(body[:50]) if size == 1 else len(body), size):
        part = body[at : at + size]
        spelled += b"%x%s\r\n%s\r\n" % (len(part), rng.choice((b"", b"", b";x=y")), part)
    return spelled + b"0\r\n" + rng.choice((b"", b"", b"Trailer: x\r\n")) + b"\r\n"
