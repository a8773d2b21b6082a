import pytest

from ds_sync.protocol.cursor import EPOCH, INTERVAL, build_cursor, move_cursor

NOW = EPOCH + 1000 * INTERVAL + 3


@pytest.mark.parametrize("asked", [None, "", "999", "-5", "abc", "1e9", "9" * 40])
def test_a_cursor_of_the_past_or_garbage_gives_the_present(asked: str | None) -> None:
    assert build_cursor(asked, NOW, lambda bound: bound - 1) == "1000"


def test_a_cursor_that_is_not_behind_moves_on_by_at_least_one_and_at_most_an_hour() -> None:
    assert build_cursor("1000", NOW, lambda bound: 0) == "1001"
    assert build_cursor("1005", NOW, lambda bound: bound - 1) == str(1005 + 180)


def test_the_cursor_of_an_answer_that_goes_on_never_goes_back() -> None:
    assert move_cursor("1000", NOW) == "1000"
    assert move_cursor("1180", NOW) == "1180"
    assert move_cursor("1000", NOW + 2 * INTERVAL) == "1002"
