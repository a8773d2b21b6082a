"""What the server counts, and `/metrics`, where Prometheus reads it.

In the hot path there are plain numbers, added to on the event loop; everything else is done when somebody asks.
"""

from __future__ import annotations

import os
import shutil
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from ds_sync import __version__
from ds_sync.protocol.subscription import Event, Phase
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.live import Waiters
from ds_sync.server.operation.under_way import UnderWay

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import CollectorRegistry

    from ds_sync.server.gateways import Gateways
    from ds_sync.server.subscriptions.wakes import Wakes

METRICS_PATH: Final = b"/metrics"

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: the upper bounds of the histogram of times."""

METHODS: Final = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"))
"""What is told apart; anybody can make up more."""


OUTCOMES: Final = (Event.FINISHED, Event.ACCEPTED, Event.REFUSED, Event.CUT, Event.SILENT)
"""Of the delivery of a webhook."""


class Front(Protocol):
    """The HTTP server in front, where it can tell."""

    @property
    def connections(self) -> Collection[object]:
        """Those that are open."""
        ...

    @property
    def refused(self) -> Mapping[int, int]:
        """How many were ended for what came or did not, by status."""
        ...


class Times:
    """How long something took, as a histogram."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def note(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds


class Metrics:
    """The numbers of one application. `front` and `file` are told by whoever starts the server, if there are such.

    `gateways` and `wakes` are the application's.
    """

    def __init__(self, engine: StorageEngine, waiters: Waiters, under_way: UnderWay) -> None:
        self.front: Front | None = None
        self.gateways: Gateways | None = None
        self.wakes: Wakes | None = None
        self.file: Path | None = None
        """The engine's, for its size and the space beside it."""
        self.sent = 0
        """Bytes of bodies."""
        self.answers: dict[tuple[str, int], int] = {}
        """By method and status."""
        self.times: dict[str, Times] = {}
        """By method: of requests that wait for nothing."""
        self._engine = engine
        self._waiters = waiters
        self._under_way = under_way
        self._registry: CollectorRegistry | None = None

    def note(self, method: str, status: int, sent: int, seconds: float, *, live: bool) -> None:
        """Count a request that is done: `status` 0 if nothing was answered; `sent` bytes; `live` if it waited for news."""
        if method not in METHODS:
            method = "other"
        key = method, status
        self.answers[key] = self.answers.get(key, 0) + 1
        self.sent += sent
        if not live:
            times = self.times.get(method)
            if times is None:
                times = self.times[method] = Times()
            times.note(seconds)

    def render(self) -> bytes:
        """Return all of them in the text format of Prometheus."""
        from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
        from prometheus_client.exposition import generate_latest

        if self._registry is None:
            self._registry = CollectorRegistry()
            self._registry.register(self)
            ProcessCollector(registry=self._registry)
            PlatformCollector(registry=self._registry)
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics: what prometheus_client asks of a collector."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily

        yield InfoMetricFamily("ds_sync", "The server.", {"version": __version__, "durable": str(self._engine.durable).lower()})
        answers = CounterMetricFamily("ds_sync_requests", "Requests, by method and status; 0: no answer.", labels=("method", "status"))
        for (method, status), count in self.answers.items():
            answers.add_metric((method, str(status)), count)
        yield answers
        times = HistogramMetricFamily("ds_sync_request_seconds", "Times to answer requests that wait for nothing.", labels=("method",))
        for method, noted in self.times.items():
            total, buckets = 0, []
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), noted.counts, strict=True):
                total += count
                buckets.append((bound, total))
            times.add_metric((method,), buckets, noted.seconds)
        yield times
        yield CounterMetricFamily("ds_sync_sent_bytes", "Bytes of answers' bodies.", self.sent)
        yield GaugeMetricFamily("ds_sync_requests_under_way", "Requests that are not answered to their end.", self._under_way.count)
        yield GaugeMetricFamily("ds_sync_live_readers", "Long-polls and SSE answers that wait for news of streams.", len(self._waiters))
        yield GaugeMetricFamily("ds_sync_streams", "Living streams.", self._engine.count())
        yield from self._collect_sockets()
        yield from self._collect_subscriptions()
        yield from self._collect_front()
        yield from self._collect_file()

    def _collect_sockets(self) -> Iterable[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        if self.gateways is not None:
            traffic = self.gateways.traffic
            yield GaugeMetricFamily("ds_sync_websockets", "Open WebSocket connections.", self.gateways.conversations)
            yield GaugeMetricFamily("ds_sync_websocket_rooms", "Documents that somebody has open by WebSocket.", self.gateways.topics)
            messages = CounterMetricFamily("ds_sync_websocket_messages", "Messages on WebSockets.", labels=("direction",))
            size = CounterMetricFamily("ds_sync_websocket_bytes", "Bytes of messages on WebSockets.", labels=("direction",))
            for direction, count, length in (
                ("in", traffic.received, traffic.received_bytes),
                ("out", traffic.sent, traffic.sent_bytes),
            ):
                messages.add_metric((direction,), count)
                size.add_metric((direction,), length)
            yield messages
            yield size

    def _collect_subscriptions(self) -> Iterable[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        if self.wakes is not None:
            subs = [entry.sub for entry in self.wakes.entries.values()]
            failing = sum(sub.failing for sub in subs)
            numbers = {"active": len(subs) - failing, "failed": failing, "damaged": len(self.wakes.damaged)}
            subscriptions = GaugeMetricFamily("ds_sync_subscriptions", "Subscriptions.", labels=("status",))
            for status, count in numbers.items():
                subscriptions.add_metric((status,), count)
            yield subscriptions
            phases = Counter(sub.phase for sub in subs)
            wakes = GaugeMetricFamily("ds_sync_wakes", "Wakes that are not done.", labels=("phase",))
            for phase in (Phase.OFFERED, Phase.SENT, Phase.LEASED):
                wakes.add_metric((phase.value,), phases[phase])
            yield wakes
            deliveries = CounterMetricFamily("ds_sync_webhook_deliveries", "Webhooks, by what came of them.", labels=("outcome",))
            for outcome in OUTCOMES:
                deliveries.add_metric((outcome.value,), self.wakes.deliveries[outcome])
            yield deliveries

    def _collect_front(self) -> Iterable[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        if self.front is not None:
            yield GaugeMetricFamily("ds_sync_connections", "Open connections.", len(self.front.connections))
            refused = CounterMetricFamily(
                "ds_sync_refused_connections", "Connections ended for what came or did not; 0: cut off, unread.", labels=("status",)
            )
            for status, count in self.front.refused.items():
                refused.add_metric((str(status),), count)
            yield refused

    def _collect_file(self) -> Iterable[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        if self.file is not None:
            sizes = GaugeMetricFamily("ds_sync_file_bytes", "Bytes of the server's files.", labels=("file",))
            for name, path in (("data", self.file), ("wal", Path(f"{self.file}-wal"))):
                # SQLite makes and removes its log when it likes.
                sizes.add_metric((name,), os.stat(path).st_size if path.exists() else 0)
            yield sizes
            yield GaugeMetricFamily("ds_sync_disk_free_bytes", "Bytes free beside the file.", shutil.disk_usage(self.file.parent).free)
