import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_sync.exceptions import InvalidRequestError
from ds_sync.protocol.history import (
    CHECK_MODULUS,
    START,
    Place,
    begin_history,
    build_offset,
    build_place,
    extend_history,
    parse_place,
    spell_place,
)

LIFE = "0123456789abcdef0123456789abcdef"


def run_through(records: list[bytes], incarnation: str = LIFE) -> tuple[int, bytes]:
    running = begin_history(incarnation)
    for record in records:
        running = extend_history(running, record)
    return sum(map(len, records)), running


def test_the_start_is_all_zeros_in_every_life() -> None:
    assert build_offset(0, begin_history(LIFE)) == "0000000000000000_0000000000000000"
    assert parse_place("0000000000000000_0000000000000000") == START


def test_a_known_history_has_a_known_offset() -> None:
    # Pinned: a change here makes every stored checkpoint of every replica diverge.
    assert build_offset(*run_through([b"hello", b"world"])) == "0000000000000010_4159799848551253"


@given(
    st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=5),
    st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=5),
)
def test_offsets_are_equal_only_for_equal_histories(one: list[bytes], other: list[bytes]) -> None:
    assert (build_offset(*run_through(one)) == build_offset(*run_through(other))) == (one == other)


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=5))
def test_another_life_has_other_offsets(records: list[bytes]) -> None:
    assert build_offset(*run_through(records)) != build_offset(*run_through(records, "f" * 32))


@given(st.integers(1, 10**16 - 1), st.binary(min_size=16, max_size=16))
def test_an_offset_reads_back_and_leaves_room_for_javascript(position: int, running: bytes) -> None:
    place = build_place(position, running)
    assert parse_place(build_offset(position, running)) == place == parse_place(spell_place(place))
    assert place.check < CHECK_MODULUS <= 2**53 - 2


def test_check_plus_one_is_the_same_place_and_nothing_else_is() -> None:
    place = Place(10, 77)
    assert [check for check in range(70, 85) if Place(10, check).matches(place)] == [77, 78]
    assert not Place(11, 77).matches(place)


@pytest.mark.parametrize(
    "text", ["-1", "now", "", "5", "1_2", "0" * 16, f"{0:016}_{0:017}", f"{0:016}_{0:015}x", f"{0:016}-{0:016}", "٠" * 16 + "_" + "٠" * 16]
)
def test_what_is_not_ours_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_place(text)
