"""How a stream ends: deleted, or its time over. A source outlives its end as long as it has forks (PROTOCOL.md section 4.2).

A stream with forks is *kept*: it answers 410, its path is not free, and its records are read through its forks. The end of the last
fork ends it for good, and what was true of it may then be true of its own source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ds_sync.protocol.expiry import RENEWAL_SHARE
from ds_sync.protocol.history import begin_history
from ds_sync.protocol.state import Change, Decision, StreamState, StreamView, is_expired, require_stream

NO_SOURCES: Final[Mapping[str, StreamView]] = {}


class SourcesNeededError(Exception):
    """The decision touches more streams: decide again in a transaction on the stream and then `paths`, with their views. No refusal."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        super().__init__(paths)
        self.paths = paths
        """The sources, nearest first."""


def decide_renew(view: StreamView, now: float) -> Decision[None]:
    """A read renews a time to live. Nothing is stored if the deadline would hardly move, or the stream is gone."""
    state = view.state
    if state is None or state.ttl is None or state.deadline is None or state.deleted or state.kept or is_expired(state, now):
        return Decision(None)
    if now + state.ttl - state.deadline < state.ttl * RENEWAL_SHARE:
        return Decision(None)
    return Decision(None, (Change(replace(state, deadline=now + state.ttl)),))


def decide_expire(view: StreamView, now: float, sources: Mapping[str, StreamView] = NO_SOURCES) -> Decision[None]:
    """What is left of a stream whose time is over makes room for a tombstone, or is kept for its forks.

    `sources` are the views of the paths a SourcesNeededError asked for, in that order.
    """
    state = view.state
    unchanged = (None,) * (1 + len(sources))
    if state is None or state.deleted or state.kept or not is_expired(state, now):
        return Decision(None, unchanged)
    # The deadline stays, so that it goes on saying why it ended.
    return Decision(None, _end(state, sources, deadline=state.deadline))


def decide_delete(view: StreamView, now: float, sources: Mapping[str, StreamView] = NO_SOURCES) -> Decision[StreamState]:
    """DELETE: leave a tombstone, or keep the stream for its forks; return the life that ended. Raises NotFoundError, GoneError.

    `sources` are the views of the paths a SourcesNeededError asked for, in that order.
    """
    changes = _end(require_stream(view.state, now), sources, deadline=None)
    ended = changes[0]
    if ended is None:
        raise AssertionError("an end is a change")
    return Decision(ended.state, changes)


def _end(state: StreamState, sources: Mapping[str, StreamView], *, deadline: float | None) -> tuple[Change | None, ...]:
    changes: dict[str, Change] = {}
    if state.forks:
        own = Change(replace(state, kept=True, ttl=None, expires_at=None, deadline=deadline))
    else:
        own = _bury(state, deadline)
        _release(state, sources, changes)
    return own, *(changes.get(path) for path in sources)


def _release(child: StreamState, sources: Mapping[str, StreamView], changes: dict[str, Change]) -> None:
    paths: list[str] = []
    while child.origin is not None:
        paths.append(child.origin.path)
        if paths[-1] not in sources:
            raise SourcesNeededError(tuple(paths))
        source = sources[paths[-1]].state
        if source is None or not source.forks:
            raise AssertionError("a source lives as long as its forks")
        if source.forks > 1 or not source.kept:
            changes[paths[-1]] = Change(replace(source, forks=source.forks - 1))
            return
        changes[paths[-1]] = _bury(source, source.deadline)
        child = source


def _bury(state: StreamState, deadline: float | None) -> Change:
    tombstone = StreamState(state.incarnation, state.content_type, 0, begin_history(state.incarnation), deleted=True, deadline=deadline)
    return Change(tombstone, fresh=True)
