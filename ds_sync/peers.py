"""The peer port: a server of another kind that a document is kept in step with, as if it were one more person who edits it.

An entry point in the group `ds_sync.peers` is called with the document, the URL and headers, and returns a `Peer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final, Protocol, TypeAlias

from ds_sync.exceptions import DsSyncError, UnknownAdapterError

GROUP: Final = "ds_sync.peers"


class PeerDocument(Protocol):
    """A document, as a peer sees it: `ds_sync.Document` is one. Used on the thread that opened it."""

    @property
    def path(self) -> str:
        """What it is called."""

    @property
    def doc(self) -> Any:
        """The CRDT document."""

    def version(self) -> bytes:
        """Return a summary of what it holds. Raises DocumentBusyError."""

    def missing(self, since: bytes | None = None) -> bytes:
        """Return one update with what a document at version `since` lacks. Raises DocumentBusyError."""

    def merge(self, update: bytes) -> bool:
        """Take an update in, stored when this returns; whether it was news. Raises InvalidUpdateError, StoreError, DocumentBusyError."""

    def newest_edit(self) -> int:
        """Return the number of the newest edit."""

    def settle(self, through: int, peer: str) -> None:
        """The peer has shown that it has the edits up to this one. Raises StoreError, DocumentBusyError."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """How a document stands with a peer."""

    state: str
    """offline, connecting, catching-up, live, retrying: it goes on by itself. forbidden, refusing: tried again slowly, but somebody should
    look."""
    confirmed: bool
    """Whether the peer has shown that it has all that the document holds."""
    last_error: DsSyncError | None
    """What is the matter now, or None."""
    connections: int = 0
    """Made so far."""
    sent: int = 0
    """Updates."""
    received: int = 0
    """Updates that were news."""
    refused: int = 0
    """Updates of the peer that could not be used."""


class Peer(AbstractAsyncContextManager["Peer"], Protocol):
    """Keeps a document in step with a server while the context is open."""

    @property
    def status(self) -> PeerStatus:
        """How it stands now."""

    async def changed(self) -> None:
        """Wait until the status may have changed."""

    async def synced(self) -> None:
        """Wait until what the document holds now was shown to be on the peer, and what the peer had is here."""


OpenPeer: TypeAlias = Callable[[PeerDocument, str, Mapping[str, str]], Peer]


def load_peer(name: str) -> OpenPeer:
    """Return what makes peers of the installed kind `name`. Raises UnknownAdapterError."""
    for point in entry_points(group=GROUP, name=name):
        opening: OpenPeer = point.load()
        return opening
    raise UnknownAdapterError(f"no kind of peer called {name!r} is installed", name=name)
