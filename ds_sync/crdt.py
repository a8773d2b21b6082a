"""The CRDT port: what binds a CRDT library to a replica. Bytes only; knows no network.

Third parties publish an adapter as an entry point in the group `ds_sync.adapters` (name -> a callable without arguments
that returns the adapter) and prove it with `ds_sync.testing.crdt_contract.CrdtAdapterContract`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol

from ds_sync.exceptions import UnknownAdapterError

Unobserve = Callable[[], None]


class CrdtAdapter(Protocol):
    """A CRDT library, as a replica sees it.

    Order: updates may come in any order, any number of times. Threads: a document is used only on the thread that made it; everything
    that crosses threads is bytes. Re-entrancy: no method is called from inside an `observe` callback. Durability: none here.

    *Waiting updates*: an update may depend on one that has not arrived. The adapter keeps such an update with the document, integrates
    it when its dependencies arrive, and includes it in `snapshot`, `missing` and `merge`: **a snapshot of any subset of the updates,
    plus the rest, gives the document of all updates**.
    """

    name: str
    """The document URL's first segment and the entry point's name: "yjs"."""
    format: str
    """Recorded with each document: "yjs-v1". A file whose documents have another format is refused."""
    content_type: str
    """Of the stream that holds the updates: "application/octet-stream"."""

    def new(self) -> Any:
        """Return an empty document, with a fresh identity: no two calls give one (a copied file must not write as its original)."""

    def apply(self, doc: Any, updates: Sequence[bytes]) -> bool:
        """Integrate `updates`, in any order, again or not; return whether they were news.

        News: the content changed (deletions count), or an update that waits was not known yet. Never seen by `observe`. Malformed bytes
        raise InvalidUpdateError with the index of the culprit; those before it are applied, the culprit and those after it are not.
        A library that notices only on the way, and has no rollback, announces what got in to the observers, like a local edit.
        Raises DocumentBusyError, with nothing applied, while the application has a transaction open: try again a turn later.
        """

    def version(self, doc: Any) -> bytes:
        """Return a summary for `missing`. Equal versions do *not* prove equal documents (in Yjs, a deletion changes none).

        Raises DocumentBusyError as `missing` does: a version that counts half of an edit would later leave that half out.
        """

    def missing(self, doc: Any, since: bytes | None) -> bytes:
        """Return one update with everything `doc` has beyond version `since` (None: everything), deletions and waiting updates included.

        Raises DocumentBusyError while the application has a transaction open: half of an edit is not to be stored or sent.
        """

    def snapshot(self, doc: Any) -> bytes:
        """Return one update that holds the whole document, waiting updates included. Raises DocumentBusyError as `missing` does."""

    def merge(self, updates: Sequence[bytes]) -> bytes:
        """Return one update worth all of `updates` (at least one), without a live document. Raises InvalidUpdateError."""

    def observe(self, doc: Any, callback: Callable[[bytes], None]) -> Unobserve:
        """Call `callback(update)` after each local edit, synchronously, before the edit returns; return what ends it.

        The document may live until the observation is ended. Raises DocumentBusyError while a transaction is open.
        An edit that changes nothing calls nothing. What the callback raises reaches the editor, wrapped or not; the edit stays in
        the document.
        """


@dataclass(frozen=True, slots=True)
class Word:
    """What one client last said of itself."""

    client: int
    clock: int
    """Counts its words: a higher one is newer."""
    state: Any
    """JSON. None: the client is gone."""


class PresenceAdapter(Protocol):
    """How clients of a CRDT library say who is there. An adapter that knows it has one as its attribute `presence`."""

    def client(self, doc: Any) -> int:
        """Return the number under which the document's edits are made, so that a cursor can be told from its text."""

    def encode(self, words: Sequence[Word]) -> bytes:
        """Return one presence update. Raises ValueError or TypeError for a state that is not JSON."""

    def decode(self, update: bytes) -> list[Word]:
        """Return what a presence update says. It comes from strangers: raises InvalidUpdateError, and nothing else."""


class ContentAdapter(Protocol):
    """What a document says to people. An adapter that can tell has one as its attribute `content`."""

    def read(self, update: bytes) -> dict[str, Any]:
        """Return the document of this one update as JSON values, by root. Raises InvalidUpdateError."""

    def texts(self, update: bytes) -> dict[str, str]:
        """Return the roots that are text, by name. Raises InvalidUpdateError."""


def load_adapter(name: str) -> CrdtAdapter:
    """Return a new instance of the installed adapter called `name`. Raises UnknownAdapterError, which lists those that are."""
    found = {point.name: point for point in entry_points(group="ds_sync.adapters")}
    if name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise UnknownAdapterError(f"no CRDT adapter is called {name!r}; installed: {known}", name=name)
    adapter: CrdtAdapter = found[name].load()()
    return adapter
