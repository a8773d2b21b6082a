from dataclasses import replace

import pytest

from ds_sync.exceptions import ConflictError, InvalidRequestError
from ds_sync.protocol.decisions import AppendRequest, CreateOutcome, CreateRequest, UnburiedError, decide_append, decide_create
from ds_sync.protocol.expiry import Expiry
from ds_sync.protocol.forks import ForkPoint, ForkRequest, PointNeededError, decide_fork, parse_fork_offset, parse_sub_offset
from ds_sync.protocol.history import START, Place
from ds_sync.protocol.state import Decision, Origin, StreamState, StreamView

LIFE = "0123456789abcdef0123456789abcdef"
FRESH = "a" * 32
NOTHING = StreamView(None, {})
NOW = 1000.0


def stream(body: bytes = b"abc", content_type: str = "text/plain", expiry: Expiry = Expiry()) -> StreamState:  # noqa: B008
    request = CreateRequest("s", content_type, LIFE, body=body, expiry=expiry)
    return decide_create(NOTHING, request, NOW).result.state


SOURCE = stream()


def decide(request: ForkRequest, source: StreamState = SOURCE, point: ForkPoint | None = None) -> Decision[CreateOutcome]:
    return decide_fork(NOTHING, StreamView(source, {}), request, point, NOW)


def test_a_fork_begins_at_its_sources_tail_and_the_source_counts_it() -> None:
    decision = decide(ForkRequest("f", "s", FRESH))
    made, counted = decision.changes
    assert made is not None
    assert counted is not None
    assert (made.fresh, made.record, made.state.tail, made.state.base) == (True, None, SOURCE.tail, SOURCE.place)
    assert made.state.origin == Origin("s", SOURCE.position, SOURCE.place.check, 0, inherited_expiry=True)
    assert (counted.state, counted.record, counted.fresh) == (replace(SOURCE, forks=1), None, False)


def test_the_tail_needs_no_point_and_a_place_needs_one_of_the_present_life() -> None:
    request = ForkRequest("f", "s", FRESH, START)
    with pytest.raises(PointNeededError):
        decide(request)
    with pytest.raises(PointNeededError):
        decide(request, point=ForkPoint("f" * 32, START, b"abc"))
    assert decide(request, point=ForkPoint(LIFE, START, b"abc")).result.state.position == 0
    with pytest.raises(InvalidRequestError) as caught:
        decide(request, point=ForkPoint(LIFE, None, None))
    assert caught.value.code == "INVALID_FORK_OFFSET"


def test_what_was_dropped_after_the_point_was_read_is_no_place() -> None:
    trimmed = replace(SOURCE, earliest=SOURCE.place)
    with pytest.raises(InvalidRequestError) as caught:
        decide(ForkRequest("f", "s", FRESH, START), trimmed, ForkPoint(LIFE, START, b"abc"))
    assert caught.value.code == "INVALID_FORK_OFFSET"
    state = decide(ForkRequest("f", "s", FRESH), trimmed).result.state
    assert (state.earliest, state.base) == (SOURCE.place, SOURCE.place)


def test_the_first_own_record_mixes_in_the_forks_life_and_the_second_does_not() -> None:
    tails = []
    for incarnation in (FRESH, "b" * 32):
        state = decide(ForkRequest("f", "s", incarnation)).result.state
        for body in (b"one", b"two"):
            state = decide_append(StreamView(state, {}), AppendRequest("f", body, "text/plain"), NOW).result.state
            tails.append(state.tail)
    alike = decide_append(StreamView(SOURCE, {}), AppendRequest("s", b"one", "text/plain"), NOW).result.state.tail
    assert len({*tails, alike}) == 5
    assert decide(ForkRequest("f", "s", FRESH, body=b"one")).result.state.tail == tails[0]


def test_sub_offset_and_body_are_one_record() -> None:
    decision = decide(ForkRequest("f", "s", FRESH, START, 2, body=b"!"), point=ForkPoint(LIFE, START, b"abc"))
    made = decision.changes[0]
    assert made is not None
    assert (made.record, made.state.position) == (b"ab!", 3)
    json = stream(b"[1,2]", "application/json")
    decision = decide(ForkRequest("f", "s", FRESH, START, 1, body=b"[8,9]"), json, ForkPoint(LIFE, START, b"1,2"))
    made = decision.changes[0]
    assert made is not None
    assert made.record == b"1,8,9"


@pytest.mark.parametrize(("record", "sub_offset"), [(None, 1), (b"abc", 4)])
def test_a_sub_offset_ends_within_the_next_record(record: bytes | None, sub_offset: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decide(ForkRequest("f", "s", FRESH, START, sub_offset), point=ForkPoint(LIFE, START, record))
    assert caught.value.code == "INVALID_SUB_OFFSET"


def test_an_inherited_time_to_live_is_counted_anew() -> None:
    source = replace(stream(expiry=Expiry(ttl=60)), deadline=NOW + 1)
    state = decide(ForkRequest("f", "s", FRESH), source).result.state
    assert (state.ttl, state.deadline) == (60, NOW + 60)


def test_an_ended_part_of_forks_is_buried_before_its_path_is_used() -> None:
    expired = replace(stream(expiry=Expiry(ttl=1)), deadline=NOW)
    assert decide_create(StreamView(expired, {}), CreateRequest("s", "text/plain", FRESH), NOW).result.created
    for state in (replace(expired, forks=1), replace(expired, origin=Origin("t", 0, 0))):
        with pytest.raises(UnburiedError):
            decide_create(StreamView(state, {}), CreateRequest("s", "text/plain", FRESH), NOW)
    with pytest.raises(ConflictError):
        decide_create(StreamView(replace(expired, kept=True), {}), CreateRequest("s", "text/plain", FRESH), NOW)


def test_headers_are_read_strictly() -> None:
    assert parse_fork_offset(None) is None
    assert parse_fork_offset("0000000000000003_0000000000000007") == Place(3, 7)
    assert (parse_sub_offset(None), parse_sub_offset("0"), parse_sub_offset("12")) == (0, 0, 12)
    for text in ("", "-1", "+1", "05", "1.5", "1e3", "abc", "99999999999999999"):
        with pytest.raises(InvalidRequestError):
            parse_sub_offset(text)
