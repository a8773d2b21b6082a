"""The decisions, purely: every row of the tables, and what next_push must never do over its whole small state space."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_sync import exceptions as e
from ds_sync.protocol.framing import build_frame, build_frames
from ds_sync.protocol.messages import Page, ProducerStamp
from ds_sync.protocol.offsets import BEGINNING, Offset
from ds_sync.replica import plan
from ds_sync.replica.plan import Answer, Doubt, Push, Tail
from ds_sync.replica.records import Batch, DocumentKey, DocumentRecord, Phase

OURS, THEIRS = "a" * 32, "b" * 32


def batch(edits: int = 1, *, healing: bool = False) -> Batch:
    return Batch(ProducerStamp("p", 0, 0), edits, edits, BEGINNING, None, b"payload", healing)


def record(*, checkpoint: str = "5", incarnation: str | None = OURS) -> DocumentRecord:
    return DocumentRecord(
        id=1,
        key=DocumentKey("yjs", "default", "note"),
        format="yjs-v1",
        phase=Phase.FOLLOW,
        server="http://server",
        incarnation=incarnation,
        checkpoint=Offset(checkpoint),
        partial=b"",
        server_version=None,
        producer=ProducerStamp("p", 0, 0),
        batch=None,
        durable=0,
        expected=(),
        outbox=0,
        oldest=None,
        quarantined=0,
    )


def page(*, data: bytes = b"", next_offset: str = "5", up_to_date: bool = True, incarnation: str | None = OURS) -> Page:
    return Page(data, Offset(next_offset), up_to_date, False, incarnation)


BATCHES = [None, batch(1), batch(2), batch(1, healing=True), batch(2, healing=True)]
DOUBTS = [None, *(Doubt(proof, turns, smaller) for proof in (1, 2) for turns in (1, 2, 3) for smaller in (False, True))]
STATES = list(itertools.product(Phase, (False, True), BATCHES, (0, 1, 2), (0, 1), DOUBTS, (0, 1, 2)))


def test_next_push_over_its_whole_state_space() -> None:
    seen = set()
    for phase, contact, sealed, outbox, unsaved, doubt, proven in STATES:
        step = plan.next_push(
            phase=phase, contact=contact, batch=sealed, outbox=outbox, unsaved=unsaved, doubt=doubt, proven=proven, max_turns=2
        )
        seen.add(step)
        where = (phase, contact, sealed, outbox, unsaved, doubt, proven, step)
        if phase is not Phase.FOLLOW or not contact:
            assert step is Push.IDLE, where
        elif sealed is None:
            # Nothing is sealed while something is only in memory, and nothing out of nothing.
            assert step is (Push.SEAL if outbox and not unsaved else Push.IDLE), where
        elif doubt is None:
            assert step is Push.SEND, where
        elif proven < doubt.proof:
            assert step is Push.AWAIT_PROOF, where  # doubt is never settled, nor the batch touched, without proof
        elif doubt.smaller:
            cut = sealed.edits > 1 and not sealed.healing
            assert step is (Push.SEAL_SMALLER if cut else Push.BLOCK), where
        else:
            assert step is (Push.RESEAL if doubt.turns <= 2 else Push.BLOCK), where
    assert seen == set(Push)


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (e.UnauthorizedError("x"), Answer.PAUSE),
        (e.StaleEpochError("x", current_epoch=1), Answer.DOUBT),
        (e.ForbiddenError("x"), Answer.PAUSE),
        (e.NotFoundError("x"), Answer.LOOK),
        (e.SequenceGapError("x", expected=0, received=1), Answer.HEAL),
        (e.StreamClosedError("x"), Answer.BLOCK),
        (e.SequenceRegressionError("x"), Answer.BLOCK),
        (e.ConflictError("x"), Answer.BLOCK),
        (e.GoneError("x"), Answer.LOOK),
        (e.PayloadTooLargeError("x"), Answer.DOUBT_SIZE),
        (e.RateLimitedError("x"), Answer.RETRY),
        (e.ServerError("x"), Answer.RETRY),
        (e.InvalidRequestError("x"), Answer.BLOCK),
        (e.ResponseError("x", status=418), Answer.RETRY),
        (e.TransportError("x"), Answer.RETRY),
        (e.TransportTimeoutError("x"), Answer.RETRY),
        (e.ProtocolError("x"), Answer.RETRY),
        (e.ClosedError("x"), Answer.RETRY),
    ],
)
def test_what_a_failed_append_means(error: e.DsSyncError, answer: Answer) -> None:
    assert plan.judge_append_failure(error, by_sight=False) is answer


def test_a_gap_after_a_settlement_by_sight_is_only_a_doubt() -> None:
    # The bytes that were seen may have been somebody else's, and our number before never have arrived: nothing is lost on the server.
    gap = e.SequenceGapError("a gap", expected=1, received=2)
    assert plan.judge_append_failure(gap, by_sight=False) is Answer.HEAL
    assert plan.judge_append_failure(gap, by_sight=True) is Answer.DOUBT
    assert plan.judge_append_failure(e.ServerError("busy"), by_sight=True) is Answer.RETRY


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (e.UnauthorizedError("x"), Tail.PAUSE),
        (e.ForbiddenError("x"), Tail.PAUSE),
        (e.NotFoundError("x"), Tail.CREATE),
        (e.NotFoundError("x", incarnation=OURS), Tail.DELETED),
        (e.NotFoundError("x", incarnation=THEIRS), Tail.DELETED),
        (e.GoneError("x"), Tail.HEAL),
        (e.GoneError("x", code="OFFSET_EXPIRED", incarnation=OURS), Tail.HEAL),
        (e.GoneError("x", code="UNHEARD_OF", incarnation=OURS), Tail.HEAL),
        (e.GoneError("x", code="HISTORY_DIVERGED", incarnation=THEIRS), Tail.DIVERGED),
        (e.GoneError("x", code="STREAM_DELETED", incarnation=OURS), Tail.DELETED),
        (e.GoneError("x", code="STREAM_EXPIRED", incarnation=OURS), Tail.DELETED),
        (e.GoneError("x", code="STREAM_DELETED", incarnation=THEIRS), Tail.DIVERGED),
        (e.InvalidRequestError("x"), Tail.HEAL),
        (e.RateLimitedError("x"), Tail.RETRY),
        (e.ServerError("x"), Tail.RETRY),
        (e.TransportError("x"), Tail.RETRY),
        (e.ProtocolError("x"), Tail.RETRY),
        (e.ClosedError("x"), Tail.RETRY),
    ],
)
def test_what_a_failed_read_means(error: e.DsSyncError, verdict: Tail) -> None:
    assert plan.judge_tail_failure(error, record()) is verdict


@pytest.mark.parametrize("error", [e.GoneError("x"), e.GoneError("x", incarnation=OURS), e.InvalidRequestError("x")])
def test_when_not_even_the_beginning_can_be_read_healing_would_change_nothing(error: e.DsSyncError) -> None:
    assert plan.judge_tail_failure(error, record(checkpoint=BEGINNING)) is Tail.BLOCK


def test_who_knew_no_life_of_the_stream_does_not_take_it_for_deleted_or_diverged() -> None:
    stranger = record(incarnation=None)
    assert plan.judge_tail_failure(e.NotFoundError("x", incarnation=THEIRS), stranger) is Tail.CREATE
    assert plan.judge_tail_failure(e.GoneError("x", incarnation=THEIRS), stranger) is Tail.HEAL
    assert plan.judge_page(page(incarnation=THEIRS), stranger) is Tail.GO_ON


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (e.UnauthorizedError("x"), Tail.PAUSE),
        (e.ForbiddenError("x"), Tail.PAUSE),
        (e.ConflictError("x"), Tail.BLOCK),
        (e.InvalidRequestError("x"), Tail.BLOCK),
        (e.ServerError("x"), Tail.RETRY),
        (e.TransportError("x"), Tail.RETRY),
    ],
)
def test_what_another_failed_request_means(error: e.DsSyncError, verdict: Tail) -> None:
    assert plan.judge_other_failure(error) is verdict


@pytest.mark.parametrize("table", [plan.APPEND_FAILURES, plan.TAIL_FAILURES, plan.OTHER_FAILURES])
def test_every_row_of_a_table_can_decide_and_every_error_finds_one(table: tuple[tuple[type[e.DsSyncError], object], ...]) -> None:
    kinds = [kind for kind, _ in table]
    for at, kind in enumerate(kinds):
        assert not any(issubclass(kind, earlier) for earlier in kinds[:at]), f"{kind} is hidden by a row above it"
    assert kinds[-1] is e.DsSyncError


@pytest.mark.parametrize(
    ("found", "known", "verdict"),
    [
        (page(), record(), Tail.GO_ON),
        (page(incarnation=THEIRS), record(), Tail.DIVERGED),
        (page(incarnation=THEIRS), record(checkpoint=BEGINNING), Tail.DIVERGED),
        (page(incarnation=None, next_offset="4"), record(), Tail.HEAL),
        (page(incarnation=None, next_offset="4"), record(incarnation=None), Tail.HEAL),
        (page(incarnation=None, next_offset="5"), record(), Tail.GO_ON),
        (page(incarnation=None, next_offset="4", up_to_date=False), record(), Tail.GO_ON),
        (page(incarnation=None, next_offset="4", data=b"x"), record(), Tail.GO_ON),
        (page(incarnation=None, next_offset="4"), record(checkpoint=BEGINNING), Tail.GO_ON),
        (page(next_offset="4"), record(), Tail.GO_ON),  # offsets of ours prove their history
    ],
)
def test_what_a_page_means(found: Page, known: DocumentRecord, verdict: Tail) -> None:
    assert plan.judge_page(found, known) is verdict


@given(st.lists(st.binary(max_size=200), max_size=8), st.lists(st.integers(0, 2000), max_size=8))
def test_a_run_cut_anywhere_gives_the_same_payloads(payloads: list[bytes], cuts: list[int]) -> None:
    data = build_frames(payloads)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    found: list[bytes] = []
    partial = b""
    for start, end in itertools.pairwise(edges):
        run = plan.read_run(partial, data[start:end])
        assert run.unreadable == b""
        found += run.payloads
        partial = run.partial
    assert (found, partial) == (payloads, b"")


NO_LENGTH = b"\xff" * 9


def test_an_unreadable_run_is_kept_whole_and_the_next_page_goes_on() -> None:
    run = plan.read_run(b"", build_frame(b"ok") + NO_LENGTH)
    assert (run.payloads, run.partial, run.unreadable) == ((), b"", build_frame(b"ok") + NO_LENGTH)
    assert "length" in run.reason
    assert plan.read_run(run.partial, build_frame(b"next")).payloads == (b"next",)


def test_a_cut_frame_that_makes_no_sense_with_the_page_is_given_up_alone() -> None:
    run = plan.read_run(b"\xff\xff\xff\xff", b"\xff" + b"")
    assert (run.payloads, run.unreadable) == ((), b"\xff\xff\xff\xff")
    run = plan.read_run(b"\xff\xff\xff\xff", build_frame(b"x" * 200))
    assert (run.payloads, run.partial, run.unreadable) == ((b"x" * 200,), b"", b"\xff\xff\xff\xff")
    run = plan.read_run(b"\xff\xff\xff\xff", NO_LENGTH)
    assert (run.payloads, run.partial, run.unreadable) == ((), b"", b"\xff\xff\xff\xff" + NO_LENGTH)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_byte_of_a_page_is_lost_whatever_it_is(partial: bytes, data: bytes) -> None:
    run = plan.read_run(partial, data)
    kept = len(run.unreadable) + len(run.partial) + sum(map(len, run.payloads))
    assert kept <= len(partial) + len(data)
    assert kept + 5 * len(run.payloads) >= len(partial) + len(data)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(1, 100), st.integers(1, 25))
def test_rows_are_chosen_oldest_first_at_least_one_and_within_the_limits(sizes: list[int], max_bytes: int, max_rows: int) -> None:
    count = plan.choose_rows(sizes, max_bytes=max_bytes, max_rows=max_rows)
    assert 1 <= count <= min(len(sizes), max_rows)
    assert count == 1 or sum(sizes[:count]) <= max_bytes
    if count < min(len(sizes), max_rows):
        assert sum(sizes[: count + 1]) > max_bytes
