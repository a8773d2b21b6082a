import pytest

from ds_sync.exceptions import InvalidRequestError
from ds_sync.protocol.headers import (
    MAX_INTEGER,
    media_type,
    parse_flag,
    parse_incarnation,
    parse_integer,
    parse_producer,
    require_incarnation,
)
from ds_sync.protocol.messages import ProducerStamp


@pytest.mark.parametrize("text", ["", "-1", "+1", "1abc", "1e3", "1.5", " 1", "1 ", "1\n", "\u0661", "9007199254740992", "1" * 17])
def test_what_is_no_integer(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="Name"):
        parse_integer(text, "Name")


def test_integers() -> None:
    assert parse_integer("0", "n") == 0
    assert parse_integer(str(MAX_INTEGER), "n") == MAX_INTEGER
    assert parse_integer("05", "n") == 5
    with pytest.raises(InvalidRequestError):
        parse_integer("05", "n", canonical=True)


def test_producer_headers_go_together() -> None:
    assert parse_producer(None, None, None) is None
    assert parse_producer("p", "1", "2") == ProducerStamp("p", 1, 2)
    for headers in [("p", None, None), (None, "1", "2"), ("p", "1", None), ("", "1", "2"), ("p" * 257, "1", "2")]:
        with pytest.raises(InvalidRequestError):
            parse_producer(*headers)


def test_small_values() -> None:
    assert [parse_flag(text) for text in ("true", " TRUE ", "1", "", None)] == [True, True, False, False, False]
    assert parse_incarnation("0" * 32) == "0" * 32
    assert [parse_incarnation(text) for text in (None, "0" * 31, "A" * 32, "0" * 32 + "\n")] == [None] * 4
    assert media_type("Text/Plain ; charset=utf-8") == "text/plain"


def test_a_condition_is_readable_or_refused() -> None:
    assert require_incarnation(None) is None
    assert require_incarnation("0" * 32) == "0" * 32
    for text in ("", "0" * 31, "A" * 32, "0" * 32 + "\n", "*"):
        with pytest.raises(InvalidRequestError) as caught:
            require_incarnation(text)
        assert caught.value.code == "INVALID_INCARNATION"
