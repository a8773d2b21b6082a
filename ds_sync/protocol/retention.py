"""Retention: a server may drop a stream's oldest records; who asks for them is told so (PROTOCOL.md sections 4 and 5.6)."""

from __future__ import annotations

from dataclasses import replace
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
