import pytest

from ds_sync.exceptions import InvalidRequestError
from ds_sync.protocol.expiry import NEVER, Expiry, parse_expiry, parse_timestamp


def test_a_time_to_live_counts_from_now_and_a_time_does_not() -> None:
    assert parse_expiry("60", None).deadline(1000.0) == 1060.0
    assert parse_expiry(None, "1970-01-01T00:20:00Z").deadline(1000.0) == 1200.0
    assert parse_expiry(None, None) is NEVER
    assert NEVER.deadline(1000.0) is None
    assert parse_expiry(None, "2030-01-01T00:00:00Z") == Expiry(expires_at="2030-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "text", ["1970-01-01T01:00:00+01:00", "1970-01-01T00:00:00", "1970-01-01", "1970-01-01t00:00:00z", "1970-01-01 00:00:00.000Z"]
)
def test_a_time_without_a_zone_is_utc(text: str) -> None:
    assert parse_timestamp(text) == 0.0


def test_a_leap_second_is_the_first_of_the_next_minute() -> None:
    assert parse_timestamp("2016-12-31T23:59:60Z") == parse_timestamp("2017-01-01T00:00:00Z")
    assert parse_timestamp("2016-12-31T23:59:60.5Z") == parse_timestamp("2017-01-01T00:00:00.5Z")


@pytest.mark.parametrize(
    ("ttl", "at"),
    [("05", None), ("+1", None), ("1.5", None), ("1e3", None), ("-1", None), ("", None), (None, "soon"), (None, ""), ("5", "2030-01-01")],
)
def test_anything_else_is_refused(ttl: str | None, at: str | None) -> None:
    with pytest.raises(InvalidRequestError):
        parse_expiry(ttl, at)


def test_a_cache_may_answer_for_half_a_time_to_live_or_up_to_the_end() -> None:
    assert NEVER.longest_cached(1000.0) is None
    assert Expiry(ttl=10).longest_cached(1000.0) == 5.0
    assert Expiry(expires_at="1970-01-01T00:20:00Z").longest_cached(1000.0) == 200.0
