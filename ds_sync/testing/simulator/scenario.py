"""What a seed draws before anything happens. Kept as a file, a scenario replays when the drawing has long changed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any, Final, get_args, get_type_hints

from ds_sync.replica.local import Tuning
from ds_sync.testing.simulator.foreign import draw_habits
from ds_sync.testing.simulator.network import Weather, draw_weather
from ds_sync.testing.simulator.server import ServerOptions

EVENTS = {
    "edit": 40,
    "burst": 8,
    "rest": 8,
    "network": 8,
    "transact": 6,
    "reopen": 2,
    "close": 2,
    "kill": 8,
    "kill server": 5,
    "power cut": 6,
    "power cut of the server": 4,
    "set back": 8,
    "copy": 2,
    "delete": 1,
    "full": 4,
    "partition": 4,
    "stray": 4,
    "garbage": 2,
    "bar": 2,
    "newcomer": 1,
    "trim": 1,
    "spell": 3,
    "token": 3,
}
"""What may happen, and how often. Each run has only some of it, so that rare things meet (swarm testing, Groce et al. 2012)."""

SPECIAL = {"resolve": 8}
"""What happens only in runs that are drawn for it: elsewhere there is hardly ever something to resolve."""

ALWAYS = ("edit", "burst", "rest", "network")


@dataclass(frozen=True, slots=True)
class Step:
    """One event."""

    pause: float
    """Seconds before it."""
    event: str
    key: int
    """Where its own choices come from: taking another step out of the scenario changes nothing about this one."""

    def __str__(self) -> str:
        return f"{self.pause} {self.event} {self.key}"

    @classmethod
    def parse(cls, text: str) -> Step:
        """Read what `str` wrote."""
        pause, _, rest = text.partition(" ")
        event, _, key = rest.rpartition(" ")
        return cls(float(pause), event, int(key))


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a seed draws before anything happens."""

    devices: int
    documents: int
    steps: tuple[Step, ...]
    weather: Weather
    options: ServerOptions
    tuning: Tuning
    power_safe: bool
    """Replicas fsync every commit."""
    checkpoint_pages: int
    """Pages of a replica's write-ahead log after which SQLite writes them into the database."""

    def dump(self) -> dict[str, Any]:
        """Return what `load` reads: dicts, lists, numbers and strings."""
        return asdict(self) | {"steps": [str(step) for step in self.steps]}

    @classmethod
    def load(cls, fields: dict[str, Any]) -> Scenario:
        """Read what `dump` returned. What was not known then is at its default."""
        scenario: Scenario = _build(cls, fields | {"steps": tuple(map(Step.parse, fields["steps"]))})
        return scenario


def _build(kind: Any, fields: dict[str, Any]) -> Any:
    """Return the dataclass `kind` from what `asdict` made of it."""
    hints = get_type_hints(kind)
    return kind(**{name: _build_value(hints[name], value) for name, value in fields.items()})


def _build_value(hint: Any, value: Any) -> Any:
    inner = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
    return _build(inner, value) if inner is not None and isinstance(value, dict) else value


def draw_scenario(random: random.Random) -> Scenario:
    """Return the scenario of a run."""
    events = (*ALWAYS, *(event for event in EVENTS if event not in ALWAYS and random.random() < 0.4))
    max_body = random.choice((64 * 1024 * 1024, 64 * 1024 * 1024, 300))
    return Scenario(
        devices=random.choice((1, 2, 2, 3)),
        documents=random.choice((1, 1, 1, 2, 3)),
        steps=draw_steps(random, random.randint(8, 45), events),
        weather=draw_weather(random),
        options=ServerOptions(
            page_bytes=random.choice((64, 1024 * 1024)),
            max_body=max_body,
            settle_rows=random.choice((3, 10_000)),
            ttl=random.choice((40, 400)) if random.random() < 0.05 else None,
            foreign=draw_habits(random, max_body) if random.random() < 0.2 else None,
        ),
        tuning=Tuning(
            max_batch=random.choice((100, 4 * 1024 * 1024)),
            compact_after=random.choice((150, 600, 1024 * 1024)),
            merge_rows=random.choice((256, 256, 2)),
            heal_jitter=1.0,
        ),
        power_safe=random.random() < 0.3,
        checkpoint_pages=random.choice((8, 1000)),
    )


def draw_steps(random: random.Random, count: int, events: tuple[str, ...]) -> tuple[Step, ...]:
    """Return `count` steps, of `events` as often as EVENTS and SPECIAL say."""
    weights = EVENTS | SPECIAL
    drawn = random.choices(events, [weights[event] for event in events], k=count)
    pauses = (random.choice((0.0, random.expovariate(10.0), random.expovariate(1.0))) for _ in drawn)
    return tuple(Step(round(pause, 3), event, random.getrandbits(32)) for pause, event in zip(pauses, drawn, strict=True))


def draw_backups(random: random.Random) -> Scenario:
    """Return a scenario in which little happens but that the server is set back, again and again."""
    events = ("edit", "burst", "rest", "network", "network", *["set back"] * 8)
    return replace(
        draw_scenario(random),
        devices=3,
        documents=1,
        steps=draw_steps(random, 40, events),
        weather=Weather(latency=random.choice((0.02, 0.5))),
    )


def draw_snapshots(random: random.Random) -> Scenario:
    """Return a scenario in which the server makes snapshots of almost everything, and drops what stands before them."""
    drawn = draw_scenario(random)
    options = replace(
        drawn.options,
        foreign=None,
        ttl=None,
        compact_after=random.choice((1, 60, 300)),
        keep_updates=random.choice((0, 0, 200)),
        read_span=random.choice((1.0, 20.0)),
    )
    others = [event for event in EVENTS if event not in ("trim", *ALWAYS) and random.random() < 0.3]
    events = (*ALWAYS, "rest", "kill server", "newcomer", *others)
    return replace(drawn, options=options, steps=draw_steps(random, 40, events))


def draw_foreign(random: random.Random) -> Scenario:
    """Return a scenario with a server that is not ours; a third of them are about setting it back."""
    drawn = draw_backups(random) if random.random() < 0.3 else draw_scenario(random)
    options = replace(drawn.options, ttl=None, foreign=draw_habits(random, drawn.options.max_body))
    return replace(drawn, documents=1, options=options)


def draw_endings(random: random.Random) -> Scenario:
    """Return a scenario in which little happens but that the stream is deleted, and that newcomers make it anew."""
    events = ("edit", "rest", "network", *["delete"] * 30, *["newcomer"] * 30)
    weather = Weather(latency=random.choice((0.02, 0.3)), late=0.4)
    return replace(draw_scenario(random), devices=2, documents=1, steps=draw_steps(random, 40, events), weather=weather)


def draw_divergences(random: random.Random) -> Scenario:
    """Return a scenario in which documents are deleted, made anew and set back, and somebody decides what becomes of the others'."""
    drawn = draw_scenario(random)
    others = [event for event in ("kill", "kill server", "copy", "set back", "transact", "full") if random.random() < 0.4]
    events = ("edit", "burst", "rest", "network", *["delete"] * 8, *["newcomer"] * 4, *["resolve"] * 3, *others)
    options = replace(drawn.options, ttl=None, foreign=None)
    weather = random.choice((Weather(latency=0.02), drawn.weather))
    return replace(drawn, devices=3, documents=1, options=options, steps=draw_steps(random, 45, events), weather=weather)


def draw_interruptions(random: random.Random) -> Scenario:
    """Return a scenario in which transactions are open, disks full and updates unreadable while processes die."""
    events = ("edit", "burst", "rest", "network", *["transact"] * 6, *["kill"] * 2, *["full"] * 4, *["garbage"] * 6)
    drawn = draw_scenario(random)
    tuning = replace(drawn.tuning, compact_after=150, merge_rows=2)
    return replace(drawn, devices=2, documents=1, steps=draw_steps(random, 40, events), weather=Weather(latency=0.3), tuning=tuning)


def draw_power_cuts(random: random.Random) -> Scenario:
    """Return a scenario in which little happens but that somebody's power is cut, again and again."""
    events = ("edit", "burst", "rest", "network", *["power cut"] * 4, *["power cut of the server"] * 3)
    return replace(draw_scenario(random), devices=2, documents=1, steps=draw_steps(random, 40, events), weather=Weather())


KINDS: Final[dict[str, Callable[[random.Random], Scenario]]] = {
    "any": draw_scenario,
    "backups": draw_backups,
    "divergences": draw_divergences,
    "endings": draw_endings,
    "foreign": draw_foreign,
    "interruptions": draw_interruptions,
    "power-cuts": draw_power_cuts,
    "snapshots": draw_snapshots,
}
"""What a seed can be asked to draw, by name."""
