from dataclasses import replace

import pytest

from ds_sync.protocol.history import Place
from ds_sync.protocol.retention import count_excess, decide_trim
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
