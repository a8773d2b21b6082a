from dataclasses import replace

import pytest

from ds_sync.protocol.history import Place
from ds_sync.protocol.retention import KeepUpdates, Milestone, choose_trim, count_excess, decide_trim
from ds_sync.protocol.state import Change, Origin, StreamState, StreamView

LIFE = "0123456789abcdef0123456789abcdef"
NOW = 1000.0
STATE = StreamState(LIFE, "text/plain", 1000, b"h" * 16)


@pytest.mark.parametrize(("keep", "excess"), [(1000, 0), (900, 0), (800, 0), (799, 201), (100, 900)])
def test_records_go_when_enough_has_gathered(keep: int, excess: int) -> None:
    assert count_excess("s", STATE, keep) == excess
    assert count_excess("s", replace(STATE, position=5000, earliest=Place(4000, 1)), keep) == excess


@pytest.mark.parametrize(
    "state", [replace(STATE, forks=1), replace(STATE, origin=Origin("t", 0, 0)), replace(STATE, kept=True), replace(STATE, deleted=True)]
)
def test_forks_what_has_forks_and_what_has_ended_are_left_alone(state: StreamState) -> None:
    assert count_excess("s", state, 10) == 0
    assert decide_trim(StreamView(state, {}), LIFE, Place(500, 1), NOW).changes == (None,)


@pytest.mark.parametrize("path", ["yjs/default/docs/a/.updates", "yjs/default/docs/a/.index", "yjs/default/docs/a/.snapshots/1_snapshot"])
def test_documents_keep_everything(path: str) -> None:
    assert count_excess(path, STATE, 10) == 0


def test_trimming_goes_forward_only_and_in_the_life_it_was_meant_for() -> None:
    place = Place(500, 7)
    decision = decide_trim(StreamView(STATE, {}), LIFE, place, NOW)
    assert (decision.result, decision.changes) == (True, (Change(replace(STATE, earliest=place)),))
    for state in (replace(STATE, earliest=place), replace(STATE, earliest=Place(600, 1)), replace(STATE, deadline=NOW)):
        assert decide_trim(StreamView(state, {}), LIFE, place, NOW).changes == (None,)
    assert not decide_trim(StreamView(STATE, {}), "f" * 32, place, NOW).result
    assert not decide_trim(StreamView(None, {}), LIFE, place, NOW).result


def milestones(*places: int, left_out: int = 0) -> list[Milestone]:
    """At these positions, one a second up to now."""
    return [Milestone(Place(place, place), NOW - len(places) + 1 + index, left_out) for index, place in enumerate(places)]


ALL_MAY_GO = KeepUpdates(size=0)


@pytest.mark.parametrize(
    ("made", "keep", "read_from", "chosen"),
    [
        ((), ALL_MAY_GO, None, None),
        ((900,), ALL_MAY_GO, None, None),
        ((300, 900), ALL_MAY_GO, None, 300),
        ((300, 600, 900), ALL_MAY_GO, None, 600),
        ((300, 600, 900), ALL_MAY_GO, 600, 600),
        ((300, 600, 900), ALL_MAY_GO, 599, 300),
        ((300, 600, 900), ALL_MAY_GO, 299, None),
        ((300, 600, 900), ALL_MAY_GO, 0, None),
        ((300, 600, 900), KeepUpdates(size=400), None, 600),
        ((300, 600, 900), KeepUpdates(size=401), None, 300),
        ((300, 600, 900), KeepUpdates(size=5000), None, None),
        ((300, 600, 900), KeepUpdates(seconds=1.0), None, 600),
        ((300, 600, 900), KeepUpdates(seconds=1.5), None, 300),
        ((300, 600, 900), KeepUpdates(seconds=9.0), None, None),
    ],
)
def test_updates_go_up_to_a_snapshot_that_is_not_the_newest(
    made: tuple[int, ...], keep: KeepUpdates, read_from: int | None, chosen: int | None
) -> None:
    place = choose_trim(milestones(*made), STATE, keep, read_from, NOW)
    assert place == (None if chosen is None else Place(chosen, chosen))


def test_what_has_gone_does_not_go_again_and_what_no_snapshot_has_stays() -> None:
    assert choose_trim(milestones(300, 600, 900), replace(STATE, earliest=Place(600, 600)), ALL_MAY_GO, None, NOW) is None
    assert choose_trim(milestones(300, 600, 900, left_out=1), STATE, ALL_MAY_GO, None, NOW) is None
