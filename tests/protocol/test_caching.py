import pytest

from ds_sync.protocol.caching import IMMUTABLE_PAGE, LIVE_PAGE, REVALIDATE, build_etag, decide_cache_control, matches_etag

LIFE = "0123456789abcdef0123456789abcdef"


def test_a_tag_changes_with_the_page_its_life_and_the_close() -> None:
    tags = [
        build_etag(LIFE, "-1", "a", closed=False),
        build_etag(LIFE, "-1", "b", closed=False),
        build_etag(LIFE, "a", "b", closed=False),
        build_etag(LIFE, "-1", "a", closed=True),
        build_etag("f" * 32, "-1", "a", closed=False),
    ]
    assert len(set(tags)) == 5
    assert all(tag.startswith('"') and tag.endswith('"') for tag in tags)


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, False), ("", False), ('"x"', True), ('W/"x"', True), ('"y", "x"', True), ("*", True), ('"y"', False), ("x", False)],
)
def test_if_none_match(header: str | None, expected: bool) -> None:
    assert matches_etag(header, '"x"') is expected


def test_only_full_pages_that_prove_where_they_start_are_kept_without_asking() -> None:
    assert decide_cache_control(from_beginning=False, up_to_date=False, live=False) == IMMUTABLE_PAGE
    assert decide_cache_control(from_beginning=True, up_to_date=False, live=False) == REVALIDATE
    assert decide_cache_control(from_beginning=False, up_to_date=True, live=False) == REVALIDATE
    assert decide_cache_control(from_beginning=False, up_to_date=True, live=True) == LIVE_PAGE
    assert decide_cache_control(from_beginning=True, up_to_date=True, live=True) == REVALIDATE, "the stream may be made anew meanwhile"


@pytest.mark.parametrize(
    ("live", "longest", "policy"),
    [
        (False, 1000.0, "public, max-age=60"),
        (False, 7.9, "public, max-age=7"),
        (True, 1000.0, "public, max-age=20"),
        (True, 7.9, "public, max-age=7"),
        (False, 0.5, REVALIDATE),
        (True, 0.0, REVALIDATE),
        (True, -1.0, REVALIDATE),
    ],
)
def test_no_cache_outlives_a_stream_that_ends(live: bool, longest: float, policy: str) -> None:
    assert decide_cache_control(from_beginning=False, up_to_date=False, live=live, longest=longest) == policy
    assert decide_cache_control(from_beginning=False, up_to_date=True, live=False, longest=longest) == REVALIDATE
