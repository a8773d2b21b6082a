import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_sync.protocol.tail import FINAL, LIVE_STATES, MODES, TRANSITIONS, Event, Live, Mode, State, Tail


def run(live: object, *events: Event) -> Tail:
    tail = Tail(live)  # type: ignore[arg-type]
    for event in events:
        tail.receive_event(event)
    return tail


def test_catch_up_then_live() -> None:
    assert run("auto", Event.PAGE).state is State.CATCH_UP
    assert run("auto", Event.CAUGHT_UP).state is State.SSE
    assert run("long-poll", Event.CAUGHT_UP).state is State.LONG_POLL
    assert run(False, Event.CAUGHT_UP).state is State.DONE


def test_a_lost_connection_waits_and_catches_up() -> None:
    assert run("auto", Event.CAUGHT_UP, Event.CUT).state is State.WAITING
    assert run("auto", Event.CAUGHT_UP, Event.CUT, Event.ELAPSED).state is State.CATCH_UP


def test_suspicion_is_taken_back_unless_long_poll_answers() -> None:
    suspect = [Event.CAUGHT_UP, Event.BUFFERED]
    assert run("auto", *suspect).state is State.LONG_POLL
    assert run("auto", *suspect, Event.CUT, Event.ELAPSED, Event.CAUGHT_UP).state is State.SSE
    assert run("auto", *suspect, Event.END, Event.CUT, Event.ELAPSED, Event.CAUGHT_UP).state is State.LONG_POLL


def test_a_page_of_catch_up_does_not_show_that_long_poll_is_answered() -> None:
    tail = run("auto", Event.CAUGHT_UP, Event.BUFFERED, Event.REFRESH, Event.PAGE, Event.CAUGHT_UP)
    assert (tail.state, tail.mode) == (State.LONG_POLL, Mode.SUSPECT)
    tail.receive_event(Event.CUT)
    assert tail.mode is Mode.AUTO


def test_a_refusal_is_for_good() -> None:
    assert run("auto", Event.CAUGHT_UP, Event.REFUSED, Event.CUT, Event.ELAPSED, Event.CAUGHT_UP).state is State.LONG_POLL


@pytest.mark.parametrize("state", [state for state in State if state not in FINAL and state is not State.LIVE])
def test_refresh_catches_up_from_everywhere(state: State) -> None:
    assert TRANSITIONS[state, Event.REFRESH] is State.CATCH_UP


def test_what_cannot_happen_is_an_assertion() -> None:
    with pytest.raises(AssertionError, match="ELAPSED"):
        run("auto", Event.ELAPSED)
    with pytest.raises(AssertionError):
        run("auto", Event.CLOSE, Event.REFRESH)


@given(st.sampled_from(["auto", "sse", "long-poll", False]), st.data())
def test_no_walk_ends_in_a_state_without_a_way_on(live: object, data: st.DataObject) -> None:
    tail = Tail(live)  # type: ignore[arg-type]
    for _ in range(30):
        possible = [event for state, event in TRANSITIONS if state is tail.state]
        assert bool(possible) != tail.final
        assert tail.state is not State.LIVE
        if tail.final:
            break
        tail.receive_event(data.draw(st.sampled_from(possible)))
        assert tail.mode is Mode.AUTO or live == "auto" or tail.mode in (Mode(live) if live else Mode.OFF,)


def test_the_tables_name_only_what_exists() -> None:
    assert set(LIVE_STATES) == set(Mode)
    assert {state for state, _ in TRANSITIONS} | FINAL | {State.LIVE} == set(State)
    assert {event for _, event in TRANSITIONS} == set(Event)
    assert all(mode in Mode for mode in MODES.values())


@pytest.mark.parametrize(("live", "state"), [("auto", State.SSE), ("sse", State.SSE), ("long-poll", State.LONG_POLL)])
def test_without_catch_up_it_begins_live_and_catches_up_after_a_cut(live: Live, state: State) -> None:
    tail = Tail(live, catch_up=False)
    assert tail.state is state
    tail.receive_event(Event.CUT)
    assert tail.receive_event(Event.ELAPSED) is State.CATCH_UP
