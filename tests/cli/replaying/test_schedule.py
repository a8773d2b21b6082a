from __future__ import annotations

import pytest

from ds_sync.cli.replaying.schedule import SERVER, Event, draw_schedule


def drawn(seed: int, *, server: bool = True, peers: int = 4) -> list[Event]:
    return draw_schedule(seed, peers=peers, typing=2, kills=6, cuts=4, server=server)


def test_one_seed_draws_one_schedule() -> None:
    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


@pytest.mark.parametrize("seed", range(30))
def test_what_is_drawn_is_in_order_and_hits_the_server_and_one_who_types(seed: int) -> None:
    events = drawn(seed)
    assert [event.place for event in events] == sorted(event.place for event in events)
    assert all(0 < event.place < 1 for event in events)
    killed = [event.whom for event in events if event.kill]
    assert len(killed) == 6
    assert SERVER in killed
    assert {0, 1} & set(killed)
    assert {event.whom for event in events} <= {SERVER, 0, 1, 2, 3}


def test_a_server_that_is_not_ours_is_left_alone() -> None:
    assert all(event.whom != SERVER for seed in range(30) for event in drawn(seed, server=False))


def test_an_event_says_what_happens() -> None:
    assert str(Event(0.125, 0.0, True, SERVER, 0.5)) == " 12.5%  kill the server for 0.50 s"
    assert str(Event(0.5, 0.0, False, 1, 1.25)) == " 50.0%  cut off peer 2 for 1.25 s"
