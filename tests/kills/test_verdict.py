"""The checks find what they are for: on the smallest example of each."""

from __future__ import annotations

import pytest
from kill_worker import parse_tokens
from verdict import Loss, Witness, check_acknowledged, check_equal, check_everywhere, check_frames, parse_journal

JOURNAL = """\
inserting doc a b
inserted doc a b
deleting doc a
deleted doc a
acknowledged doc
inserting doc c
inserted doc c
inserting doc d
deleting doc b
"""


def witness(lines: str = JOURNAL) -> list[Witness]:
    return [parse_journal(lines.splitlines())["doc"]]


@pytest.mark.parametrize("text", ["b;c;", "c;", "c;d;", "d;b;c;"])
def test_what_was_only_begun_may_be_there_or_not(text: str) -> None:
    check_everywhere("it", parse_tokens(text), witness())


@pytest.mark.parametrize(
    ("text", "finding"),
    [("b;", "lost"), ("b;c;c;", "twice"), ("a;b;c;", "there again"), ("b;c;x;", "nobody wrote"), ("c;ab", "nobody wrote")],
)
def test_what_is_wrong_is_found(text: str, finding: str) -> None:
    with pytest.raises(Loss, match=finding):
        check_everywhere("it", parse_tokens(text), witness())


def test_what_was_acknowledged_has_to_be_there_and_no_more() -> None:
    check_acknowledged("it", [], witness())
    with pytest.raises(Loss, match="lost"):
        check_acknowledged("it", [], witness("inserting doc a\ninserted doc a\nacknowledged doc\n"))
    with pytest.raises(Loss, match="there again"):
        check_acknowledged("it", ["a"], witness())


def test_texts_have_to_be_equal_and_frames_single() -> None:
    check_equal({"one": "a;b;", "two": "a;b;"})
    with pytest.raises(Loss, match="differ"):
        check_equal({"one": "a;b;", "two": "b;a;"})
    check_frames("it", [b"1", b"2", b"\0", b"\0"], writers=2)
    with pytest.raises(Loss, match="twice"):
        check_frames("it", [b"1", b"2", b"1"], writers=2)
    with pytest.raises(Loss, match="twice"):
        check_frames("it", [b"\0", b"\0", b"\0"], writers=2)
