"""A file that holds one Yjs update: what `Y.encodeStateAsUpdate` and `ds-sync export` give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ds_sync.exceptions import SourceError
from ds_sync.sources import SourceOptions
from ds_sync_yjs.wire import Reader, WireError, check_update

SQLITE_MAGIC: Final = b"SQLite format 3\x00"

_COLUMNS_OF_V2: Final = 9
"""The columns of version 2, each with its length before it: of clients, clocks, strings and so on (UpdateEncoderV2 of Yjs)."""


def check_whole_update(update: bytes) -> None:
    """Raise SourceError for bytes that are not exactly one update of version 1, and say so if they are of version 2."""
    try:
        end = check_update(update)
    except WireError as error:
        reason = str(error)
    else:
        if end == len(update):
            return
        reason = f"{len(update) - end} bytes follow its end"
    if _looks_like_version_2(update):
        raise SourceError("a Yjs update of version 2, which pycrdt can't read: convert it with Y.convertUpdateFormatV2ToV1(update)")
    raise SourceError(f"not a Yjs update: {reason}")


def _looks_like_version_2(update: bytes) -> bool:
    if not update or update[0] != 0:
        return False
    reader = Reader(update, 1)
    try:
        for _ in range(_COLUMNS_OF_V2):
            reader.skip_block()
    except (WireError, IndexError):
        return False
    return True


class UpdateFile:
    """One document, called as the file without its ending."""

    kind = "Yjs update"
    crdt = "yjs"

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> Sequence[str]:
        return [self._path.stem]

    def read(self, name: str) -> Sequence[bytes]:
        try:
            update = self._path.read_bytes()
        except OSError as error:
            raise SourceError(f"{self._path} can't be read: {error.strerror}") from error
        check_whole_update(update)
        return [update]

    def close(self) -> None:
        """Nothing is open."""


def open_update_file(path: Path, options: SourceOptions) -> UpdateFile | None:
    """Return the file at `path`, unless it is a folder or an SQLite file (`ds_sync.sources.OpenSource`)."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            begin = file.read(len(SQLITE_MAGIC))
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror}") from error
    return None if begin == SQLITE_MAGIC else UpdateFile(path)
