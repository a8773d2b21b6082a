"""Retention: a server may drop a stream's oldest records; who asks for them is told so (PROTOCOL.md sections 4 and 5.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ds_sync.protocol.history import START, Place
from ds_sync.protocol.state import Change, Decision, StreamState, StreamView, is_expired

DOCUMENT_MARK: Final = "/."
"""In the paths of streams that belong to a document: its updates, snapshots and so on."""

SLACK: Final = 0.25
"""Of what is kept: records are dropped when this much more has gathered, so that it is not done at every append."""


def count_excess(path: str, state: StreamState, keep: int) -> int:
    """Return how many of the stream's oldest bytes may go if the last `keep` are to stay: 0 for none yet.

    What belongs to a document keeps everything, because that is not whole without its beginning. So do forks, and what has forks.
    """
    if state.origin is not None or state.forks or not state.listed or DOCUMENT_MARK in path:
        return 0
    excess = state.position - (state.earliest or START).position - keep
    return excess if excess > keep * SLACK else 0


@dataclass(frozen=True, slots=True)
class KeepUpdates:
    """How much of a document's updates is kept although a snapshot has them; what neither asks for may go."""

    seconds: float | None = None
    """All that is younger than this."""
    size: int | None = None
    """At least so many of the last bytes."""


@dataclass(frozen=True, slots=True)
class Milestone:
    """A place up to which a verified snapshot has, or had, everything."""

    place: Place
    at: float
    """When it was made, seconds since 1970."""
    left_out: int
    """How many updates before it, ever, are in no snapshot because they can't be read."""


def choose_trim(milestones: Sequence[Milestone], state: StreamState, keep: KeepUpdates, read_from: int | None, now: float) -> Place | None:
    """Return before which place a document's updates may be dropped; None if nothing may go.

    `milestones`: of this life, newest last. `read_from`: the oldest position somebody reads from. The snapshot before the newest is the
    limit: who joined by it goes on from there.
    """
    if not milestones or milestones[-1].left_out:
        return None
    limit = state.position if read_from is None else read_from
    if keep.size is not None:
        limit = min(limit, state.position - keep.size)
    begin = (state.earliest or START).position
    for milestone in reversed(milestones[:-1]):
        young = keep.seconds is not None and milestone.at > now - keep.seconds
        if begin < milestone.place.position <= limit and not young:
            return milestone.place
    return None


def decide_trim(view: StreamView, incarnation: str, place: Place, now: float) -> Decision[bool]:
    """Drop what stands before `place`, a place of this history; return whether that was done. Nothing is refused.

    `incarnation`: the life in which the place was found.
    """
    state = view.state
    if state is None or state.incarnation != incarnation or not state.listed or is_expired(state, now):
        return Decision(False)
    if state.origin is not None or state.forks or place.position <= (state.earliest or START).position:
        return Decision(False)
    return Decision(True, (Change(replace(state, earliest=place)),))
