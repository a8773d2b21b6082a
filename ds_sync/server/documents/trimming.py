"""Drops the updates of documents that a verified snapshot has, as far as `--keep-updates` and their readers allow."""

from __future__ import annotations

import logging
from typing import Final

from ds_sync.environment import Environment
from ds_sync.exceptions import GoneError, StoreError
from ds_sync.protocol.retention import KeepUpdates, choose_trim, decide_trim
from ds_sync.protocol.state import FRAMED_SUFFIX
from ds_sync.server.documents.read_positions import ReadPositions
from ds_sync.server.documents.snapshots import Snapshots
from ds_sync.server.engines.base import StorageEngine

PAUSE: Final = 60.0
"""Seconds after which it is looked again whether more of a document may go."""

log = logging.getLogger(__name__)


class Trimmer:
    """Trims one engine's documents. Who asks for what is gone is answered 410, and begins again at the snapshot."""

    def __init__(
        self, engine: StorageEngine, snapshots: Snapshots, environment: Environment, reads: ReadPositions, keep: KeepUpdates
    ) -> None:
        self._engine = engine
        self._snapshots = snapshots
        self._environment = environment
        self._reads = reads
        self._keep = keep
        self._looked: dict[str, float] = {}

    async def tend(self, root: str, incarnation: str) -> None:
        """Trim a document that was written to, unless that was tried a moment ago: what was too young, or read, may be so no more."""
        if self._environment.monotonic() - self._looked.get(root, -PAUSE) >= PAUSE:
            await self.trim(root, incarnation)

    async def trim(self, root: str, incarnation: str) -> bool:
        """Drop what may go of this life of the document; return whether anything did. What can't be done now is logged."""
        self._looked[root] = self._environment.monotonic()
        path, now = root + FRAMED_SUFFIX, self._environment.now()
        try:
            state = (await self._engine.read(path, None, 0)).state
            if state is None or not state.listed or state.incarnation != incarnation:
                return False
            milestones = await self._snapshots.milestones(root, incarnation)
            place = choose_trim(milestones, state, self._keep, self._reads.oldest(path), now)
            if place is None:
                return False
            return await self._engine.transact((path,), lambda views: decide_trim(views[0], incarnation, place, now))
        except (StoreError, GoneError) as error:
            log.warning("%s keeps more than it should: %s", path, error)
            return False
