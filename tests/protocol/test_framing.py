import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_sync.exceptions import FramingError
from ds_sync.protocol.framing import Frames, build_frame, build_frames, parse_frames


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_frames_come_back_whatever_the_cut(payloads: list[bytes]) -> None:
    run = build_frames(payloads)
    assert parse_frames(run) == Frames(tuple(payloads), b"")
    for cut in range(0, len(run), 37):
        head = parse_frames(run[:cut])
        tail = parse_frames(head.rest + run[cut:])
        assert head.payloads + tail.payloads == tuple(payloads)
        assert tail.rest == b""


def test_lengths_are_lib0_varints() -> None:
    assert build_frame(b"x" * 127)[:1] == b"\x7f"
    assert build_frame(b"x" * 300)[:2] == b"\xac\x02"


def test_a_length_that_cannot_be_one_says_where() -> None:
    with pytest.raises(FramingError) as caught:
        parse_frames(build_frame(b"ab") + b"\xff" * 6)
    assert caught.value.at == 3
    with pytest.raises(FramingError, match="above 10"):
        parse_frames(b"\x0b", max_frame=10)


@given(st.binary(max_size=60))
def test_arbitrary_bytes(data: bytes) -> None:
    at = None
    try:
        frames = parse_frames(data)
    except FramingError as error:
        at = error.at
    if at is not None:
        assert 0 <= at < len(data)
        return
    assert data.endswith(frames.rest)
    assert sum(map(len, frames.payloads)) + len(frames.rest) <= len(data)
