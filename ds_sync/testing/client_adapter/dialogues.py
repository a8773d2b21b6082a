"""The dialogues that every server and this adapter must manage, by name."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ds_sync.testing.client_adapter.cases import Answered, Behind, Pause, Step, do
from ds_sync.testing.client_adapter.proxy import ProxyFault

TEXT: Final = "text/plain"
JSON: Final = "application/json"
BROKEN_CONTROL: Final = b"event: control\ndata: {not json\n\n"

FINE: Final[Mapping[str, Any]] = {"success": True, "status": 200}


def error(code: str, status: int | None = None, **more: Any) -> dict[str, Any]:
    """What a refusal holds."""
    return {"success": False, "errorCode": code, **({} if status is None else {"status": status}), **more}


def at_tail(data: str, *, closed: bool = False) -> dict[str, Any]:
    """What a read up to the tail holds."""
    return {**FINE, "data": data, "upToDate": True, "streamClosed": closed, **({} if data else {"count": 0})}


def stream(*data: str, content_type: str = TEXT) -> list[Step]:
    """A new stream with these appends; the offset after number n is kept as `n`."""
    made = do("create", {"success": True, "status": 201}, contentType=content_type)
    return [made, *(do("append", FINE, data=one, keep=str(number)) for number, one in enumerate(data, 1))]


def encoded(data: bytes) -> dict[str, Any]:
    """Bytes as a command carries them."""
    return {"data": base64.b64encode(data).decode(), "binary": True}


LIFE: Final[dict[str, Sequence[Step]]] = {
    "created-once": [
        do("create", {"success": True, "status": 201}, contentType=TEXT),
        do("create", {"success": True, "status": 200}, contentType=TEXT),
        do("create", error("CONFLICT", 409), contentType=JSON),
    ],
    "created-by-default": [do("create"), do("head", {**FINE, "contentType": "application/octet-stream", "streamClosed": False})],
    "created-with-a-life": [do("create", ttlSeconds=60, closed=True), do("head", {"streamClosed": True})],
    "created-until": [do("create", expiresAt="2999-01-01T00:00:00Z"), do("head", FINE)],
    "created-closed-and-full": [
        do("create", {"status": 201}, contentType=TEXT, data="all", closed=True),
        do("read", at_tail("all", closed=True), live=False),
        do("append", error("STREAM_CLOSED", 409), data="more"),
    ],
    "content-type-verbatim": [
        do("create", contentType="text/plain; charset=utf-8"),
        do("head", {"contentType": "text/plain; charset=utf-8"}),
    ],
    "connected": [*stream("old"), do("connect", FINE, keep="tail"), do("read", at_tail(""), offset="${tail}")],
    "not-there": [
        do("connect", error("NOT_FOUND", 404, says="/test-")),
        do("head", error("NOT_FOUND", 404, says="/test-")),
        do("head", error("NOT_FOUND", 404, says="not found")),
        do("append", error("NOT_FOUND", 404, says="/test-"), data="x"),
        do("close", error("NOT_FOUND", 404, says="/test-")),
        do("delete", error("NOT_FOUND", 404, says="/test-")),
        do("read", error("NOT_FOUND", 404, says="/test-")),
        do("read", error("NOT_FOUND", 404), live="long-poll", timeoutMs=1000),
        do("read", error("NOT_FOUND", 404), live="sse", timeoutMs=1000),
        do("read", error("NOT_FOUND", 404), live=True, timeoutMs=1000),
        do("idempotent-append", error("NOT_FOUND", 404), data="x", producerId="p"),
    ],
    "deleted": [*stream("x"), do("delete", FINE), do("read", error("NOT_FOUND", 404)), do("head", error("NOT_FOUND", 404))],
    "closed-twice": [
        *stream("a"),
        do("close", keep=None),
        do("close"),
        do("head", {"streamClosed": True}),
        do("read", at_tail("a", closed=True)),
        do("read", {"count": 0, "upToDate": True, "streamClosed": True}, offset="${1}", live="long-poll"),
        do("read", {"data": "a", "streamClosed": True}, live="sse"),
    ],
    "closed-with-a-last-word": [*stream("a"), do("close", data="z"), do("read", at_tail("az", closed=True), live=False)],
    "empty-append": [*stream(), do("append", error("UNEXPECTED_STATUS", 400), data="")],
    "stream-seq": [
        *stream(),
        do("append", FINE, data="a", seq=1),
        do("append", error("SEQUENCE_CONFLICT", 409), data="b", seq=1),
        do("append", error("SEQUENCE_CONFLICT", 409), data="b", seq=0),
        do("append", FINE, data="c", seq=2),
        do("read", at_tail("ac")),
    ],
}

READING: Final[dict[str, Sequence[Step]]] = {
    "from-everywhere": [
        *stream("one", "two", "three"),
        do("read", at_tail("onetwothree"), offset="-1"),
        do("read", at_tail("twothree"), offset="${1}"),
        do("read", at_tail("three"), offset="${2}"),
        do("read", at_tail(""), offset="${3}"),
        do("read", at_tail(""), offset="now"),
    ],
    "nothing-there": [
        *stream(),
        do("read", at_tail("")),
        do("read", {"count": 0, "upToDate": True, "streamClosed": False}, live="long-poll", waitForUpToDate=True),
        do("read", at_tail(""), live="sse", waitForUpToDate=True),
        do("read", at_tail(""), live=True, waitForUpToDate=True, timeoutMs=500),
    ],
    "no-offset": [
        *stream("x"),
        do("read", error("INVALID_OFFSET", 400), offset="not an offset"),
        do("read", error("INVALID_OFFSET", 400), offset="a,b", live="long-poll"),
    ],
    "now-by-long-poll-is-204": [
        *stream("old"),
        do(
            "read",
            {"success": True, "status": 204, "count": 0, "upToDate": True},
            offset="now",
            live="long-poll",
            timeoutMs=700,
            keep="now",
        ),
        do("append", data="new"),
        do("read", at_tail("new"), offset="${now}"),
    ],
    "now-by-sse": [*stream("old"), do("read", at_tail(""), offset="now", live="sse", waitForUpToDate=True)],
    **{
        f"new-data-by-{live}": [
            *stream("old"),
            do("read", offset="${1}", live=live, maxChunks=1, wait=False),
            Pause(0.2),
            Behind(b"new"),
            Answered({**FINE, "data": "new", "count": 1}),
        ]
        for live in ("sse", "long-poll", True)
    },
    "all-ways-give-the-same": [
        *stream("a", "b", "c"),
        *(do("read", at_tail("bc"), offset="${1}", live=live, waitForUpToDate=True) for live in (False, "sse", "long-poll", True)),
    ],
    "long-poll-runs-into-the-time": [
        *stream("x"),
        do("read", at_tail("x"), live="long-poll", timeoutMs=1000),
        do("read", {"success": True, "count": 0, "upToDate": True}, offset="${1}", live="long-poll", timeoutMs=300),
    ],
    "one-chunk-and-no-more": [
        *stream("a", "b"),
        do("read", {"count": 1, "streamClosed": False}, live="long-poll", maxChunks=1, keep="part"),
        do("read", {"upToDate": True, "streamClosed": False}, offset="${part}", live=False),
    ],
    "an-append-while-a-read-waits": [
        *stream("a"),
        do("read", offset="${1}", live="sse", maxChunks=1, wait=False),
        Pause(0.2),
        do("idempotent-append", wait=False, data="b", producerId="p", epoch=0, autoClaim=True),
        Answered({"type": "read", "data": "b"}),
        Answered({"type": "idempotent-append", **FINE}),
    ],
    "line-ends-of-unicode": [
        *stream("a\u0085b\u2028c\u2029d", "  two spaces"),
        do("read", at_tail("a\u0085b\u2028c\u2029d  two spaces"), live=False),
        do("read", {"count": 1}, live="sse", maxChunks=1),
    ],
    "text-in-utf-8": [*stream("Hello 世界 🌍"), do("read", at_tail("Hello 世界 🌍"), live="sse", waitForUpToDate=True)],
    "bytes": [
        do("create", contentType="application/octet-stream"),
        do("append", FINE, **encoded(b"Hello")),
        do("append", FINE, **encoded(b"\xfe\xbf\x00")),
        do("read", {"data": "Hello\ufffd\ufffd\0", "upToDate": True}, live=False),
        do("read", {"data": "Hello\ufffd\ufffd\0", "upToDate": True}, live="sse", waitForUpToDate=True),
    ],
    "json": [
        *stream('{"message": "hello"}', "[1, 2]", '"a  b"', "null", content_type=JSON),
        do("read", at_tail('[{"message":"hello"},[1,2],"a  b",null]')),
        do("read", at_tail('[[1,2],"a  b",null]'), offset="${1}", live="sse", waitForUpToDate=True),
        do("read", at_tail('["a  b",null]'), offset="${2}", live="long-poll", waitForUpToDate=True),
        do("read", at_tail(""), offset="${4}"),
        do("append", error("UNEXPECTED_STATUS", 400), data="{no"),
    ],
}

PRODUCING: Final[dict[str, Sequence[Step]]] = {
    "numbers-go-on": [
        *stream(),
        do("idempotent-append", FINE, data="a", producerId="p", epoch=0),
        do("idempotent-append", FINE, data="b", producerId="p", epoch=0),
        do("read", at_tail("ab")),
    ],
    "a-batch-in-one": [
        *stream(),
        do("idempotent-append-batch", FINE, items=["Hello", " ", "World"], producerId="p", epoch=0),
        do("read", {"data": "Hello World", "count": 1}),
    ],
    "a-batch-of-json": [
        *stream(content_type=JSON),
        do("idempotent-append-batch", FINE, items=["[1, 2]", "true", '{"a": null}'], producerId="p", epoch=0),
        do("read", at_tail('[[1,2],true,{"a":null}]')),
    ],
    **{
        f"twenty-under-way-{'claiming' if claim else 'plain'}{'-json' if kind == JSON else ''}": [
            *stream(content_type=kind),
            do("idempotent-append-batch", FINE, items=[str(n) for n in range(20)], producerId="p", maxInFlight=5, autoClaim=claim),
            do("read", at_tail("[" + ",".join(map(str, range(20))) + "]" if kind == JSON else "".join(map(str, range(20))))),
        ]
        for claim in (False, True)
        for kind in (TEXT, JSON)
    },
    "fenced": [
        *stream(),
        Behind(b"first", {"Producer-Id": "p", "Producer-Epoch": "5", "Producer-Seq": "0"}),
        do("idempotent-append", error("UNEXPECTED_STATUS", 403), data="lost", producerId="p", epoch=0, autoClaim=False),
        do("idempotent-append", FINE, data="second", producerId="p", epoch=1, autoClaim=True),
        do("idempotent-append-batch", FINE, items=["third"], producerId="p", epoch=0, autoClaim=True),
        do("read", at_tail("firstsecondthird")),
    ],
    "numbers-of-a-stranger": [
        *stream(),
        Behind(b"first", {"Producer-Id": "p", "Producer-Epoch": "0", "Producer-Seq": "0"}),
        do("idempotent-append", FINE, data="second", producerId="p", epoch=0, autoClaim=True),
        do("read", at_tail("firstsecond")),
    ],
    "repeated-without-claiming": [
        *stream(),
        do("idempotent-append-batch", FINE, items=["once"], producerId="p", epoch=0),
        do("idempotent-append-batch", FINE, items=["once"], producerId="p", epoch=0),
        do("read", at_tail("once")),
    ],
    "closed-by-a-producer": [
        *stream(),
        do("idempotent-append", data="a", producerId="p", epoch=0),
        do("idempotent-close", FINE, data="z", producerId="p", epoch=0),
        do("idempotent-close", FINE, data="other", producerId="p", epoch=0),
        do("idempotent-close", error("STREAM_CLOSED", 409), producerId="q", epoch=0),
        do("read", at_tail("az", closed=True)),
    ],
    "deleted-and-made-anew": [
        *stream(),
        do("idempotent-append", FINE, data="a", producerId="p", epoch=0),
        do("idempotent-append", FINE, data="b", producerId="p", epoch=0),
        do("delete", FINE),
        *stream(),
        do("idempotent-append", FINE, data="c", producerId="p", epoch=0),
        do("read", at_tail("c")),
    ],
    "detached": [
        *stream(),
        do("idempotent-append", data="a", producerId="p", epoch=0),
        do("idempotent-detach", FINE, producerId="p", epoch=0),
        do("append", FINE, data="b"),
        do("read", at_tail("ab")),
    ],
}

SETTINGS: Final[dict[str, Sequence[Step]]] = {
    "dynamic": [
        *stream(),
        do("set-dynamic-header", name="X-Count", valueType="counter"),
        do("set-dynamic-header", name="Authorization", valueType="token", initialValue="Bearer t"),
        do("set-dynamic-param", name="n", valueType="counter"),
        do("append", {"headersSent": {"X-Count": "1", "Authorization": "Bearer t"}, "paramsSent": {"n": "1"}}, data="a"),
        do("read", {"headersSent": {"X-Count": "2", "Authorization": "Bearer t"}, "paramsSent": {"n": "2"}}),
        do("clear-dynamic"),
        do("read", {"headersSent": None, "paramsSent": None}),
    ],
    **{
        f"{target['target']}-{'-'.join(f'{n}-{v}' for n, v in target.items() if n != 'target')}": [
            do("validate", {"success": True} if wrong is None else error("INVALID_ARGUMENT", says=wrong), target=target)
        ]
        for target, wrong in (
            ({"target": "retry-options", "maxRetries": 3, "initialDelayMs": 100, "maxDelayMs": 5000, "multiplier": 2.0}, None),
            ({"target": "retry-options", "maxRetries": -1}, "maxRetries"),
            ({"target": "retry-options", "initialDelayMs": 0}, "initialDelayMs"),
            ({"target": "retry-options", "initialDelayMs": -100}, "initialDelayMs"),
            ({"target": "retry-options", "initialDelayMs": 1000, "maxDelayMs": 500}, "maxDelayMs"),
            ({"target": "retry-options", "multiplier": 0.5}, "multiplier"),
            ({"target": "idempotent-producer", "producerId": "p", "epoch": 0, "maxBatchBytes": 1048576}, None),
            ({"target": "idempotent-producer", "producerId": "p", "epoch": -1}, "epoch"),
            ({"target": "idempotent-producer", "producerId": "p", "maxBatchBytes": 0}, "maxBatchBytes"),
            ({"target": "idempotent-producer", "producerId": "p", "maxBatchItems": 0}, "maxBatchItems"),
            ({"target": "idempotent-producer", "producerId": "p", "maxBatchItems": -1}, "maxBatchItems"),
        )
    },
}

FAULTS: Final[dict[str, Sequence[Step]]] = {
    **{
        f"read-after-{name}": [*stream("data"), fault, do("read", at_tail("data"))]
        for name, fault in {
            "500": ProxyFault(status=500),
            "500-twice": ProxyFault(status=500, count=2),
            "503": ProxyFault(status=503),
            "429": ProxyFault(status=429, retry_after=1),
            "drop": ProxyFault(drop=True),
            "drop-twice": ProxyFault(drop=True, count=2),
            "lost-answer": ProxyFault(lose=True),
            "delay": ProxyFault(delay=0.4),
        }.items()
    },
    **{
        f"{live}-after-{name}": [*stream("data"), fault, do("read", {"data": "data"}, live=live, maxChunks=1)]
        for live in ("sse", "long-poll")
        for name, fault in {"500": ProxyFault(status=500, live=True), "drop": ProxyFault(drop=True, live=True)}.items()
    },
    **{
        f"append-after-{name}": [*stream(), fault, do("append", FINE, data="once"), do("read", at_tail("once"))]
        for name, fault in {
            "500": ProxyFault(status=500, method="POST"),
            "503": ProxyFault(status=503, method="POST"),
            "429": ProxyFault(status=429, method="POST"),
            "drop": ProxyFault(drop=True, method="POST"),
        }.items()
    },
    **{
        f"producer-after-{name}": [
            *stream(),
            fault,
            do("idempotent-append-batch", FINE, items=list("abcdefgh"), producerId="p", epoch=0, autoClaim=claim, maxInFlight=4),
            do("read", at_tail("abcdefgh")),
        ]
        for claim, name, fault in (
            (False, "500", ProxyFault(status=500, method="POST", count=2)),
            (False, "lost-answers", ProxyFault(lose=True, method="POST", count=3)),
            (True, "lost-answer-claiming", ProxyFault(lose=True, method="POST")),
            (False, "drops", ProxyFault(drop=True, method="POST", count=3)),
            (False, "being-overtaken", ProxyFault(delay=0.2, method="POST", count=1)),
        )
    },
    "given-up-in-time": [*stream("x"), ProxyFault(status=500, count=20), do("read", error("UNEXPECTED_STATUS", 500))],
    "400-is-not-repeated": [*stream("x"), ProxyFault(status=400), do("read", error("INVALID_OFFSET", 400)), do("read", at_tail("x"))],
    "json-garbled": [
        *stream('{"a":1}', content_type=JSON),
        ProxyFault(garble=True, method="GET"),
        do("read", error("PARSE_ERROR")),
        do("read", at_tail('[{"a":1}]')),
    ],
    "json-cut-short": [
        *stream('{"a":1}', content_type=JSON),
        ProxyFault(keep=5, method="GET"),
        do("read", error("PARSE_ERROR")),
        do("read", at_tail('[{"a":1}]')),
    ],
    **{
        f"sse-control-{name}": [
            *stream("data"),
            ProxyFault(insert=control, live=True),
            do("read", error("PARSE_ERROR"), live="sse", maxChunks=1),
            do("read", {"data": "data"}, live="sse", maxChunks=1),
        ]
        for name, control in {
            "broken": BROKEN_CONTROL,
            "empty": b"event: control\ndata: \n\n",
            "without-an-offset": b'event: control\ndata: {"upToDate":true}\n\n',
            "of-another-kind": b'event: control\ndata: {"streamNextOffset":7}\n\n',
        }.items()
    },
    "sse-unknown-event": [
        *stream("data"),
        ProxyFault(insert=b'event: future\ndata: {"x":1}\n\n: a comment\n\n', live=True),
        do("read", {"data": "data"}, live="sse", maxChunks=1),
    ],
}

DIALOGUES: Final[dict[str, Sequence[Step]]] = {**LIFE, **READING, **PRODUCING, **SETTINGS, **FAULTS}
