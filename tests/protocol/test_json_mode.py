import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_sync.exceptions import InvalidRequestError, ProtocolError
from ds_sync.protocol.json_mode import build_json_page, parse_json_body, split_json_page, take_messages

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("body", "record"),
    [
        (b'{"a": 1}', b'{"a": 1}'),
        (b" \n[1,  2.50 , 1e400]\t", b"1,  2.50 , 1e400"),
        (b"[[1, 2], 3]", b"[1, 2], 3"),
        (b'"]"', b'"]"'),
        (b"[ ]", b""),
        (b"[[]]", b"[]"),
        (b"12345678901234567890123.10", b"12345678901234567890123.10"),
        ('["\u2028é", "\\u00e9"]'.encode(), '"\u2028é", "\\u00e9"'.encode()),
    ],
)
def test_one_level_is_flattened_and_every_message_kept_as_spelled(body: bytes, record: bytes) -> None:
    assert parse_json_body(body) == record


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{", b"[1,]", b"1 2", b"[1] []", b"NaN", b"[Infinity]", b"\xff", b"'a'", b"\xef\xbb\xbf1", b"[" * 100_000, b"\x0b1"],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_json_body(body)
    assert caught.value.code == "INVALID_JSON"


def test_a_number_of_many_digits_costs_nothing() -> None:
    body = b"[" + b"9" * 1_000_000 + b"]"
    assert parse_json_body(body) == body[1:-1]


@given(st.lists(st.lists(VALUES, min_size=1, max_size=3), max_size=4))
def test_a_page_is_the_messages_in_order(batches: list[list[object]]) -> None:
    records = [parse_json_body(json.dumps(batch).encode()) for batch in batches]
    assert json.loads(build_json_page(records)) == [message for batch in batches for message in batch]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, "1.50"), (2, '1.50 , {"a" : [1,2]}'), (3, '1.50 , {"a" : [1,2]},\n"],["'), (4, '1.50 , {"a" : [1,2]},\n"],[", "é"'), (5, None)],
)
def test_the_first_messages_of_a_record_are_taken_as_spelled(count: int, expected: str | None) -> None:
    record = parse_json_body('[1.50 , {"a" : [1,2]},\n"],[", "é"]'.encode())
    assert take_messages(record, count) == (None if expected is None else expected.encode())


@given(st.lists(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5), min_size=1, max_size=6))
def test_taking_is_the_beginning_of_the_list(messages: list[object]) -> None:
    record = parse_json_body(json.dumps(messages, ensure_ascii=False).encode())
    for count in range(1, len(messages) + 1):
        taken = take_messages(record, count)
        assert taken is not None
        assert json.loads(build_json_page([taken])) == messages[:count]
    assert take_messages(record, len(messages) + 1) is None


@pytest.mark.parametrize(
    ("page", "messages"),
    [(b"", []), (b"[]", []), (b" [ ] ", []), (b'[1.10,{"a":[1, 2]}]', ["1.10", '{"a":[1, 2]}']), (b'[ "]" , 1e999 ]', ['"]"', "1e999"])],
)
def test_the_messages_of_a_page_are_told_apart_and_keep_their_spelling(page: bytes, messages: list[str]) -> None:
    assert split_json_page(page) == messages


@pytest.mark.parametrize("page", [b"1", b"{}", b"[1", b"[1,]", b"[1] 2", b"[] 2", b"[1 2]", b"[,1]", b"\xff", b"[", b"[" * 100_000])
def test_a_page_that_is_no_array_is_a_broken_protocol(page: bytes) -> None:
    with pytest.raises(ProtocolError):
        split_json_page(page)
