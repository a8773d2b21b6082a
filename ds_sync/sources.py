"""The source port: documents that another system has stored, to be imported.

Third parties publish a kind of store as an entry point in the group `ds_sync.sources`: its value is called with the path and the options,
and returns a `DocumentSource`, or None if what is there is no store of this kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from ds_sync.exceptions import SourceError

GROUP: Final = "ds_sync.sources"


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What a source may need to be told."""

    node_modules: Path | None = None
    """A folder with packages of npm, for stores that only JavaScript reads."""


class DocumentSource(Protocol):
    """A store of another system, open for reading; it is not changed. Used from one thread at a time, which may be any."""

    @property
    def kind(self) -> str:
        """What it is, for people: "y-leveldb"."""

    @property
    def crdt(self) -> str:
        """The adapter that its updates are for: "yjs"."""

    def names(self) -> Sequence[str]:
        """Return the names of the documents in it, sorted. Raises SourceError."""

    def read(self, name: str) -> Sequence[bytes]:
        """Return updates that together make the document; nobody has checked them. Raises SourceError."""

    def close(self) -> None:
        """Let go of it."""


OpenSource: TypeAlias = Callable[[Path, SourceOptions], DocumentSource | None]


def open_source(path: Path, options: SourceOptions) -> DocumentSource:
    """Return the store at `path`, of whichever installed kind it is. Raises SourceError."""
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    for point in points:
        opening: OpenSource = point.load()
        source = opening(path, options)
        if source is not None:
            return source
    kinds = ", ".join(point.name for point in points) or "none is installed"
    raise SourceError(f"{path} is no store of a kind that can be read ({kinds})")
