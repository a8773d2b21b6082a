"""What a room knows of its document: a pycrdt copy of what is stored, to answer "what do I lack" and "is this news"."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from ds_sync_yjs import YjsAdapter
from ds_sync_yjs.updates import cut_update, join_updates, require_version
from ds_sync_yjs.wire import is_within, read_ranges

from ds_sync.exceptions import InvalidUpdateError
from ds_sync_ywebsocket.messages import NOTHING

KEPT_ANSWERS: Final = 8
"""After a restart many clients come back with one version: they get one answer, computed once."""

WAITING_BYTES: Final = 256 * 1024
WAITING_UPDATES: Final = 1000
"""Beyond either the updates that were taken are applied, so that the next newcomer has not long to wait."""

COMPARED_BYTES: Final = 64 * 1024
"""If something waits, an update with text that is larger counts as news: to compare it run by run would take longer than to store it."""

log = logging.getLogger(__name__)


class DocumentCopy:
    """A document as far as it is stored. Applied when somebody asks, in one go: an update costs nothing until then."""

    def __init__(self, adapter: YjsAdapter, path: str) -> None:
        self._adapter = adapter
        self._path = path
        self._doc: Any = adapter.new()
        self._taken: list[bytes] = []
        self._taken_bytes = 0
        self._answers: dict[bytes, bytes] = {}

    def take(self, updates: Sequence[bytes]) -> None:
        """Count these among what is stored. They have passed `require_update`."""
        self._taken += updates
        self._taken_bytes += sum(map(len, updates))
        self._answers.clear()
        if self._taken_bytes > WAITING_BYTES or len(self._taken) > WAITING_UPDATES:
            self._settle()

    def version(self) -> bytes:
        """Return the state vector."""
        self._settle()
        return self._adapter.version(self._doc)

    def missing(self, version: bytes) -> bytes:
        """Return what a client at this state vector lacks. Raises InvalidUpdateError if it is none."""
        require_version(version)
        self._settle()
        answer = self._answers.get(version)
        if answer is None:
            answer = self._adapter.missing(self._doc, version)
            if len(self._answers) == KEPT_ANSWERS:
                self._answers.clear()
            self._answers[version] = answer
        return answer

    def news(self, update: bytes) -> bytes | None:
        """Return what of `update`, which has passed `require_update`, is not stored; None if all of it is.

        Clients send all their deletions each time they connect, and y-indexeddb beside y-websocket sends the whole document each time a
        page is opened: without this, logs would grow by that. Raises InvalidUpdateError.
        """
        version = self.version()
        rest = cut_update(update, version)
        if rest == NOTHING:
            return None
        known = self.missing(version)  # all deletions, and what waits for something that has not come
        if rest[0] and (not known[0] or len(rest) > COMPARED_BYTES):
            return rest
        return None if is_within(read_ranges(rest), read_ranges(known), {}) else rest

    def _settle(self) -> None:
        if not self._taken:
            return
        taken, self._taken, self._taken_bytes = self._taken, [], 0
        try:
            self._adapter.apply(self._doc, [taken[0] if len(taken) == 1 else join_updates(taken)], checked=True)
        except InvalidUpdateError:
            for update in taken:
                self._apply_alone(update)

    def _apply_alone(self, update: bytes) -> None:
        try:
            self._adapter.apply(self._doc, [update], checked=True)
        except InvalidUpdateError as error:
            log.warning("%s: a stored update of %d bytes can't be applied: %s", self._path, len(update), error)
