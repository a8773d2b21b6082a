from dataclasses import replace

import pytest

from ds_sync.exceptions import ConflictError, GoneError, InvalidRequestError, NotFoundError, SequenceRegressionError, StreamClosedError
from ds_sync.protocol import decisions as rules
from ds_sync.protocol.decisions import (
    AppendOutcome,
    AppendRequest,
    CreateOutcome,
    CreateRequest,
    Decision,
    StreamState,
    StreamView,
)
from ds_sync.protocol.expiry import NEVER, Expiry
from ds_sync.protocol.framing import build_frames
from ds_sync.protocol.history import begin_history
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.producer import ProducerState, digest_body

LIFE = "0123456789abcdef0123456789abcdef"
FRESH = "a" * 32
PROPOSED = "b" * 32
NOTHING = StreamView(None, {})
OPEN = StreamState(LIFE, "text/plain; charset=utf-8", 0, begin_history(LIFE))
STAMP = ProducerStamp("p", 0, 0)


NOW = 1000.0


def decide_create(seen: StreamView, request: CreateRequest) -> Decision[CreateOutcome]:
    return rules.decide_create(seen, request, NOW)


def decide_append(seen: StreamView, request: AppendRequest) -> Decision[AppendOutcome]:
    return rules.decide_append(seen, request, NOW)


def decide_delete(seen: StreamView) -> Decision[StreamState]:
    return rules.decide_delete(seen, NOW)


def view(state: StreamState, **producers: ProducerState) -> StreamView:
    return StreamView(state, producers)


def after(seen: StreamView, request: AppendRequest) -> StreamView:
    change = decide_append(seen, request).changes[0]
    assert change is not None
    producers = dict(seen.producers)
    if change.producer is not None:
        producers[change.producer[0]] = change.producer[1]
    return StreamView(change.state, producers)


def test_put_makes_a_stream_of_the_proposed_life() -> None:
    decision = decide_create(NOTHING, CreateRequest("s", "text/plain", FRESH, PROPOSED, b"abc"))
    change = decision.changes[0]
    assert change is not None
    assert (decision.result.created, change.fresh, change.record) == (True, True, b"abc")
    assert (change.state.incarnation, change.state.position) == (PROPOSED, 3)


def test_put_again_finds_the_stream_and_keeps_its_life() -> None:
    decision = decide_create(view(OPEN), CreateRequest("s", "TEXT/plain", FRESH, PROPOSED, b"ignored"))
    assert (decision.result.state, decision.result.created, decision.changes) == (OPEN, False, (None,))


@pytest.mark.parametrize("request_", [CreateRequest("s", "text/html", FRESH), CreateRequest("s", "text/plain", FRESH, closed=True)])
def test_put_with_another_configuration_is_a_conflict(request_: CreateRequest) -> None:
    with pytest.raises(ConflictError):
        decide_create(view(OPEN), request_)


@pytest.mark.parametrize(("proposed", "life"), [(None, FRESH), (PROPOSED, PROPOSED), (LIFE, FRESH)])
def test_put_over_a_tombstone_is_another_life(proposed: str | None, life: str) -> None:
    tombstone = decide_delete(view(OPEN)).result
    made = decide_create(view(tombstone), CreateRequest("s", "text/plain", FRESH, proposed)).result
    assert (made.created, made.state.incarnation) == (True, life)


def test_a_deleted_stream_is_known_by_its_life() -> None:
    tombstone = decide_delete(view(OPEN)).result
    for act in (lambda: decide_append(view(tombstone), AppendRequest("s", b"x", "text/plain")), lambda: decide_delete(view(tombstone))):
        with pytest.raises(NotFoundError) as caught:
            act()
        assert (caught.value.code, caught.value.incarnation) == ("STREAM_DELETED", LIFE)
    with pytest.raises(NotFoundError) as caught:
        decide_delete(NOTHING)
    assert (caught.value.code, caught.value.incarnation) == ("STREAM_NOT_FOUND", None)


def test_append_needs_body_and_the_streams_content_type() -> None:
    for request in (AppendRequest("s", b"", "text/plain"), AppendRequest("s", b"x", None)):
        with pytest.raises(InvalidRequestError):
            decide_append(view(OPEN), request)
    with pytest.raises(ConflictError):
        decide_append(view(OPEN), AppendRequest("s", b"x", "text/html"))


def test_a_duplicate_stores_nothing_and_tells_the_highest_number() -> None:
    seen = view(OPEN)
    for seq in range(3):
        seen = after(seen, AppendRequest("s", b"x", "text/plain", producer=ProducerStamp("p", 0, seq)))
    decision = decide_append(seen, AppendRequest("s", b"x", "text/plain", producer=STAMP, stream_seq="0"))
    assert decision.changes == (None,)
    assert decision.result.duplicate
    assert decision.result.producer == ProducerState(0, 2, digest_body(b"x"))


def test_stream_seq_rises_byte_by_byte() -> None:
    seen = after(view(OPEN), AppendRequest("s", b"x", "text/plain", stream_seq="9"))
    with pytest.raises(SequenceRegressionError):
        decide_append(seen, AppendRequest("s", b"x", "text/plain", stream_seq="10"))
    with pytest.raises(SequenceRegressionError):
        decide_append(seen, AppendRequest("s", b"x", "text/plain", stream_seq="9"))
    seen = after(seen, AppendRequest("s", b"x", "text/plain"))
    assert after(seen, AppendRequest("s", b"x", "text/plain", stream_seq="91")).state is not None


def test_an_append_meant_for_another_life_is_refused() -> None:
    seen = after(view(OPEN), AppendRequest("s", b"x", "text/plain", producer=STAMP, incarnation=LIFE))
    assert seen.state is not None
    assert seen.state.position == 1
    for request in (
        AppendRequest("s", b"x", "text/plain", incarnation=FRESH),
        AppendRequest("s", b"x", "text/plain", producer=STAMP, incarnation=FRESH),  # not a duplicate: another life's producer
        AppendRequest("s", b"", close=True, incarnation=FRESH),
    ):
        with pytest.raises(GoneError) as caught:
            decide_append(seen, request)
        assert (caught.value.code, caught.value.incarnation) == ("HISTORY_DIVERGED", LIFE)
    tombstone = decide_delete(seen).result
    with pytest.raises(NotFoundError):
        decide_append(view(tombstone), AppendRequest("s", b"x", "text/plain", incarnation=LIFE))


def test_a_closed_stream_says_so_and_knows_who_closed_it() -> None:
    closing = AppendRequest("s", b"last", "text/plain", close=True, producer=STAMP)
    seen = after(view(OPEN), closing)
    assert seen.state is not None
    assert (seen.state.closed, seen.state.position) == (True, 4)
    assert decide_append(seen, closing).result.duplicate
    for request in (
        AppendRequest("s", b"more", "text/plain"),
        AppendRequest("s", b"more", "text/plain", producer=ProducerStamp("p", 0, 1)),
        AppendRequest("s", b"", close=True, producer=ProducerStamp("q", 0, 0)),
    ):
        with pytest.raises(StreamClosedError) as caught:
            decide_append(seen, request)
        assert caught.value.tail == seen.state.tail


def test_closing_twice_is_fine() -> None:
    seen = after(view(OPEN), AppendRequest("s", b"", close=True))
    decision = decide_append(seen, AppendRequest("s", b"", close=True))
    assert decision.changes == (None,)
    assert decision.result.state.closed


def test_a_close_with_a_producer_counts() -> None:
    closing = AppendRequest("s", b"", close=True, producer=STAMP)
    seen = after(view(OPEN), closing)
    assert seen.producers["p"].seq == 0
    assert decide_append(seen, closing).result.duplicate


def test_updates_take_whole_frames_and_no_close() -> None:
    path = "yjs/default/docs/a/.updates"
    binary = replace(OPEN, content_type="application/octet-stream")
    whole = build_frames([b"one", b"two"])
    decision = decide_append(view(binary), AppendRequest(path, whole, "application/octet-stream"))
    assert decision.changes[0] is not None
    assert decision.changes[0].record == whole
    for body in (whole[:-1], whole + b"\x05", b"\xff" * 8):
        with pytest.raises(InvalidRequestError) as caught:
            decide_append(view(binary), AppendRequest(path, body, "application/octet-stream"))
        assert caught.value.code == "INVALID_FRAMES"
        with pytest.raises(InvalidRequestError):
            decide_create(NOTHING, CreateRequest(path, "application/octet-stream", FRESH, body=body))
    for request in (AppendRequest(path, b"", close=True), AppendRequest(path, whole, "application/octet-stream", close=True)):
        with pytest.raises(InvalidRequestError) as caught:
            decide_append(view(binary), request)
        assert caught.value.code == "CLOSE_REFUSED"


def test_an_empty_json_array_creates_but_does_not_append() -> None:
    made = decide_create(NOTHING, CreateRequest("s", "application/json", FRESH, body=b"[]"))
    assert made.changes[0] is not None
    assert made.changes[0].record is None
    with pytest.raises(InvalidRequestError) as caught:
        decide_append(view(made.result.state), AppendRequest("s", b"[ ]", "application/json"))
    assert caught.value.code == "EMPTY_ARRAY"


def expiring(expiry: Expiry) -> StreamState:
    change = decide_create(NOTHING, CreateRequest("s", "text/plain", FRESH, expiry=expiry)).changes[0]
    assert change is not None
    return change.state


def test_a_stream_whose_time_is_over_counts_as_ended_and_its_url_is_free() -> None:
    state = expiring(Expiry(ttl=10))
    rules.require_stream(state, NOW + 9.9)
    with pytest.raises(NotFoundError) as caught:
        rules.require_stream(state, NOW + 10)
    assert (caught.value.code, caught.value.incarnation) == ("STREAM_EXPIRED", FRESH)
    remade = rules.decide_create(view(state), CreateRequest("s", "text/html", "c" * 32), NOW + 10).result
    assert (remade.created, remade.state.incarnation) == (True, "c" * 32)


def test_appends_and_closes_renew_a_time_to_live_but_not_a_time() -> None:
    for request in (AppendRequest("s", b"x", "text/plain"), AppendRequest("s", b"", close=True)):
        renewed = rules.decide_append(view(expiring(Expiry(ttl=10))), request, NOW + 5).result.state
        assert (renewed.deadline, renewed.ttl) == (NOW + 15, 10)
        fixed = expiring(Expiry(expires_at="1970-01-01T00:20:00Z"))
        assert rules.decide_append(view(fixed), request, NOW + 5).result.state.deadline == fixed.deadline == 1200.0


def test_a_read_renews_only_what_is_worth_a_commit() -> None:
    state = expiring(Expiry(ttl=100))
    assert rules.decide_renew(view(state), NOW + 4).changes == (None,)
    change = rules.decide_renew(view(state), NOW + 5).changes[0]
    assert change is not None
    assert (change.state, change.record) == (replace(state, deadline=NOW + 105), None)
    assert rules.decide_renew(view(state), NOW + 100).changes == (None,)


def test_another_expiry_is_another_configuration() -> None:
    seen = view(expiring(Expiry(ttl=10)))
    assert not decide_create(seen, CreateRequest("s", "text/plain", LIFE, expiry=Expiry(ttl=10))).result.created
    for expiry in (Expiry(ttl=11), NEVER):
        with pytest.raises(ConflictError):
            decide_create(seen, CreateRequest("s", "text/plain", LIFE, expiry=expiry))


def test_what_expired_leaves_a_tombstone() -> None:
    state = expiring(Expiry(ttl=10))
    assert rules.decide_expire(view(state), NOW + 9).changes == (None,)
    change = rules.decide_expire(view(state), NOW + 10).changes[0]
    assert change is not None
    assert (change.state.deleted, change.state.incarnation, change.fresh) == (True, FRESH, True)
