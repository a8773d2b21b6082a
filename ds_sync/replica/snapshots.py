"""Where a replica that has nothing of a document yet begins: at the server's newest snapshot, if the server has such a thing."""

from __future__ import annotations

from typing import Final

from ds_sync.client.stream import StreamClient
from ds_sync.exceptions import DsSyncError, ForbiddenError, NotFoundError, RateLimitedError, ServerError, TransportError, UnauthorizedError
from ds_sync.protocol.messages import Page

PATIENCE: Final = 3
"""Attempts in a row that may fail before the stream is read without a snapshot; after one that was of no use, how often it is; and how
often the stream's beginning may be gone, and no snapshot there, before that is not taken for a change under our eyes."""

PlainServers = set[tuple[str, str]]
"""By base URL and CRDT adapter: servers that were found to know no such documents."""


class SnapshotSource:
    """One document's snapshots, on one server."""

    def __init__(self, document: StreamClient, server: str, crdt: str, plain: PlainServers) -> None:
        """`document`: at the document's own URL. `plain` is shared by all documents, so that a server is asked once."""
        self._document = document
        self._server = (server, crdt)
        self._plain = plain
        self._failures = self._skipped = self._reconsidered = 0

    async def find(self) -> Page | None:
        """Return a page of one update, the newest snapshot, and where to read on; None: read the stream from its beginning.

        Raises TransportError, ServerError, RateLimitedError or UnauthorizedError if it should be asked again.
        """
        if self._server in self._plain:
            return None
        if self._skipped:
            self._skipped -= 1
            return None
        try:
            page = await self._document.read_snapshot()
        except (TransportError, ServerError, RateLimitedError, UnauthorizedError):
            self._failures += 1
            if self._failures % PATIENCE:
                raise
            return None
        except NotFoundError as error:
            if error.code not in ("DOCUMENT_NOT_FOUND", "SNAPSHOT_NOT_FOUND"):
                self._plain.add(self._server)
            self._skipped = 1  # whoever makes the document now finds no snapshot of it
            return None
        except ForbiddenError:
            return None  # it may be this URL only; if it is not, reading the stream says so
        except DsSyncError:
            self._plain.add(self._server)
            return None
        self._failures = 0
        if page is not None:
            self._reconsidered = 0
        return page

    def refuse(self) -> None:
        """The snapshot was of no use: do without for some time."""
        self._skipped = PATIENCE

    def reconsider(self) -> bool:
        """The stream's beginning is gone, as if a snapshot stood in for it: ask again. Return whether that may still help.

        There may have been none when we asked, and one a moment later, which the server dropped the beginning for.
        """
        # One odd answer, of something on the way, may have made the server a plain one.
        self._plain.discard(self._server)
        self._skipped = 0
        self._reconsidered += 1
        return self._reconsidered <= PATIENCE
