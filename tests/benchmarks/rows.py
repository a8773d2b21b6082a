"""What is measured, beside whom, and the bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from servers import FILES, MEMORY, OURS

ALL = (OURS, FILES, MEMORY)


@dataclass(frozen=True, slots=True)
class Bar:
    """Ours against a number, or against `factor` times what another server does in the same round."""

    factor: float
    against: str | None = None
    """None: `factor` is the bar itself, in the line's unit."""

    def spell(self, *, higher: bool) -> str:
        """Say it."""
        word = "at least" if higher else "at most"
        return f"{word} {self.factor:g}" + (f" × {self.against}" if self.against else "")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: a figure of a measurement."""

    what: str
    figure: str
    """Its name in the result of the load generator."""
    unit: str
    scale: float = 1.0
    higher: bool = True
    """Whether more is better."""
    bars: tuple[Bar, ...] = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """A job for the load generator, and what of its result is told."""

    key: str
    group: str
    job: Mapping[str, Any]
    lines: tuple[Line, ...]
    servers: tuple[str, ...] = ALL
    once: bool = False
    """One round is enough: it counts memory, which hardly varies, and takes long."""
    prepare: Mapping[str, Any] = field(default_factory=dict)
    """A job that is done once for each server, on the path that is then measured."""


def _appends(key: str, what: str, connections: int, streams: int, *bars: Bar, **more: Any) -> Measurement:
    where = "one stream" if streams == 1 else f"{streams} streams"
    title = f"{what}, {connections} connection{'s' if connections > 1 else ''}, {where}"
    job = {"kind": "append", "connections": connections, "streams": streams, "seconds": 1.2, **more}
    return Measurement(key, "appends", job, (Line(title, "rate", "appends/s", bars=bars),))


def _reads(key: str, size: int, record: int, readers: int, *bars: Bar) -> Measurement:
    spelled = f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size} B"
    line = Line(f"catch-up of {spelled}, {readers} reader{'s' if readers > 1 else ''}", "rate", "reads/s", bars=bars)
    prepare = {"kind": "fill", "size": size, "record": record}
    return Measurement(key, "reads", {"kind": "catch_up", "size": size, "readers": readers, "seconds": 1.2}, (line,), prepare=prepare)


def _fan_out(
    key: str, live: str, readers: int, per_second: int, seconds: float, *bars: tuple[str, Bar], servers: tuple[str, ...]
) -> Measurement:
    what = f"1 writer ({per_second}/s), {readers} readers by {live}"
    figures = (("p50", "latency p50"), ("p99", "latency p99"), ("max", "latency of the slowest"))
    lines = tuple(
        Line(f"{what}: {title}", figure, "ms", 1000, higher=False, bars=tuple(bar for name, bar in bars if name == figure))
        for figure, title in figures
    )
    job = {"kind": "fan_out", "live": live, "readers": readers, "per_second": per_second, "seconds": seconds}
    return Measurement(key, "fan-out", job, lines, servers)


def _flood(key: str, live: str) -> Measurement:
    line = Line(f"1 writer (unpaced), 100 readers by {live}: delivered", "rate", "messages/s")
    return Measurement(key, "fan-out", {"kind": "fan_out", "live": live, "readers": 100, "seconds": 1.5}, (line,))


def _idle(key: str, live: str, connections: int) -> Measurement:
    what = f"{connections:,} idle connections by {live}"
    lines = (
        Line(f"{what}: memory of one", "memory_each", "kB", 0.001, higher=False, bars=(Bar(24),)),
        Line(f"{what}: all woken by one append", "woken", "s", higher=False),
    )
    return Measurement(key, "memory", {"kind": "idle", "live": live, "connections": connections}, lines, (OURS, MEMORY), once=True)


HUNDRED = ("p50", Bar(1, MEMORY))
THOUSAND = ("max", Bar(1000))

MEASUREMENTS = (
    _appends("append-1", "appends", 1, 1),
    _appends("append-64", "appends", 64, 64, Bar(6, FILES), Bar(0.8, MEMORY)),
    _appends("append-64-hot", "appends", 64, 1, Bar(10, FILES), Bar(0.8, MEMORY)),
    _appends("append-256", "appends", 256, 64),
    _appends("append-256-hot", "appends", 256, 1),
    _appends("producer-64", "producer appends", 64, 64, producers=True),
    _appends("producer-64-hot", "producer appends", 64, 1, producers=True),
    _appends("json-64", "JSON appends", 64, 64, json=True),
    _appends("json-64-hot", "JSON appends", 64, 1, json=True),
    _reads("read-100", 100, 100, 1, Bar(1.5, MEMORY)),
    _reads("read-100-8", 100, 100, 8, Bar(1.5, MEMORY)),
    _reads("read-1M", 1_000_000, 10_000, 1),
    _reads("read-1M-8", 1_000_000, 10_000, 8),
    _reads("read-50M", 50_000_000, 500_000, 1, Bar(2, MEMORY)),
    _reads("read-50M-8", 50_000_000, 500_000, 8, Bar(4, MEMORY)),
    _fan_out("sse-100", "sse", 100, 20, 1.5, HUNDRED, servers=ALL),
    _fan_out("poll-100", "long-poll", 100, 20, 1.5, HUNDRED, servers=ALL),
    _flood("sse-100-flood", "sse"),
    _flood("poll-100-flood", "long-poll"),
    _fan_out("sse-1000", "sse", 1000, 2, 3.0, THOUSAND, servers=(OURS, MEMORY)),
    _fan_out("poll-1000", "long-poll", 1000, 2, 3.0, THOUSAND, servers=(OURS, MEMORY)),
    _idle("idle-sse", "sse", 10_000),
    _idle("idle-poll", "long-poll", 10_000),
    Measurement(
        "streams",
        "memory",
        {"kind": "streams", "streams": 5_000},
        (Line("5,000 streams of 100 bytes: memory of one", "memory_each", "kB", 0.001, higher=False),),
        (OURS, MEMORY),
        once=True,
    ),
)


REPLICA_LINES = {
    "typing": Line(
        "typing automerge-paper (259,778 edits) into an offline replica, beside bare pycrdt",
        "typing",
        "times",
        higher=False,
        bars=(Bar(2.5),),
    ),
    "backlog": Line("that backlog, from connecting to the last acknowledgement", "backlog", "s", higher=False, bars=(Bar(1),)),
    "requests": Line("requests it took", "requests", "requests", higher=False, bars=(Bar(5),)),
    "join": Line("cold join: a new replica, until it has that document", "join", "s", higher=False),
    "opened": Line("opening a document of 10 MB (10,000 edits), offline", "opened", "s", higher=False, bars=(Bar(0.3),)),
    "opened-unsent": Line("the same, all edits still unsent", "opened-unsent", "s", higher=False, bars=(Bar(0.3),)),
    "memory": Line("memory of a process with that document open, beside bare pycrdt", "memory", "times", higher=False, bars=(Bar(3),)),
    "document": Line("500 small documents open in one replica, offline: memory of one", "document", "kB", 0.001, higher=False),
}
"""Measured by replica.py, which needs the recorded sessions."""
