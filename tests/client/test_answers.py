import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_sync import exceptions as e
from ds_sync.client.answers import build_error, parse_append, parse_info, parse_page, parse_retry_after
from ds_sync.client.transport import Response
from ds_sync.protocol.messages import AppendResult, Page
from ds_sync.protocol.offsets import Offset

NOW = 1_445_412_480.0  # Wed, 21 Oct 2015 07:28:00 GMT


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, e.InvalidRequestError), (401, e.UnauthorizedError), (403, e.ForbiddenError), (404, e.NotFoundError), (405, e.ResponseError),
     (409, e.ConflictError), (410, e.GoneError), (413, e.PayloadTooLargeError), (429, e.RateLimitedError), (503, e.ServerError)],
)  # fmt: skip
def test_each_status_has_its_error(status: int, kind: type[e.ResponseError]) -> None:
    error = build_error(Response(status, {"retry-after": "7"}, b'{"error":{"code":"WHY"}}'), now=NOW)
    assert type(error) is kind
    assert (error.status, error.code, error.retry_after) == (status, "WHY", 7.0)


def test_headers_make_errors_more_precise() -> None:
    stale = build_error(Response(403, {"producer-epoch": "4"}), now=NOW)
    assert isinstance(stale, e.StaleEpochError)
    assert stale.current_epoch == 4
    gap = build_error(Response(409, {"producer-expected-seq": "3", "producer-received-seq": "9"}), now=NOW)
    assert isinstance(gap, e.SequenceGapError)
    assert (gap.expected, gap.received) == (3, 9)
    closed = build_error(Response(409, {"stream-closed": "true", "stream-next-offset": "5", "producer-expected-seq": "3"}), now=NOW)
    assert isinstance(closed, e.StreamClosedError)
    assert closed.tail == "5"
    regression = build_error(Response(409, {}, b'{"error":{"code":"SEQUENCE_REGRESSION"}}'), now=NOW)
    assert isinstance(regression, e.SequenceRegressionError)
    assert (regression.status, regression.code) == (409, "SEQUENCE_REGRESSION")
    for status in (404, 410):
        error = build_error(Response(status, {"stream-incarnation": "c" * 32}), now=NOW)
        assert error.incarnation == "c" * 32  # type: ignore[attr-defined]


def test_retry_after() -> None:
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:30 GMT", now=NOW) == 30.0
    assert parse_retry_after("Wed, 21 Oct 2015 07:27:00 GMT", now=NOW) == 0.0
    assert [parse_retry_after(text, now=NOW) for text in (None, "", "soon", "-1", "\u0663")] == [None] * 5


def test_the_servers_words_are_bounded_and_printable() -> None:
    text = str(build_error(Response(500, {}, b"\x1b[31m" + b"x" * 10_000), now=NOW))
    assert len(text) < 260
    assert text.isprintable()


def test_success() -> None:
    headers = {"stream-next-offset": "5", "stream-closed": "true", "content-type": "a/b"}
    assert parse_page(Response(200, headers, b"x")) == Page(b"x", Offset("5"), True, True)
    assert parse_append(Response(204, {}), producer=True) == AppendResult(None, duplicate=True)
    assert parse_append(Response(204, headers), producer=False) == AppendResult(Offset("5"), duplicate=False, closed=True)
    assert parse_info(Response(201, headers)).created
    for parse in (parse_page, parse_info):
        with pytest.raises(e.ProtocolError, match="Stream-Next-Offset"):
            parse(Response(200, {}))


NAMES = ["retry-after", "stream-next-offset", "producer-epoch", "producer-expected-seq", "stream-closed", "stream-incarnation"]


@given(st.integers(200, 599), st.dictionaries(st.sampled_from(NAMES), st.text(max_size=20)), st.binary(max_size=60))
def test_arbitrary_answers_give_values_or_our_errors(status: int, headers: dict[str, str], body: bytes) -> None:
    response = Response(status, headers, body)
    assert isinstance(build_error(response, now=NOW), e.ResponseError)
    for parse in (parse_page, parse_info):
        try:
            value = parse(response)
        except e.ProtocolError:
            continue
        assert headers["stream-next-offset"] in (getattr(value, "tail", None), getattr(value, "next_offset", None))
