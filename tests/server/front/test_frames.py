"""Frames of WebSockets, against those of the `websockets` package, cut anywhere, and broken."""

import random
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.streams import StreamReader

from ds_sync.server.front.frames import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    BadFrameError,
    Event,
    FrameReader,
    build_close,
    build_head,
    parse_close,
)

LIMIT = 100_000


def frame(kind: int, data: bytes = b"", *, fin: bool = True) -> bytes:
    """A frame as a client sends it."""
    return Frame(Opcode(kind), data, fin=fin).serialize(mask=True)


def read(pieces: Iterable[bytes]) -> list[Event]:
    reader = FrameReader(LIMIT)
    return [event for piece in pieces for event in reader.receive(piece)]


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just(BINARY), st.binary(max_size=300)),
            st.tuples(st.just(TEXT), st.text(max_size=100).map(str.encode)),
            st.tuples(st.sampled_from((PING, 10)), st.binary(max_size=125)),
        ),
        max_size=8,
    ),
    st.integers(0, 2**32),
)
def test_messages_cut_anywhere_are_the_same_messages(messages: list[tuple[int, bytes]], seed: int) -> None:
    chance = random.Random(seed)
    data = b""
    for kind, payload in messages:
        if kind < CLOSE and chance.random() < 0.5:  # in fragments, with a ping within
            cut = chance.randint(0, len(payload))
            data += frame(kind, payload[:cut], fin=False) + frame(PING, b"within") + frame(0, payload[cut:])
        else:
            data += frame(kind, payload)
    cuts = sorted(chance.randint(0, len(data)) for _ in range(5))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert [(event.kind, event.data) for event in read(pieces) if event.data != b"within"] == [
        (kind, payload) for kind, payload in messages if payload != b"within"
    ]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536, LIMIT])
def test_lengths_both_ways(length: int) -> None:
    payload = bytes(index % 251 for index in range(length))
    assert read([frame(BINARY, payload)]) == [Event(BINARY, payload)]
    reader = StreamReader()
    reader.feed_data(build_head(BINARY, length) + payload)
    parsing = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as done:
        next(parsing)
    assert done.value.value == Frame(Opcode.BINARY, payload)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (bytes((0xC2, 0x80, 0, 0, 0, 0)), 1002),
        (bytes((0x83, 0x80, 0, 0, 0, 0)), 1002),
        (Frame(Opcode.BINARY, b"x").serialize(mask=False), 1002),
        (bytes((0x09, 0x80, 0, 0, 0, 0)), 1002),
        (bytes((0x89, 0xFE, 0, 126)) + bytes(130), 1002),
        (frame(0, b"x"), 1002),
        (frame(BINARY, b"x", fin=False) + frame(BINARY, b"y"), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(0, b"("), 1007),
        (bytes((0x82, 0xFF)) + (LIMIT + 1).to_bytes(8, "big"), 1009),
        (bytes((0x82, 0xFF)) + b"\xff" * 8, 1009),
        (frame(BINARY, bytes(LIMIT), fin=False) + frame(0, b"x"), 1009),
    ],
)
def test_what_breaks_the_rules_is_refused(data: bytes, code: int) -> None:
    with pytest.raises(BadFrameError) as error:
        read([data])
    assert error.value.code == code


def test_a_character_may_be_cut_by_a_fragment() -> None:
    text = "é😀".encode()
    assert read([frame(TEXT, text[:1], fin=False), frame(0, text[1:3], fin=False), frame(0, text[3:])]) == [Event(TEXT, text)]


def test_fragments_take_no_more_memory_than_their_bytes() -> None:
    reader = FrameReader(LIMIT)
    reader.receive(frame(BINARY, b"a", fin=False))
    nothing, little = frame(0, fin=False) * 1000, frame(0, b"xy", fin=False) * 1000
    tracemalloc.start()
    try:
        for _ in range(100):
            assert reader.receive(nothing) == []
        for _ in range(20):
            assert reader.receive(little) == []
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 100_000
    assert reader.receive(frame(0, b"z")) == [Event(BINARY, b"a" + b"xy" * 20_000 + b"z")]
    assert reader.receive(frame(BINARY, b"next")) == [Event(BINARY, b"next")]


def test_close_frames() -> None:
    assert parse_close(Close(CloseCode.GOING_AWAY, "bye é").serialize()) == (1001, "bye é")
    assert parse_close(b"") == (1005, "")
    long = build_close(4403, "é" * 100)
    assert len(long) <= 127
    assert parse_close(long[2:]) == (4403, "é" * 61)
    for bad in (b"\x03", b"\x03\xed", b"\x00\x00", (999).to_bytes(2, "big"), (5000).to_bytes(2, "big"), b"\x03\xe8\xff"):
        with pytest.raises(BadFrameError):
            parse_close(bad)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_events_or_a_refusal(data: bytes) -> None:
    try:
        events = read([data])
    except BadFrameError:
        return
    assert sum(len(event.data) for event in events) <= len(data)
