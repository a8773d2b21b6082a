"""How much presence a room holds."""

import pytest
from ds_sync_ywebsocket import attendance
from ds_sync_ywebsocket.attendance import Attendance, Held

from ds_sync.crdt import Word


@pytest.fixture
def all_rooms() -> Held:
    return Held()


@pytest.fixture
def room(all_rooms: Held) -> Attendance:
    return Attendance(all_rooms)


def present(room: Attendance) -> dict[int, object]:
    return {word.client: word.state for word in room.present()}


def test_who_comes_when_the_room_is_full_is_not_taken(room: Attendance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "PEOPLE", 2)
    ann, bob, eve = (Word(client, 1, "here") for client in (1, 2, 3))
    assert room.hear([ann, bob, eve], 0.0) == [ann, bob]
    assert (present(room), room.turned_away) == ({1: "here", 2: "here"}, 1)
    moved = Word(1, 2, "elsewhere")
    assert room.hear([moved], 1.0) == [moved]
    left = Word(2, 2, None)
    assert room.hear([left, eve], 2.0) == [left, eve], "whoever left is not remembered when others need the place"
    assert present(room) == {1: "elsewhere", 3: "here"}


def test_states_have_so_many_bytes_in_a_room_and_in_all(all_rooms: Held, room: Attendance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "ROOM_BYTES", 100)
    monkeypatch.setattr(attendance, "ALL_BYTES", 150)
    assert len(room.hear([Word(1, 1, "x" * 58), Word(2, 1, "y" * 58)], 0.0)) == 1
    assert room.hear([Word(1, 2, "x" * 108)], 20.0) == []
    assert room.expire(49.0) == [], "it spoke, and is there with what it said before"
    assert present(room) == {1: "x" * 58}
    assert len(room.hear([Word(1, 3, "x"), Word(2, 1, "y" * 58)], 49.0)) == 2
    assert all_rooms.size == 63
    other = Attendance(all_rooms)
    assert other.hear([Word(1, 1, "z" * 90)], 49.0) == []
    assert len(other.hear([Word(1, 1, "z" * 80)], 49.0)) == 1
    other.clear()
    assert all_rooms.size == 63
    assert len(room.hear([Word(1, 4, None), Word(2, 2, None)], 50.0)) == 2
    assert all_rooms.size == 0


def test_what_expires_makes_room(all_rooms: Held, room: Attendance) -> None:
    room.hear([Word(1, 1, "x" * 58)], 0.0)
    assert room.expire(31.0) == [Word(1, 1, None)]
    assert all_rooms.size == 0
    assert room.hear([Word(1, 1, None)], 32.0) == []
    assert room.expire(93.0) == []
    assert room.hear([Word(1, 1, "back")], 94.0) == [Word(1, 1, "back")], "nobody remembers"


def test_one_connection_speaks_for_so_many(room: Attendance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "SPOKEN_FOR", 2)
    crowd = [Word(client, 1, "here") for client in range(4)]
    assert room.claim("ann", crowd, first=True) == crowd[:2]
    assert room.claim("ann", crowd, first=True) == crowd[:2], "which are the same when it says it again"
    room.hear(crowd[:2], 0.0)
    assert room.claim("bob", crowd[2:], first=True) == crowd[2:]
    assert room.claim("cy", crowd[:1], first=True) == crowd[:1], "it came back on a new connection"
    assert room.claim("ann", [crowd[2]], first=False) == [crowd[2]], "now it has a place"
    assert [word.client for word in room.leave("cy")] == [0]
    assert [word.client for word in room.leave("ann")] == [1]


def test_words_of_others_are_repeated_freely(room: Attendance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "SPOKEN_FOR", 1)
    crowd = [Word(client, 1, "here") for client in range(4)]
    room.hear(crowd, 0.0)
    room.claim("ann", crowd[:1], first=True)
    assert room.claim("ann", crowd, first=False) == crowd
    assert room.turned_away == 0


def test_a_connection_that_goes_through_clients_is_not_remembered_for_all_of_them(
    room: Attendance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "SPOKEN_FOR", 2)
    for client in range(50):
        now = client * 40.0
        word = Word(client, 1, "here")
        assert room.claim("ann", [word], first=False) == [word]
        assert room.hear([word], now) == [word]
        room.hear([Word(client, 2, None)], now + 1)
        room.expire(now + 40)
    assert room.turned_away == 0
