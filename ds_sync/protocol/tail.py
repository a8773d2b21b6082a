"""Following a stream, as a machine: what to do next, after what happened.

The rules:

- Reading begins with catch-up: plain pages, cacheable by anybody between us and the server, until one is up to date. Somebody who
  knows to be near the tail may leave that out.
- Then it goes live, by SSE if it may. `auto` tries SSE first. A server that REFUSED it for this stream makes us use long-poll for
  good; so does text, whose line ends an event stream changes. So does a proxy that BUFFERED it, but only when long-poll has brought
  an answer: a network that has silently gone away looks the same as such a proxy, so until then the mode is `suspect`, and a CUT
  takes the suspicion back.
- A lost connection (CUT) waits, and catches up again. A live request that ended too soon with nothing to show (HASTY) rests, and goes
  live again; one that ran its time (END) is renewed at once.
- REFRESH asks for proof of being caught up, and catches up again, from any state that is not final.
- The stream's end (CLOSE) and an answer that no repetition will change (FAIL) are final; so is being caught up if nobody wants
  more (`off`).

LIVE in the table stands for the state that the mode names. A pair that is not in the table can't happen.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal

Live = Literal["auto", "sse", "long-poll", False]
"""How to go on after catch-up; False ends there."""


class State(Enum):
    """What the shell is to do."""

    CATCH_UP = "catch-up"
    SSE = "sse"
    LONG_POLL = "long-poll"
    WAITING = "waiting"
    """Sleep: the connection was lost, and somebody was told."""
    RESTING = "resting"
    """Sleep: a live request ended too soon."""
    DONE = "done"
    CLOSED = "closed"
    FAILED = "failed"
    LIVE = "live"
    """Only in the table."""


class Event(Enum):
    """What happened."""

    PAGE = "page"
    """A page came; there is more."""
    CAUGHT_UP = "caught up"
    """A page came, and it is up to date."""
    END = "end"
    """A live request ran its time."""
    HASTY = "hasty"
    REFUSED = "refused"
    BUFFERED = "buffered"
    CUT = "cut"
    ELAPSED = "elapsed"
    """The sleep is over."""
    REFRESH = "refresh"
    CLOSE = "close"
    FAIL = "fail"


class Mode(Enum):
    """How to go live."""

    AUTO = "auto"
    SSE = "sse"
    LONG_POLL = "long-poll"
    SUSPECT = "suspect"
    OFF = "off"


S, E, M = State, Event, Mode

TRANSITIONS: Final = {
    (S.CATCH_UP, E.PAGE): S.CATCH_UP,
    (S.CATCH_UP, E.CAUGHT_UP): S.LIVE,
    (S.CATCH_UP, E.CUT): S.WAITING,
    (S.CATCH_UP, E.REFRESH): S.CATCH_UP,
    (S.CATCH_UP, E.CLOSE): S.CLOSED,
    (S.CATCH_UP, E.FAIL): S.FAILED,
    (S.SSE, E.PAGE): S.SSE,
    (S.SSE, E.CAUGHT_UP): S.SSE,
    (S.SSE, E.END): S.LIVE,
    (S.SSE, E.HASTY): S.RESTING,
    (S.SSE, E.REFUSED): S.LIVE,
    (S.SSE, E.BUFFERED): S.LIVE,
    (S.SSE, E.CUT): S.WAITING,
    (S.SSE, E.REFRESH): S.CATCH_UP,
    (S.SSE, E.CLOSE): S.CLOSED,
    (S.SSE, E.FAIL): S.FAILED,
    (S.LONG_POLL, E.PAGE): S.LONG_POLL,
    (S.LONG_POLL, E.CAUGHT_UP): S.LONG_POLL,
    (S.LONG_POLL, E.END): S.LIVE,
    (S.LONG_POLL, E.HASTY): S.RESTING,
    (S.LONG_POLL, E.CUT): S.WAITING,
    (S.LONG_POLL, E.REFRESH): S.CATCH_UP,
    (S.LONG_POLL, E.CLOSE): S.CLOSED,
    (S.LONG_POLL, E.FAIL): S.FAILED,
    (S.WAITING, E.ELAPSED): S.CATCH_UP,
    (S.WAITING, E.REFRESH): S.CATCH_UP,
    (S.RESTING, E.ELAPSED): S.LIVE,
    (S.RESTING, E.REFRESH): S.CATCH_UP,
}

MODES: Final = {
    (M.AUTO, E.REFUSED): M.LONG_POLL,
    (M.AUTO, E.BUFFERED): M.SUSPECT,
    (M.SUSPECT, E.CUT): M.AUTO,
    (M.SUSPECT, E.PAGE): M.LONG_POLL,
    (M.SUSPECT, E.CAUGHT_UP): M.LONG_POLL,
    (M.SUSPECT, E.END): M.LONG_POLL,
    (M.SUSPECT, E.HASTY): M.LONG_POLL,
}
"""Pairs that are not here leave the mode as it is."""

LIVE_STATES: Final = {M.AUTO: S.SSE, M.SSE: S.SSE, M.LONG_POLL: S.LONG_POLL, M.SUSPECT: S.LONG_POLL, M.OFF: S.DONE}

FINAL: Final = frozenset({S.DONE, S.CLOSED, S.FAILED})


class Tail:
    """The machine."""

    def __init__(self, live: Live = "auto", *, catch_up: bool = True) -> None:
        """Without `catch_up` reading begins live."""
        self.mode = Mode.OFF if live is False else Mode(live)
        self.state = State.CATCH_UP if catch_up else LIVE_STATES[self.mode]

    @property
    def final(self) -> bool:
        """True if nothing is left to do."""
        return self.state in FINAL

    def receive_event(self, event: Event) -> State:
        """Take what happened; return what to do next. Raises AssertionError for what can't happen in this state."""
        try:
            target = TRANSITIONS[self.state, event]
        except KeyError:
            raise AssertionError(f"{event} can't happen in {self.state}") from None
        if self.state is not State.CATCH_UP or event is Event.CUT:  # only an answer to a long-poll shows that long-poll is answered
            self.mode = MODES.get((self.mode, event), self.mode)
        self.state = LIVE_STATES[self.mode] if target is State.LIVE else target
        return self.state
