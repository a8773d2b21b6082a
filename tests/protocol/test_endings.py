from dataclasses import replace

import pytest

from ds_sync.exceptions import GoneError, NotFoundError
from ds_sync.protocol.endings import SourcesNeededError, decide_delete, decide_expire, decide_renew
from ds_sync.protocol.history import begin_history
from ds_sync.protocol.state import Origin, StreamState, StreamView, require_stream

LIFE = "0123456789abcdef0123456789abcdef"
NOW = 1000.0
PLAIN = StreamState(LIFE, "text/plain", 3, b"h" * 16)
FORK = replace(PLAIN, incarnation="a" * 32, origin=Origin("s", 3, 7))


def view(state: StreamState) -> StreamView:
    return StreamView(state, {})


def test_a_stream_without_forks_leaves_a_tombstone() -> None:
    decision = decide_delete(view(replace(PLAIN, ttl=5, deadline=NOW + 5)), NOW)
    assert decision.result == StreamState(LIFE, "text/plain", 0, begin_history(LIFE), deleted=True)
    assert [change and change.fresh for change in decision.changes] == [True]


def test_a_stream_with_forks_is_kept_with_its_records() -> None:
    state = replace(PLAIN, forks=2, ttl=5, deadline=NOW + 5)
    decision = decide_delete(view(state), NOW)
    assert decision.result == replace(PLAIN, forks=2, kept=True)
    assert [change and change.fresh for change in decision.changes] == [False]
    with pytest.raises(GoneError) as caught:
        decide_delete(view(decision.result), NOW)
    assert (caught.value.code, caught.value.incarnation) == ("STREAM_DELETED", LIFE)


def test_the_end_of_a_fork_asks_for_its_source_and_counts_it_down() -> None:
    with pytest.raises(SourcesNeededError) as caught:
        decide_delete(view(FORK), NOW)
    assert caught.value.paths == ("s",)
    for source in (replace(PLAIN, forks=1), replace(PLAIN, forks=2, kept=True)):
        changes = decide_delete(view(FORK), NOW, {"s": view(source)}).changes
        assert changes[1] is not None
        assert (changes[1].state, changes[1].fresh) == (replace(source, forks=source.forks - 1), False)


def test_the_end_of_the_last_fork_goes_up_the_chain() -> None:
    middle = replace(PLAIN, forks=1, kept=True, origin=Origin("root", 1, 7))
    with pytest.raises(SourcesNeededError) as caught:
        decide_delete(view(FORK), NOW, {"s": view(middle)})
    assert caught.value.paths == ("s", "root")
    root = replace(PLAIN, forks=1, kept=True, deadline=NOW - 5)
    states = [change.state for change in decide_delete(view(FORK), NOW, {"s": view(middle), "root": view(root)}).changes if change]
    assert [state.deleted for state in states] == [True, True, True]
    assert [state.deadline for state in states] == [None, None, NOW - 5]
    alive = replace(root, kept=False, deadline=None)
    states = [change.state for change in decide_delete(view(FORK), NOW, {"s": view(middle), "root": view(alive)}).changes if change]
    assert states[2] == replace(alive, forks=0)


def test_sources_of_an_earlier_look_are_not_mistaken_for_those_of_now() -> None:
    with pytest.raises(SourcesNeededError) as caught:
        decide_delete(view(FORK), NOW, {"other": view(replace(PLAIN, forks=1))})
    assert caught.value.paths == ("s",)
    decision = decide_expire(view(FORK), NOW, {"s": view(replace(PLAIN, forks=1))})
    assert decision.changes == (None, None)


def test_why_a_stream_ended_is_remembered() -> None:
    for forks, error in ((0, NotFoundError), (1, GoneError)):
        state = replace(PLAIN, forks=forks, ttl=5, deadline=NOW)
        change = decide_expire(view(state), NOW).changes[0]
        assert change is not None
        for ended in (state, change.state):
            with pytest.raises(error) as caught:
                require_stream(ended, NOW)
            assert (caught.value.code, caught.value.incarnation) == ("STREAM_EXPIRED", LIFE)
        assert decide_expire(view(change.state), NOW).changes == (None,)


def test_what_is_kept_is_renewed_by_nobody() -> None:
    state = replace(PLAIN, forks=1, ttl=10, deadline=NOW + 1)
    assert decide_renew(view(state), NOW).changes[0] is not None
    assert decide_renew(view(replace(state, kept=True)), NOW).changes == (None,)
