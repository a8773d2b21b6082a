"""What the requests in the express lane share: the engine, answers that are kept, and who waits."""

from __future__ import annotations

import logging
from typing import Final, Protocol

from ds_sync.environment import Environment
from ds_sync.protocol.state import StreamState
from ds_sync.server.engines.base import PromptEngine
from ds_sync.server.front.exchange import PromptExchange
from ds_sync.server.front.head import Head
from ds_sync.server.live import SharedPages, Waiters
from ds_sync.server.operation.logs import access, log_request
from ds_sync.server.operation.metrics import Metrics
from ds_sync.server.operation.under_way import UnderWay
from ds_sync.server.settled import SettledPages
from ds_sync.server.streams import Limits

HELD_BYTES: Final = 8 * 1024 * 1024
"""Of answers to reads that are kept."""

LARGEST_HELD: Final = 64 * 1024
"""Bytes of the largest answer that is kept; larger pages are shared anyway."""


class Woken(Protocol):
    """A request that has heard of a commit."""

    def answer(self) -> None:
        """Answer, if there is something to say."""
        ...


class Lane:
    """One application's, over its engine."""

    def __init__(
        self,
        engine: PromptEngine,
        environment: Environment,
        limits: Limits,
        pages: SharedPages,
        waiters: Waiters,
        under_way: UnderWay,
        metrics: Metrics,
    ) -> None:
        self.engine = engine
        self.environment = environment
        self.settled = SettledPages(limits.cache_bytes)
        self.limits = limits
        self.pages = pages
        self.waiters = waiters
        self.under_way = under_way
        self.woken: dict[Woken, None] = {}
        """They have heard of a commit, and are answered in the next turn of the event loop."""
        self.held: dict[tuple[str, bytes, str | None], tuple[StreamState, int, bytes, bytes]] = {}
        """By path, query and If-None-Match: the answer to a read (status, head, body), good as long as the state is the very same."""
        self._held_bytes = 0
        self._metrics = metrics

    def hold(self, key: tuple[str, bytes, str | None], state: StreamState, status: int, head: bytes, body: bytes) -> None:
        """Keep an answer."""
        old = self.held.pop(key, None)
        if old is not None:
            self._held_bytes -= len(old[2]) + len(old[3])
        if len(body) > LARGEST_HELD:
            return
        self.held[key] = state, status, head, body
        self._held_bytes += len(head) + len(body)
        while self._held_bytes > HELD_BYTES:
            _, _, head, body = self.held.pop(next(iter(self.held)))
            self._held_bytes -= len(head) + len(body)

    def answer_woken(self) -> None:
        """Answer the long-polls that have heard of a commit."""
        woken, self.woken = self.woken, {}
        for poll in woken:
            poll.answer()

    def note(self, head: Head, exchange: PromptExchange, status: int, sent: int, began: float, *, live: bool = False) -> None:
        """Count and log a request that is done."""
        took = self.environment.monotonic() - began
        self._metrics.note(head.method, status, sent, took, live=live)
        if access.isEnabledFor(logging.INFO):
            log_request(exchange.build_scope(head), status, sent, took)
