"""What goes wrong in a session of several people, and when: drawn from a seed, so that the same seed draws the same."""

from __future__ import annotations

import random
from dataclasses import dataclass

SERVER = -1
"""Whom, if it is not one of the peers."""

_EARLIEST, _LATEST = 0.02, 0.98
_SERVER_SHARE = 0.25
_MAX_DELAY = 0.05
_MAX_DOWN = 0.6
_MAX_CUT = 1.0


@dataclass(frozen=True, slots=True)
class Event:
    """One process killed by SIGKILL, or cut off from the network."""

    place: float
    """Which share of all transactions has been typed by then."""
    delay: float
    """Seconds from there to the moment it happens."""
    kill: bool
    """Or else cut off."""
    whom: int
    """The peer, from 0, or SERVER."""
    seconds: float
    """Until it is started again, or has its network back."""

    def __str__(self) -> str:
        whom = "the server" if self.whom == SERVER else f"peer {self.whom + 1}"
        return f"{self.place:6.1%}  {'kill' if self.kill else 'cut off'} {whom} for {self.seconds:.2f} s"


def draw_schedule(seed: int, *, peers: int, typing: int, kills: int, cuts: int, server: bool) -> list[Event]:
    """Return `kills` and `cuts` in the order in which they are due.

    One in four is the server's if `server` (one that is ours), and one kill in any case; another hits one of the first `typing` peers.
    """
    rng = random.Random(seed)
    places = sorted(rng.uniform(_EARLIEST, _LATEST) for _ in range(kills + cuts))
    victims = []
    for number in range(kills + cuts):
        peer = rng.randrange(typing if number == 1 else peers)
        at_server = number == 0 or (rng.random() < _SERVER_SHARE and number != 1)
        victims.append((number < kills, SERVER if server and at_server else peer))
    rng.shuffle(victims)
    return [
        Event(place, rng.uniform(0, _MAX_DELAY), kill, whom, rng.uniform(0, _MAX_DOWN if kill else _MAX_CUT))
        for place, (kill, whom) in zip(places, victims, strict=True)
    ]
