"""Subscriptions as a machine: wake, claim, acknowledge, lease, fencing. Pure: clock, randomness and tails are passed in.

The theory:

- What has to be done is never stored. It is what the tails of the linked streams have beyond their acknowledged offsets, so a server
  that dies at any moment finds it again. A link remembers which life (incarnation) of the stream was acknowledged: a stream made anew
  is unread, however short it is.
- A wake has a generation, one more than the last. It is OFFERED until somebody has it: for a webhook, an attempt to deliver it (SENT);
  for pull-wake, a claim. Whoever has it is LEASED it until `due`, and each acknowledgement extends that.
- A generation is leased once. A delivery that was refused for certain is tried again under the same generation, because nobody has it.
  Where that is in doubt (the connection broke, the server died meanwhile) the wake is over, and the next one has a new generation.
  Whoever comes back with the old one is fenced.
- A wake that ended without an acknowledgement, and a delivery that failed, make the next attempt at a webhook wait: twice as long each
  time.

A pair that is not in the table means that the caller is too late: FENCED. Source: the behaviour of the reference server,
@durable-streams/server 0.3.7; PROTOCOL.md of 2026-01 has no subscriptions yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from ds_sync.exceptions import AlreadyClaimedError, ConflictError
from ds_sync.protocol.history import Place
from ds_sync.protocol.patterns import compile_pattern

FIRST_PAUSE: Final = 1.0
"""Seconds before the second attempt at a webhook, at most; it doubles with each further one."""
LONGEST_PAUSE: Final = 60.0
LONGEST_REPEAT: Final = 600.0
"""Seconds between two events of a wake nobody claims, at most; a longer lease makes it longer."""

MAX_WAKE_STREAMS: Final = 1000
"""Streams one wake is about; further ones wait for the next."""


class Kind(Enum):
    """How a subscriber is woken."""

    WEBHOOK = "webhook"
    PULL_WAKE = "pull-wake"


class Phase(Enum):
    """Where a subscription stands."""

    IDLE = "idle"
    OFFERED = "offered"
    SENT = "sent"
    """A delivery is under way; the receiver may have it."""
    LEASED = "leased"


class Event(Enum):
    """What happened."""

    WAKE = "wake"
    SEND = "send"
    REPEAT = "repeat"
    WITHDRAW = "withdraw"
    """Nothing is left to be done: the streams are gone."""
    CLAIM = "claim"
    ACK = "ack"
    END = "end"
    """Done, released."""
    EXPIRE = "expire"
    ACCEPTED = "accepted"
    """The receiver answered 2xx and goes on working."""
    FINISHED = "finished"
    """The receiver answered 2xx and is done."""
    REFUSED = "refused"
    """Nobody has the wake: no connection, or another status."""
    CUT = "cut"
    """The connection broke: nobody knows."""
    SILENT = "silent"
    """No answer in time: the receiver may be working."""
    RESTART = "restart"
    """The server was started, and knows nothing of the delivery that was under way."""


P, E = Phase, Event

TRANSITIONS: Final = {
    (P.IDLE, E.WAKE): P.OFFERED,
    (P.OFFERED, E.SEND): P.SENT,
    (P.OFFERED, E.REPEAT): P.OFFERED,
    (P.OFFERED, E.WITHDRAW): P.IDLE,
    (P.OFFERED, E.CLAIM): P.LEASED,
    (P.OFFERED, E.ACK): P.LEASED,
    (P.SENT, E.ACCEPTED): P.LEASED,
    (P.SENT, E.FINISHED): P.IDLE,
    (P.SENT, E.REFUSED): P.OFFERED,
    (P.SENT, E.CUT): P.IDLE,
    (P.SENT, E.SILENT): P.LEASED,
    (P.SENT, E.RESTART): P.IDLE,
    (P.SENT, E.ACK): P.LEASED,
    (P.LEASED, E.ACK): P.LEASED,
    (P.LEASED, E.END): P.IDLE,
    (P.LEASED, E.EXPIRE): P.IDLE,
    # The receiver called back before it answered.
    (P.LEASED, E.ACCEPTED): P.LEASED,
    (P.LEASED, E.FINISHED): P.IDLE,
    (P.LEASED, E.REFUSED): P.LEASED,
    (P.LEASED, E.CUT): P.LEASED,
    (P.LEASED, E.SILENT): P.LEASED,
}


@dataclass(frozen=True, slots=True)
class Config:
    """What the subscriber asked for. Two requests with equal ones are the same subscription."""

    kind: Kind
    pattern: str | None
    streams: tuple[str, ...]
    """Sorted, each once."""
    webhook_url: str | None
    wake_stream: str | None
    lease_ttl_ms: int
    description: str | None


@dataclass(frozen=True, slots=True)
class Tail:
    """A place in one life of a stream."""

    incarnation: str
    place: Place


@dataclass(frozen=True, slots=True)
class Link:
    """A stream of a subscription, and how far it was acknowledged."""

    acked: Tail | None
    """None: nothing was."""
    explicit: bool = False
    """Named, not only matched by the pattern: stays when the stream is deleted."""

    def is_behind(self, tail: Tail) -> bool:
        """Whether the stream has something beyond what was acknowledged."""
        if self.acked is None or self.acked.incarnation != tail.incarnation:
            return tail.place.position > 0
        return tail.place.position > self.acked.place.position


UNLINKED: Final = Link(None)
"""What a stream that matches the pattern, and was never acknowledged, counts as."""


@dataclass(frozen=True, slots=True)
class Wake:
    """The wake of the newest generation, while it is not over."""

    id: str
    phase: Phase
    due: float
    """Seconds since 1970. OFFERED: when to try next. LEASED: when the lease ends. SENT: when the lease will end if no answer comes."""
    holder: str | None = None
    """The worker that claimed it."""
    attempts: int = 0
    progress: bool = False
    """Whether anything was acknowledged."""
    snapshot: Mapping[str, Tail] = field(default_factory=dict)
    """What the wake is about: acknowledged when the receiver answers that it is done."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """All that is stored of a subscription."""

    id: str
    uid: str
    """Random: another subscription of the same name takes none of this one's tokens."""
    created_at: str
    """ISO 8601."""
    base_url: str
    """Scheme and host by which the creator reached the server: where callbacks go."""
    config: Config
    links: Mapping[str, Link]
    generation: int = 0
    wake: Wake | None = None
    failures: int = 0
    """Wakes and deliveries in a row that brought nothing."""
    not_before: float = 0.0
    """Seconds since 1970 before which no webhook is woken."""
    failing: bool = False
    """Whether the last delivery failed."""

    @property
    def phase(self) -> Phase:
        """Where it stands."""
        return Phase.IDLE if self.wake is None else self.wake.phase

    @property
    def lease(self) -> float:
        """Seconds."""
        return self.config.lease_ttl_ms / 1000

    @property
    def is_webhook(self) -> bool:
        """Whether it wakes by a webhook."""
        return self.config.kind is Kind.WEBHOOK

    def link(self, path: str) -> Link | None:
        """Return the link to `path`, or None if the subscription has nothing to do with it."""
        found = self.links.get(path)
        return found or (UNLINKED if self.matches(path) else None)

    def matches(self, path: str) -> bool:
        """Whether the pattern matches. A subscription's own wake stream never does: each wake would cause the next."""
        pattern = self.config.pattern
        return pattern is not None and path != self.config.wake_stream and compile_pattern(pattern).matches(path)


class Step(Enum):
    """What the shell is to do now."""

    BEGIN = "begin"
    SEND = "send"
    REPEAT = "repeat"
    WITHDRAW = "withdraw"
    EXPIRE = "expire"


def next_step(sub: Subscription, now: float, *, pending: bool) -> Step | float | None:
    """Return what to do now, or when to ask again (seconds since 1970), or None: nothing until something happens."""
    wake = sub.wake
    if wake is None:
        if not pending:
            return None
        return sub.not_before if sub.is_webhook and _is_ahead(sub.not_before, now, LONGEST_PAUSE) else Step.BEGIN
    if wake.phase is Phase.SENT:
        return None
    if wake.phase is Phase.OFFERED and not pending:
        return Step.WITHDRAW
    longest = sub.lease if wake.phase is Phase.LEASED else max(sub.lease, LONGEST_REPEAT)
    if _is_ahead(wake.due, now, longest):
        return wake.due
    if wake.phase is Phase.LEASED:
        return Step.EXPIRE
    return Step.SEND if sub.is_webhook else Step.REPEAT


def begin_wake(sub: Subscription, pending: Mapping[str, Tail], wake_id: str, now: float) -> Subscription:
    """Offer the next generation. The caller delivers it, or writes its event: a pull-wake is repeated when a lease's time has passed."""
    phase = _next_phase(sub, Event.WAKE)
    snapshot = dict(list(pending.items())[:MAX_WAKE_STREAMS])
    due = now if sub.is_webhook else now + sub.lease
    return replace(sub, generation=sub.generation + 1, wake=Wake(wake_id, phase, due, attempts=1, snapshot=snapshot))


def send(sub: Subscription, now: float) -> Subscription:
    """Before a delivery: from now on the receiver may have it."""
    return _move(sub, Event.SEND, due=now + sub.lease)


def repeat(sub: Subscription, now: float) -> Subscription:
    """Nobody claimed the wake: its event is written again, ever more rarely. A worker may have died between the event and its claim."""
    wake = _require_wake(sub)
    pause = min(sub.lease * 2.0**wake.attempts, max(sub.lease, LONGEST_REPEAT))
    return _move(sub, Event.REPEAT, due=now + pause, attempts=wake.attempts + 1)


def withdraw(sub: Subscription) -> Subscription:
    """There is nothing left to do."""
    _next_phase(sub, Event.WITHDRAW)
    return replace(sub, wake=None)


def expire(sub: Subscription, now: float, roll: float) -> Subscription:
    """The lease is over. `roll` is random, 0 to 1."""
    return _end_wake(sub, Event.EXPIRE, now, roll)


def restart(sub: Subscription) -> Subscription:
    """After a start of the server: the delivery that was under way counts as lost, and is made anew at once."""
    return replace(sub, wake=None) if sub.phase is Phase.SENT else sub


def claim(sub: Subscription, worker: str, now: float) -> Subscription:
    """Lease the offered wake to `worker`. Raises AlreadyClaimedError."""
    wake = sub.wake
    if wake is not None and wake.phase is Phase.LEASED:
        raise AlreadyClaimedError("somebody else has the wake", holder=wake.holder or "", generation=sub.generation)
    return _move(sub, Event.CLAIM, due=now + sub.lease, holder=worker)


def require_lease(sub: Subscription, wake_id: str, generation: int, now: float) -> None:
    """Raise ConflictError (FENCED) unless this is the wake that is going on, and its lease is not over."""
    wake = sub.wake
    if wake is None or generation != sub.generation or wake_id != wake.id or (wake.phase is Phase.LEASED and now >= wake.due):
        raise _fenced()


def acknowledge(
    sub: Subscription, wake_id: str, generation: int, acks: Mapping[str, Tail], now: float, roll: float, *, done: bool
) -> Subscription:
    """Store how far the holder got, all of it or nothing, and extend the lease, or end it. Raises ConflictError: FENCED, INVALID_OFFSET."""
    require_lease(sub, wake_id, generation, now)
    links = dict(sub.links)
    for path, tail in acks.items():
        link = sub.link(path)
        if link is None:
            raise ConflictError("this is no stream of the subscription", code="INVALID_OFFSET")
        acked = link.acked
        if acked is not None and acked.incarnation == tail.incarnation and tail.place.position < acked.place.position:
            raise ConflictError("the offset is before what was acknowledged", code="INVALID_OFFSET")
        links[path] = replace(link, acked=tail)
    progress = _require_wake(sub).progress or any(sub.links.get(path) != links[path] for path in acks)
    sub = _move(sub, Event.ACK, due=now + sub.lease, progress=progress)
    sub = replace(sub, links=links, failing=False)
    return _end_wake(sub, Event.END, now, roll) if done else sub


def release(sub: Subscription, wake_id: str, generation: int, now: float, roll: float) -> Subscription:
    """Give the wake back. Raises ConflictError (FENCED)."""
    require_lease(sub, wake_id, generation, now)
    return _end_wake(sub, Event.END, now, roll)


def receive_delivery(sub: Subscription, wake_id: str, outcome: Event, now: float, roll: float) -> Subscription:
    """What came of the delivery of `wake_id`. Of a wake that is over, nothing."""
    wake = sub.wake
    if wake is None or wake.id != wake_id or wake.phase is Phase.OFFERED:
        return sub
    if outcome is Event.FINISHED:
        links = dict(sub.links)
        for path, tail in wake.snapshot.items():
            # A stream that was remade meanwhile is acknowledged in the life the receiver was told of, and wakes again.
            link = sub.link(path)
            if link is not None and link.is_behind(tail):
                links[path] = replace(link, acked=tail)
        sub = replace(sub, links=links, failing=False, wake=replace(wake, progress=True))
        return _end_wake(sub, outcome, now, roll)
    phase = _next_phase(sub, outcome)
    if wake.phase is Phase.LEASED:
        return sub
    if outcome is Event.ACCEPTED:
        return replace(_move(sub, outcome, due=now + sub.lease), failing=False)
    if outcome is Event.SILENT:
        return replace(_move(sub, outcome), failing=True)
    sub = replace(sub, failures=sub.failures + 1, failing=True)
    if phase is Phase.OFFERED:
        return _move(sub, outcome, due=now + build_pause(sub.failures, roll), attempts=wake.attempts + 1)
    return replace(sub, wake=None, not_before=now + build_pause(sub.failures, roll))


def link_streams(sub: Subscription, tails: Mapping[str, Tail | None], *, explicit: bool) -> Subscription:
    """Link streams at their tails (None: there is none yet). Those that are linked keep what was acknowledged."""
    links = dict(sub.links)
    for path, tail in tails.items():
        link = sub.link(path) if explicit else sub.links.get(path)
        links[path] = Link(tail, explicit) if link is None else replace(link, explicit=explicit or link.explicit)
    return replace(sub, links=links)


def unlink_streams(sub: Subscription, paths: Mapping[str, bool]) -> Subscription:
    """Forget streams: as named ones (True), or because they were deleted (False). What the pattern matches stays linked by it."""
    links = dict(sub.links)
    for path, named in paths.items():
        link = links.get(path)
        if link is None or (link.explicit and not named):
            continue
        if named and sub.matches(path):
            links[path] = replace(link, explicit=False)
        else:
            del links[path]
    return replace(sub, links=links)


def build_pause(failures: int, roll: float) -> float:
    """Return the seconds to wait after so many failures: half of it certain, half by chance (`roll`, 0 to 1)."""
    return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE) * (0.5 + 0.5 * roll)


def _is_ahead(due: float, now: float, longest: float) -> bool:
    """Whether `due` is still to come. What is further away than it can have been set was set by a clock that went back since."""
    return now < due <= now + longest + 1.0


def _end_wake(sub: Subscription, event: Event, now: float, roll: float) -> Subscription:
    _next_phase(sub, event)
    if _require_wake(sub).progress:
        return replace(sub, wake=None, failures=0, not_before=0.0)
    failures = sub.failures + 1
    return replace(sub, wake=None, failures=failures, not_before=now + build_pause(failures, roll))


def _move(sub: Subscription, event: Event, **changes: object) -> Subscription:
    phase = _next_phase(sub, event)
    return replace(sub, wake=replace(_require_wake(sub), phase=phase, **changes))  # type: ignore[arg-type]


def _next_phase(sub: Subscription, event: Event) -> Phase:
    found = TRANSITIONS.get((sub.phase, event))
    if found is None:
        raise _fenced()
    return found


def _require_wake(sub: Subscription) -> Wake:
    if sub.wake is None:
        raise AssertionError("the table leads here only while a wake goes on")
    return sub.wake


def _fenced() -> ConflictError:
    return ConflictError("this wake is over", code="FENCED")
