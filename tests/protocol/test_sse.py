import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_sync.exceptions import ProtocolError
from ds_sync.protocol.messages import Page
from ds_sync.protocol.offsets import Offset
from ds_sync.protocol.sse import SseEvent, SsePage, SsePageParser, SseParser, build_event, join_json_arrays

CONTROL = b'event: control\ndata:{"streamNextOffset":"5","streamCursor":"77","upToDate":true}\n\n'


def parse(data: bytes, cuts: list[int] | None = None) -> list[SseEvent]:
    parser, events, start = SseParser(), [], 0
    for cut in [*sorted(cuts or []), len(data)]:
        events += parser.receive_data(data[start:cut])
        start = max(start, cut)
    return events


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_line_end(end: bytes) -> None:
    assert parse(end.join([b"event: data", b"data:a", b"data: b", b"", b""])) == [SseEvent("data", b"a\nb")]


def test_unicode_line_separators_are_ordinary_characters() -> None:
    text = "a\u0085b\u2028c\u2029d\x0be"
    assert parse(build_event("data", text)) == [SseEvent("data", text.encode())]


def test_one_leading_space_goes_comments_and_other_fields_too() -> None:
    assert parse(b"\xef\xbb\xbf: hello\nid: 4\nretry: 9\nevent:x\ndata:  two\n\n") == [SseEvent("x", b" two")]


@given(st.text(alphabet=st.sampled_from("\r\n: adet\u2028é😀"), max_size=80), st.lists(st.integers(0, 300), max_size=8))
def test_any_cutting_gives_the_same_events(text: str, cuts: list[int]) -> None:
    data = text.encode() + b"\n\n" + CONTROL + build_event("data", text)
    whole = parse(data)
    assert parse(data, [min(cut, len(data)) for cut in cuts]) == whole
    assert parse(data, list(range(len(data)))) == whole


@given(st.text(max_size=60).filter(lambda text: "\r" not in text))
def test_built_events_are_parsed_back(text: str) -> None:
    assert parse(build_event("data", text)) == [SseEvent("data", text.encode())]


def test_an_event_above_the_limit_is_refused_in_one_line_and_in_many() -> None:
    with pytest.raises(ProtocolError, match="above 100"):
        SseParser(max_event=100).receive_data(b"data:" + b"x" * 100)
    parser = SseParser(max_event=100)
    with pytest.raises(ProtocolError, match="above 100"):
        parser.receive_data(b"data:xxxxxxxx\n" * 12)


def pages(content_type: str, encoding: str | None, *events: bytes) -> list[SsePage]:
    return SsePageParser(content_type=content_type, encoding=encoding).receive_data(b"".join(events))


def test_data_waits_for_its_offset() -> None:
    parser = SsePageParser(content_type="application/octet-stream", encoding="base64", incarnation="ab")
    assert parser.receive_data(build_event("data", base64.b64encode(b"one").decode()) + build_event("data", "dHdv")) == []
    assert parser.pending
    assert parser.receive_data(CONTROL) == [SsePage(Page(b"onetwo", Offset("5"), True, incarnation="ab"), "77")]
    assert not parser.pending


def test_base64_may_be_broken_into_lines() -> None:
    assert pages("a/b", "Base64", b"event: data\ndata:aG\ndata:k=\n\n", CONTROL)[0].page.data == b"hi"


def test_text_and_json() -> None:
    assert pages("text/plain", None, build_event("data", "é\nb"), CONTROL)[0].page.data == "é\nb".encode()
    several = pages("application/json; charset=utf-8", None, build_event("data", '[{"a":1}, 2]'), build_event("data", "[3]"), CONTROL)
    assert json.loads(several[0].page.data) == [{"a": 1}, 2, 3]
    assert pages("application/json", None, CONTROL)[0].page.data == b"[]"


def test_json_arrays_are_joined() -> None:
    assert join_json_arrays([b"[1 ,2]"]) == b"[1 ,2]"
    assert join_json_arrays([b"[1]", b"[]", b'{"x":[]}', b" [2] "]) == b'[1,{"x":[]},2]'


def test_closed_implies_up_to_date() -> None:
    found = pages("a/b", "base64", b'event: control\ndata: {"streamNextOffset":"9","streamClosed":true}\n\n')
    assert found == [SsePage(Page(b"", Offset("9"), True, True), None)]


@pytest.mark.parametrize(
    "control",
    [b"", b"{", b"[]", b"{}", b'{"streamNextOffset":5}', b'{"streamNextOffset":"-1"}', b'{"streamNextOffset":"5","upToDate":"yes"}',
     b'{"streamNextOffset":"5","streamCursor":""}', b"[" * 100_000, b"1" * 5000],
)  # fmt: skip
def test_bad_control_events(control: bytes) -> None:
    with pytest.raises(ProtocolError):
        pages("a/b", None, b"event: control\ndata: " + control + b"\n\n")


@pytest.mark.parametrize(("encoding", "data"), [("base64", b"a"), ("base64", b"!!!!"), (None, b"\xff")])
def test_data_not_in_its_encoding(encoding: str | None, data: bytes) -> None:
    with pytest.raises(ProtocolError, match="data event"):
        pages("a/b", encoding, b"event: data\ndata:" + data + b"\n\n")


def test_unknown_encoding() -> None:
    with pytest.raises(ProtocolError, match="rot13"):
        pages("a/b", "rot13")


@given(st.binary(max_size=300), st.sampled_from(["application/json", "text/plain", "a/b"]), st.sampled_from([None, "base64"]))
def test_arbitrary_bytes_give_pages_or_a_protocol_error(data: bytes, content_type: str, encoding: str | None) -> None:
    try:
        found = pages(content_type, encoding, b"event:control\ndata:", data, b"\n\n", data)
    except ProtocolError:
        return
    assert all(isinstance(item.page.next_offset, str) for item in found)


@pytest.mark.parametrize("line", [b": " + b"x" * 100, b"unknown: " + b"x" * 100, b"data: " + b"x" * 93])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_line_above_the_limit_is_refused_however_it_is_cut(line: bytes, size: int) -> None:
    """Found by fuzzing: a comment that arrived whole was let through."""
    parser, text = SseParser(max_event=98), line + b"\n\n"

    def receive_all() -> None:
        for at in range(0, len(text), size):
            parser.receive_data(text[at : at + size])

    with pytest.raises(ProtocolError, match="above 98 bytes"):
        receive_all()
