"""Parsers in this process: what they may raise, and that it does not matter how the bytes were cut."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus
from findings import Finding, no_longer_than
from mutator import mutate

from ds_sync.client.answers import build_error, parse_append, parse_info, parse_page, parse_retry_after
from ds_sync.client.transport import Response
from ds_sync.exceptions import FramingError, InvalidRequestError, ProtocolError
from ds_sync.protocol import headers
from ds_sync.protocol.cursor import build_cursor
from ds_sync.protocol.expiry import parse_expiry
from ds_sync.protocol.framing import build_frames, parse_frames
from ds_sync.protocol.history import parse_place
from ds_sync.protocol.json_mode import parse_json_body
from ds_sync.protocol.offsets import parse_request_offset, parse_response_offset
from ds_sync.protocol.sse import SsePage, SsePageParser, build_event, parse_control
from ds_sync.server.requests import only_value, parse_query, parse_stream_path

SSE = [
    build_event("control", '{"streamNextOffset":"1","streamCursor":"7"}'),
    build_event("data", "aGVsbG8=") + build_event("control", '{"streamNextOffset":"2","upToDate":true}'),
    build_event("data", '[1,{"a":"b"}]') + build_event("control", '{"streamNextOffset":"3","streamClosed":true}'),
    b": comment\r\n\r\nid: 4\nretry: 10\nevent:data\rdata\rdata: x\r\r",
    b'\xef\xbb\xbfevent: control\ndata: {\ndata: "streamNextOffset":"5"}\n\n',
]
FRAMES = [build_frames([b"", b"hello", b"x" * 300]), build_frames([b"\x00\x00"]), b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x80\x01"]
ANSWERS = [
    b'Stream-Next-Offset: 5\nStream-Closed: true\nStream-Incarnation: 0123456789abcdef0123456789abcdef\n\n{"error":{"code":"X"}}',
    b"Retry-After: 7\n\n",
    b"Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\nProducer-Epoch: 3\nProducer-Expected-Seq: 4\nProducer-Received-Seq: 9\n\n[]",
]


def read_frames(data: bytes) -> None:
    found = parse_frames(data)
    if build_frames(found.payloads) + found.rest == data:
        return
    if parse_frames(build_frames(found.payloads)).payloads != found.payloads:  # a length may be spelled with needless bytes
        raise Finding("the frames are others when they are read again")


def read_json(data: bytes) -> None:
    record = parse_json_body(data)
    page = json.loads(b"[" + record + b"]", parse_int=str, parse_float=str)
    whole = json.loads(data, parse_int=str, parse_float=str)
    if page != (whole if isinstance(whole, list) else [whole]):
        raise Finding("the messages of the record are not those of the body")


def read_sse(data: bytes) -> None:
    """All at once, byte by byte and in pieces: the same pages, or the same refusal."""
    for content_type, encoding in (("text/plain", None), ("application/json", None), ("application/octet-stream", "base64")):
        results = [_pages(data, size, content_type, encoding) for size in (len(data) or 1, 1, 7)]
        refused = [pages is None for pages in results]
        if any(refused) != all(refused) or (not any(refused) and any(pages != results[0] for pages in results)):
            raise Finding(f"the result depends on how the bytes are cut ({content_type})")


def _pages(data: bytes, size: int, content_type: str, encoding: str | None) -> list[SsePage] | None:
    parser = SsePageParser(content_type=content_type, encoding=encoding, max_event=20_000)
    pages: list[SsePage] = []
    try:
        for at in range(0, len(data), size):
            pages += parser.receive_data(data[at : at + size])
    except ProtocolError:
        return None
    return pages


def read_answer(data: bytes) -> None:
    head, _, body = data.partition(b"\n\n")
    pairs = (line.partition(b":") for line in head.split(b"\n"))
    fields = {name.decode("latin-1").lower(): value.strip().decode("latin-1") for name, _, value in pairs}
    for status in (200, 204, 403, 404, 409, 410, 429, 500):
        response = Response(status, fields, body)
        error = build_error(response, now=0.0)
        if error.retry_after is not None and not error.retry_after >= 0:
            raise Finding(f"Retry-After became {error.retry_after}")
        for read in (parse_page, parse_info, lambda answer: parse_append(answer, producer=True)):
            try:
                read(response)
            except ProtocolError:
                continue


def read_values(data: bytes) -> None:
    """Every value of headers and query parameters."""
    text = data.decode("latin-1")
    first, _, second = text.partition(" ")
    calls: list[Callable[[], Any]] = [
        lambda: parse_request_offset(text),
        lambda: parse_response_offset(text),
        lambda: parse_place(text),
        lambda: parse_expiry(text, None),
        lambda: parse_expiry(None, text),
        lambda: headers.parse_producer(first, second, first),
        lambda: headers.require_incarnation(text),
        lambda: only_value(parse_query(data), "offset"),
        lambda: parse_stream_path(data),
        lambda: parse_retry_after(text, now=0.0),
        lambda: build_cursor(text, 1e9, random.Random(1).randrange),
        lambda: parse_control(data, data=b"", incarnation=None),
    ]
    for call in calls:
        try:
            call()
        except (InvalidRequestError, ProtocolError):
            continue


class ParserTarget:
    """One parser."""

    def __init__(self, name: str, read: Callable[[bytes], None], seeds: list[bytes], *, share: float = 0.3) -> None:
        self.name = name
        self.share = share
        self._read = read
        self._seeds = seeds

    def open(self, folder: Path) -> None:
        """Nothing to set up."""

    def make(self, rng: random.Random) -> bytes:
        data = b"".join(rng.choices(self._seeds, k=rng.choice((1, 1, 2, 4))))
        return mutate(rng, data, self._seeds)

    def check(self, data: bytes) -> None:
        with no_longer_than():
            try:
                self._read(data)
            except (InvalidRequestError, FramingError):
                pass  # what a parser is for

    def close(self) -> None:
        """Nothing to clean up."""


PARSERS = [
    ParserTarget("frames", read_frames, FRAMES, share=0.2),
    ParserTarget("json", read_json, [body for body in corpus.BODIES if body]),
    ParserTarget("sse", read_sse, SSE, share=0.6),
    ParserTarget("answers", read_answer, ANSWERS),
    ParserTarget(
        "values",
        read_values,
        [*corpus.WORDS, b"2026-01-01T00:00:00+00:00", b"offset=-1&live=sse", *(n.encode() for n in corpus.NUMBERS if n)],
    ),
]
