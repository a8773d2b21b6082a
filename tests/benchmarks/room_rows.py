"""What is measured of rooms, beside whom, and the bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from room_servers import ALL, HOCUSPOCUS, Y_LEVELDB, Y_MEMORY
from rows import Bar, Line
from servers import OURS


@dataclass(frozen=True, slots=True)
class RoomMeasurement:
    """A job for the load generator, or one of `rooms.SEQUENCES`, and what of its result is told."""

    key: str
    group: str
    job: Mapping[str, Any]
    lines: tuple[Line, ...]
    servers: tuple[str, ...] = ALL
    rounds: int = 5
    """At most so many: what takes long is done less often."""
    alone: bool = False
    """No other server runs meanwhile, and each round has a new one: it goes on working when it has answered."""
    kept: bool = False
    """All rounds are with the same files."""
    session: bool = False
    """It needs the recorded session."""
    quick: Mapping[str, Any] = field(default_factory=dict)
    """What --quick makes of the job."""


def _fan_out(key: str, readers: int, per_second: int, seconds: float, rounds: int, bars: Mapping[str, Bar]) -> RoomMeasurement:
    what = f"1 writer ({per_second}/s), {readers:,} readers"
    lines = tuple(
        Line(f"{what}: latency {figure}", figure, "ms", 1000, higher=False, bars=(bars[figure],) if figure in bars else ())
        for figure in ("p50", "p99")
    )
    job = {"kind": "fan_out", "readers": readers, "per_second": per_second, "seconds": seconds}
    return RoomMeasurement(key, "latency", job, lines, rounds=rounds, quick={"readers": 10, "seconds": 0.3})


def _hold(key: str, what: str, connections: int, per_room: int, words: int, *bars: Bar) -> RoomMeasurement:
    line = Line(what, "memory_each", "kB", 0.001, higher=False, bars=bars)
    job = {"kind": "hold", "connections": connections, "per_room": per_room, "words": words}
    return RoomMeasurement(key, "memory", job, (line,), rounds=1, alone=True, quick={"connections": 100})


PAPER = "automerge-paper (259,778 edits)"

MEASUREMENTS = (
    _fan_out("room-100", 100, 20, 2.0, 5, {"p50": Bar(1.5, Y_MEMORY)}),
    _fan_out("room-1000", 1000, 5, 3.0, 3, {"p99": Bar(2, Y_MEMORY)}),
    RoomMeasurement(
        "room-flood",
        "flood",
        {"kind": "flood", "readers": 20, "updates": 10_000},
        (Line("1 writer (unpaced, 10,000 updates), 20 readers: delivered", "rate", "updates/s", bars=(Bar(200_000),)),),
        rounds=3,
        quick={"updates": 200},
    ),
    RoomMeasurement(
        "room-push",
        "push",
        {"kind": "push", "file": "edits"},
        (Line(f"{PAPER} pushed one by one, until the last has come back", "seconds", "s", higher=False, bars=(Bar(1, Y_LEVELDB),)),),
        (OURS, Y_MEMORY, Y_LEVELDB, HOCUSPOCUS),
        rounds=2,
        alone=True,
        session=True,
    ),
    RoomMeasurement(
        "room-backlog",
        "push",
        {"kind": "push", "file": "state"},
        (Line(f"{PAPER} pushed as one update, until it has come back", "seconds", "s", higher=False),),
        rounds=3,
        session=True,
    ),
    RoomMeasurement(
        "room-join",
        "join",
        {"kind": "cold_join", "settle": 12.0},
        (
            Line(
                f"cold join of {PAPER} (in ours from single updates, in the others from one) by a browser's provider",
                "seconds",
                "s",
                higher=False,
            ),
            Line(
                "the same, ours by its document URL and the official provider",
                "url_seconds",
                "s",
                higher=False,
                bars=(Bar(1.2, HOCUSPOCUS),),
            ),
        ),
        (OURS, Y_LEVELDB, HOCUSPOCUS),
        alone=True,
        kept=True,
        session=True,
        quick={"settle": 2.5},
    ),
    _hold("room-idle", "5,000 idle connections in 50 rooms: memory of one", 5_000, 100, 0, Bar(24)),
    _hold("room-documents", "1,000 documents of 1 kB, each open in one connection: memory of one with its connection", 1_000, 1, 1_000),
    RoomMeasurement(
        "room-kill",
        "kill",
        {"kind": "kill", "per_second": 500, "seconds": 2.5},
        (Line("relayed in the 3 s before SIGKILL, and still there after a restart", "kept", "%", 100, bars=(Bar(100),)),),
        rounds=3,
        alone=True,
        quick={"seconds": 0.1},
    ),
)
