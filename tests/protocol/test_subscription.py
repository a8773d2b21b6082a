"""The machine of subscriptions: single rules, and its laws over random histories with restarts."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_sync.exceptions import AlreadyClaimedError, ConflictError
from ds_sync.protocol import subscription as machine
from ds_sync.protocol.history import Place
from ds_sync.protocol.subscription import Config, Event, Kind, Link, Phase, Step, Subscription, Tail
from ds_sync.protocol.subscription_records import apply_change, build_change

LIFE, NEXT_LIFE = "a" * 32, "b" * 32
NOW = 1_800_000_000.0


def tail(position: int, life: str = LIFE) -> Tail:
    return Tail(life, Place(position, position * 7 % 1000))


def make(kind: Kind = Kind.WEBHOOK, *, pattern: str | None = "events/*", links: dict[str, Link] | None = None) -> Subscription:
    url, wake_stream = ("https://example.org/", None) if kind is Kind.WEBHOOK else (None, "wakes")
    config = Config(kind, pattern, (), url, wake_stream, 10_000, None)
    return Subscription("s", "u" * 32, "2026-01-01T00:00:00+00:00", "http://localhost", config, links or {})


def offered(kind: Kind = Kind.WEBHOOK, generation: int = 1) -> Subscription:
    sub = replace(make(kind), generation=generation - 1)
    return machine.begin_wake(sub, {"events/a": tail(5)}, f"w{generation}", NOW)


def sent() -> Subscription:
    return machine.send(offered(), NOW)


def code_of(call: object, *args: object, **named: object) -> str | None:
    with pytest.raises(ConflictError) as caught:
        call(*args, **named)  # type: ignore[operator]
    return caught.value.code


def test_a_stream_made_anew_is_unread_however_short_it_is() -> None:
    link = Link(tail(100))
    assert not link.is_behind(tail(100))
    assert link.is_behind(tail(101))
    assert link.is_behind(tail(3, NEXT_LIFE))
    assert not link.is_behind(tail(0, NEXT_LIFE))
    assert not Link(None).is_behind(tail(0))


def test_a_subscription_never_hears_of_its_own_wake_stream() -> None:
    sub = replace(make(Kind.PULL_WAKE), config=replace(make(Kind.PULL_WAKE).config, pattern="**"))
    assert sub.link("other") == machine.UNLINKED
    assert sub.link("wakes") is None


@pytest.mark.parametrize(
    ("sub", "now", "pending", "expected"),
    [
        (make(), NOW, False, None),
        (make(), NOW, True, Step.BEGIN),
        (replace(make(), not_before=NOW + 3), NOW, True, NOW + 3),
        (replace(make(), not_before=NOW), NOW, True, Step.BEGIN),
        (offered(), NOW, True, Step.SEND),
        (offered(), NOW, False, Step.WITHDRAW),
        (sent(), NOW + 1000, True, None),
        (offered(Kind.PULL_WAKE), NOW, True, NOW + 10),
        (offered(Kind.PULL_WAKE), NOW + 10, True, Step.REPEAT),
        (machine.claim(offered(Kind.PULL_WAKE), "w", NOW), NOW + 9.9, False, NOW + 10),
        (machine.claim(offered(Kind.PULL_WAKE), "w", NOW), NOW + 10, False, Step.EXPIRE),
        # The clock went back by a day.
        (machine.claim(offered(Kind.PULL_WAKE), "w", NOW), NOW - 86_400, False, Step.EXPIRE),
        (offered(), NOW - 86_400, True, Step.SEND),
        (replace(make(), not_before=NOW), NOW - 86_400, True, Step.BEGIN),
    ],
)
def test_what_to_do_next(sub: Subscription, now: float, pending: bool, expected: object) -> None:
    assert machine.next_step(sub, now, pending=pending) == expected


def test_a_wake_is_about_a_thousand_streams_at_most() -> None:
    pending = {f"events/{number}": tail(1) for number in range(1500)}
    wake = machine.begin_wake(make(), pending, "w", NOW).wake
    assert wake is not None
    assert list(wake.snapshot) == list(pending)[:1000]


def test_a_claim_leases_and_the_second_is_told_who_has_it() -> None:
    sub = machine.claim(offered(Kind.PULL_WAKE, 7), "one", NOW)
    assert sub.wake is not None
    assert (sub.phase, sub.wake.holder, sub.wake.due, sub.generation) == (Phase.LEASED, "one", NOW + 10, 7)
    with pytest.raises(AlreadyClaimedError) as caught:
        machine.claim(sub, "two", NOW + 5)
    assert (caught.value.holder, caught.value.generation, caught.value.code) == ("one", 7, "ALREADY_CLAIMED")


def test_an_acknowledgement_extends_the_lease_and_done_ends_it() -> None:
    sub = machine.claim(offered(Kind.PULL_WAKE), "one", NOW)
    sub = machine.acknowledge(sub, "w1", 1, {"events/a": tail(3)}, NOW + 4, 0.0, done=False)
    assert sub.wake is not None
    assert (sub.wake.due, sub.links["events/a"]) == (NOW + 14, Link(tail(3)))
    sub = machine.acknowledge(sub, "w1", 1, {}, NOW + 5, 0.0, done=True)
    assert (sub.phase, sub.failures) == (Phase.IDLE, 0)
    assert code_of(machine.acknowledge, sub, "w1", 1, {}, NOW + 5, 0.0, done=True) == "FENCED"


def test_who_comes_late_is_fenced() -> None:
    sub = machine.claim(offered(Kind.PULL_WAKE, 2), "one", NOW)
    for wake_id, generation, now in (("w1", 2, NOW), ("w2", 1, NOW), ("w2", 2, NOW + 10)):
        assert code_of(machine.acknowledge, sub, wake_id, generation, {}, now, 0.0, done=False) == "FENCED"
        assert code_of(machine.release, sub, wake_id, generation, now, 0.0) == "FENCED"


def test_acknowledgements_go_forward_and_only_in_linked_streams() -> None:
    sub = machine.claim(replace(offered(Kind.PULL_WAKE), links={"events/a": Link(tail(4))}), "one", NOW)
    before = {"events/b": tail(1), "events/a": tail(3)}
    assert code_of(machine.acknowledge, sub, "w1", 1, before, NOW, 0.0, done=False) == "INVALID_OFFSET"
    assert code_of(machine.acknowledge, sub, "w1", 1, {"other": tail(3)}, NOW, 0.0, done=False) == "INVALID_OFFSET"
    again = machine.acknowledge(sub, "w1", 1, {"events/a": tail(3, NEXT_LIFE)}, NOW, 0.0, done=False)
    assert again.links["events/a"].acked == tail(3, NEXT_LIFE)


@pytest.mark.parametrize(
    ("outcome", "phase", "generation", "failing"),
    [
        (Event.ACCEPTED, Phase.LEASED, 1, False),
        (Event.FINISHED, Phase.IDLE, 2, False),
        (Event.REFUSED, Phase.OFFERED, 1, True),
        (Event.CUT, Phase.IDLE, 2, True),
        (Event.SILENT, Phase.LEASED, 1, True),
    ],
)
def test_a_delivery_is_repeated_under_its_generation_only_if_nobody_has_it(
    outcome: Event, phase: Phase, generation: int, failing: bool
) -> None:
    sub = machine.receive_delivery(sent(), "w1", outcome, NOW + 1, 1.0)
    assert (sub.phase, sub.failing) == (phase, failing)
    if outcome in (Event.REFUSED, Event.CUT):
        assert machine.next_step(sub, NOW + 1, pending=True) == NOW + 2
    if sub.wake is None:
        sub = machine.begin_wake(sub, {"events/a": tail(9)}, "w2", NOW + 5)
    assert sub.generation == generation


def test_a_receiver_that_is_done_acknowledges_what_it_was_told_of() -> None:
    sub = machine.receive_delivery(sent(), "w1", Event.FINISHED, NOW, 0.0)
    assert sub.links == {"events/a": Link(tail(5))}
    assert sub.links["events/a"].is_behind(tail(6))
    assert sub.links["events/a"].is_behind(tail(1, NEXT_LIFE))


def test_what_a_callback_acknowledged_is_not_taken_back_by_the_answer() -> None:
    sub = machine.acknowledge(sent(), "w1", 1, {"events/a": tail(8)}, NOW, 0.0, done=False)
    assert machine.receive_delivery(sub, "w1", Event.REFUSED, NOW, 0.0) == sub
    assert machine.receive_delivery(sub, "w1", Event.FINISHED, NOW, 0.0).links["events/a"].acked == tail(8)
    over = machine.acknowledge(sub, "w1", 1, {}, NOW, 0.0, done=True)
    assert machine.receive_delivery(over, "w1", Event.FINISHED, NOW, 0.0) == over


def test_pauses_double_up_to_a_minute_with_jitter() -> None:
    assert [machine.build_pause(failures, 1.0) for failures in (1, 2, 3, 6, 7, 1000)] == [1, 2, 4, 32, 60, 60]
    assert machine.build_pause(3, 0.0) == 2


def test_wakes_that_bring_nothing_come_ever_more_rarely() -> None:
    sub, now, pauses = make(), NOW, []
    for number in range(1, 5):
        sub = machine.send(machine.begin_wake(sub, {"events/a": tail(5)}, f"w{number}", now), now)
        sub = machine.receive_delivery(sub, f"w{number}", Event.ACCEPTED, now, 1.0)
        now += 10
        sub = machine.expire(sub, now, 1.0)
        pauses.append(sub.not_before - now)
    assert pauses == [1, 2, 4, 8]


def test_a_wake_nobody_claims_is_repeated_ever_more_rarely() -> None:
    sub, now, pauses = offered(Kind.PULL_WAKE), NOW, []
    for _ in range(8):
        assert sub.wake is not None
        pauses.append(sub.wake.due - now)
        now = sub.wake.due
        sub = machine.repeat(sub, now)
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600]
    assert sub.generation == 1


def test_naming_and_forgetting_streams() -> None:
    sub = machine.link_streams(make(), {"events/a": tail(3), "named": None}, explicit=True)
    assert sub.links == {"events/a": Link(None, explicit=True), "named": Link(None, explicit=True)}
    other = machine.link_streams(make(pattern=None), {"events/a": tail(3)}, explicit=True)
    assert machine.link_streams(other, {"events/a": tail(9)}, explicit=True) == other
    assert machine.unlink_streams(sub, {"events/a": True, "named": True, "strange": True}).links == {"events/a": Link(None)}
    assert machine.unlink_streams(sub, {"named": False}) == sub


# --- The laws, over random histories ---

Acts = st.lists(
    st.tuples(
        st.sampled_from(
            ("append", "remake", "wait", "step", "step", "step", "answer", "claim", "ack", "done", "release", "stale", "answer", "kill")
        ),
        st.integers(0, 7),
    ),
    min_size=30,
    max_size=80,
)


@dataclass
class World:
    """A shell without I/O: the state is only ever what the records say."""

    sub: Subscription
    records: list[bytes] = field(default_factory=list)
    tails: dict[str, Tail] = field(default_factory=dict)
    now: float = NOW
    delivering: str | None = None
    refused: str | None = None
    """The wake whose last delivery was refused: nobody has it."""
    leases: dict[int, str] = field(default_factory=dict)
    """By generation: the wake id under which somebody got it."""
    held: list[tuple[str, int]] = field(default_factory=list)
    """Wakes that somebody got, in order."""

    def store(self, after: Subscription) -> None:
        self.records.append(build_change(self.sub if self.records else None, after))
        self.sub = after
        folded = None
        for record in self.records:
            folded = apply_change(folded, record)
        assert folded == after, "what is stored is not what is known"

    def pending(self) -> dict[str, Tail]:
        found = {path: end for path, end in self.tails.items() if self.sub.links.get(path, machine.UNLINKED).is_behind(end)}
        for path, end in self.tails.items():
            link = self.sub.links.get(path)
            read = 0 if link is None or link.acked is None or link.acked.incarnation != end.incarnation else link.acked.place.position
            assert (path in found) == (end.place.position > read)
        return found

    def got(self, wake_id: str, *, again: bool) -> None:
        generation = self.sub.generation
        assert again or generation not in self.leases, "a generation was leased twice"
        assert self.leases.setdefault(generation, wake_id) == wake_id
        self.held.append((wake_id, generation))

    def step(self) -> bool:
        if self.sub.phase is Phase.SENT and self.delivering is None:
            self.store(machine.restart(self.sub))
        step = machine.next_step(self.sub, self.now, pending=bool(self.pending()))
        if not isinstance(step, Step):
            return False
        if step is Step.BEGIN:
            self.store(machine.begin_wake(self.sub, self.pending(), f"w{len(self.records)}", self.now))
        elif step is Step.SEND:
            self.store(machine.send(self.sub, self.now))
            assert self.sub.wake is not None
            self.got(self.sub.wake.id, again=self.sub.wake.id == self.refused)
            self.delivering = self.sub.wake.id
        elif step is Step.REPEAT:
            self.store(machine.repeat(self.sub, self.now))
        elif step is Step.WITHDRAW:
            self.store(machine.withdraw(self.sub))
        else:
            self.store(machine.expire(self.sub, self.now, 0.5))
        return True

    def act(self, what: str, number: int) -> None:
        path = f"events/{number % 2}"
        known = self.tails.get(path, tail(0))
        if what == "append":
            self.tails[path] = tail(known.place.position + 1 + number, known.incarnation)
        elif what == "remake":
            self.tails[path] = tail(number % 2, f"{len(self.records):032x}")
        elif what == "wait":
            self.now += (0.1, 1.0, 5.0, 10.0, 11.0, 60.0, 600.0, 3600.0)[number]
        elif what == "step":
            self.step()
        elif what == "claim" and not self.sub.is_webhook:
            self.claim()
        elif what in ("ack", "done", "release", "stale") and self.held:
            self.speak(what, path)
        elif what == "answer" and self.delivering is not None:
            outcome = (Event.ACCEPTED, Event.FINISHED, Event.REFUSED, Event.CUT, Event.SILENT)[number % 5]
            self.refused = self.delivering if outcome is Event.REFUSED else None
            self.store(machine.receive_delivery(self.sub, self.delivering, outcome, self.now, 0.5))
            self.delivering = None
        elif what == "kill":
            self.delivering = None

    def claim(self) -> None:
        sub = self.sub
        if sub.wake is not None and sub.phase is Phase.LEASED and self.now >= sub.wake.due:
            sub = machine.expire(sub, self.now, 0.0)
        if self.pending() and sub.wake is None:
            sub = machine.begin_wake(sub, self.pending(), f"w{len(self.records)}", self.now)
        try:
            sub = machine.claim(sub, "worker", self.now)
        except ConflictError:
            return
        self.store(sub)
        assert sub.wake is not None
        self.got(sub.wake.id, again=False)

    def speak(self, what: str, path: str) -> None:
        wake_id, generation = self.held[0 if what == "stale" else -1]
        before = self.sub
        acks = {path: self.tails[path]} if path in self.tails and what != "release" else {}
        try:
            if what == "release":
                self.store(machine.release(before, wake_id, generation, self.now, 0.5))
            else:
                self.store(machine.acknowledge(before, wake_id, generation, acks, self.now, 0.5, done=what == "done"))
        except ConflictError:
            return
        current = None if before.wake is None else (before.wake.id, before.generation)
        assert (wake_id, generation) == current, "a stale holder was heard"
        assert before.wake is not None
        assert before.phase is not Phase.LEASED or self.now < before.wake.due, "a holder was heard when its lease was over"

    def settle(self) -> None:
        """Whoever has a wake is silent for ever, and time passes: everything that is left must be offered."""
        self.delivering = None
        for _ in range(10):
            self.now += 100_000.0
            while self.step():
                if self.sub.phase is Phase.SENT:
                    return
            if self.sub.phase is Phase.OFFERED:
                return
        raise AssertionError("a wake was lost")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(Kind), Acts)
def test_no_wake_is_lost_and_no_generation_is_leased_twice(kind: Kind, acts: list[tuple[str, int]]) -> None:
    world = World(make(kind))
    world.store(world.sub)
    for what, number in acts:
        acked = world.sub.links
        generation = world.sub.generation
        world.act(what, number)
        assert world.sub.generation - generation in (0, 1)
        for path, link in world.sub.links.items():
            before = acked[path].acked if path in acked else None
            if before is not None and link.acked is not None and before.incarnation == link.acked.incarnation:
                assert link.acked.place.position >= before.place.position
    if world.pending():
        world.settle()
