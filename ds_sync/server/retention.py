"""Keeps streams within a number of bytes."""

from __future__ import annotations

import logging
from typing import Final

from ds_sync.environment import Environment
from ds_sync.exceptions import GoneError, StoreError
from ds_sync.protocol.history import START, Place
from ds_sync.protocol.retention import count_excess, decide_trim
from ds_sync.protocol.state import StreamState
from ds_sync.server.engines.base import StorageEngine

STEPS: Final = 8
"""How often one append goes on dropping: a stream that is far above its bound gets there little by little."""

log = logging.getLogger(__name__)


class Retention:
    """Drops the oldest records of streams that hold more than `keep` bytes."""

    def __init__(self, engine: StorageEngine, environment: Environment, keep: int, page_bytes: int) -> None:
        self._engine = engine
        self._environment = environment
        self._keep = keep
        self._page_bytes = page_bytes

    async def tend(self, path: str, state: StreamState) -> None:
        """Look after a stream that was just appended to. What can't be done now is logged, and done after a later append."""
        try:
            for _ in range(STEPS):
                excess = count_excess(path, state, self._keep)
                if not excess:
                    return
                # Whole records only: the page is read to find where one ends.
                run = await self._engine.read(path, state.earliest or START, min(excess, self._page_bytes))
                if run.state is None or run.end.position > state.position - self._keep:
                    return
                if not await self._trim(path, state.incarnation, run.end):
                    return
                after = (await self._engine.read(path, None, 0)).state
                if after is None:
                    return
                state = after
        except (StoreError, GoneError) as error:
            log.warning("%s keeps more than it should: %s", path, error)

    async def _trim(self, path: str, incarnation: str, place: Place) -> bool:
        now = self._environment.now()
        return await self._engine.transact((path,), lambda views: decide_trim(views[0], incarnation, place, now))
