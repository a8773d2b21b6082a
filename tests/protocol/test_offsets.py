import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_sync.exceptions import InvalidRequestError, ProtocolError
from ds_sync.protocol.offsets import parse_request_offset, parse_response_offset

BAD = ["", " ", "a b", "a,b", "a&b", "a=b", "a?b", "a/b", "..", "a..b", "a\0", "a\n", "é", "x" * 257]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_token_is_refused_on_both_sides(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_request_offset(text)
    with pytest.raises(ProtocolError):
        parse_response_offset(text)


def test_sentinels_are_asked_for_and_never_answered() -> None:
    assert parse_request_offset("-1") == "-1"
    assert parse_request_offset("now") == "now"
    for text in ("-1", "now", None):
        with pytest.raises(ProtocolError):
            parse_response_offset(text)


@given(st.text(alphabet="0123456789_abcZ-.~", min_size=1, max_size=256).filter(lambda t: ".." not in t and t not in ("-1", "now")))
def test_tokens_come_back_as_they_are(text: str) -> None:
    assert parse_request_offset(text) == text == parse_response_offset(text)
