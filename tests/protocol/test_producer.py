import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_sync.exceptions import InvalidRequestError, SequenceGapError, StaleEpochError
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.producer import ProducerState, decide_producer, digest_body

KNOWN = ProducerState(epoch=2, seq=5, digest=digest_body(b"first"))


def stamp(epoch: int, seq: int) -> ProducerStamp:
    return ProducerStamp("p", epoch, seq)


def test_a_new_producer_starts_at_0_in_any_epoch() -> None:
    assert decide_producer(None, stamp(7, 0), b"x") == ProducerState(7, 0, digest_body(b"x"))
    with pytest.raises(SequenceGapError) as caught:
        decide_producer(None, stamp(0, 1), b"x")
    assert (caught.value.expected, caught.value.received) == (0, 1)


def test_the_next_number_is_accepted_and_keeps_the_first_bodys_digest() -> None:
    assert decide_producer(KNOWN, stamp(2, 6), b"other") == ProducerState(2, 6, digest_body(b"first"))


def test_what_came_is_a_duplicate() -> None:
    assert [decide_producer(KNOWN, stamp(2, seq), b"first") for seq in range(6)] == [None] * 6


def test_a_gap_says_what_was_expected() -> None:
    with pytest.raises(SequenceGapError) as caught:
        decide_producer(KNOWN, stamp(2, 9), b"x")
    assert (caught.value.expected, caught.value.received) == (6, 9)


def test_an_earlier_epoch_is_fenced() -> None:
    with pytest.raises(StaleEpochError) as caught:
        decide_producer(KNOWN, stamp(1, 6), b"x")
    assert caught.value.current_epoch == 2


def test_a_later_epoch_starts_at_0() -> None:
    assert decide_producer(KNOWN, stamp(3, 0), b"y") == ProducerState(3, 0, digest_body(b"y"))
    with pytest.raises(InvalidRequestError):
        decide_producer(KNOWN, stamp(3, 1), b"y")


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=30))
def test_whatever_arrives_each_number_is_accepted_once_and_in_order(arrivals: list[tuple[int, int]]) -> None:
    state, accepted = None, []
    for epoch, seq in arrivals:
        try:
            made = decide_producer(state, stamp(epoch, seq), b"body")
        except (SequenceGapError, StaleEpochError, InvalidRequestError):
            continue
        if made is not None:
            accepted.append((epoch, seq))
            state = made
    assert accepted == sorted(set(accepted))
    for epoch in {epoch for epoch, _ in accepted}:
        numbers = [seq for known, seq in accepted if known == epoch]
        assert numbers == list(range(len(numbers)))
