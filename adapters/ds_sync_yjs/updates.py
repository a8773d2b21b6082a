"""What can be done with a Yjs update without a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pycrdt import get_state, get_update, merge_updates

from ds_sync.exceptions import InvalidUpdateError, UnsupportedUpdateError
from ds_sync_yjs.squash import squash_update
from ds_sync_yjs.wire import UnsupportedError, WireError, check_update, read_version

_MERGE_AT_ONCE = 256
"""merge_updates is slower than linear in the number of updates: 18,335 at once take 1.9 s, in runs of this many 0.1 s."""


@contextmanager
def refusing(index: int) -> Iterator[None]:
    """Turn pycrdt's ways of refusing bytes into InvalidUpdateError: ValueError, RuntimeError, and the panics of its Rust code."""
    try:
        yield
    except UnsupportedError as error:
        raise UnsupportedUpdateError(f"not supported: {error}", index=index) from error
    except (ValueError, RuntimeError) as error:
        raise InvalidUpdateError(f"not a Yjs update: {error}", index=index) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise InvalidUpdateError(f"pycrdt failed on this update: {error}", index=index) from None


def require_update(update: bytes, index: int = 0) -> None:
    """Raise InvalidUpdateError for bytes that don't decode, UnsupportedUpdateError for those that only we can't read.

    What passes may still contradict a document.
    """
    with refusing(index):
        check_update(update)
        get_state(update)


def join_updates(updates: Sequence[bytes]) -> bytes:
    """Return one update worth all of `updates` (at least one), which have passed `require_update`. Holds the GIL."""
    merged = list(updates)
    while True:
        runs = range(0, len(merged), _MERGE_AT_ONCE)
        with refusing(0):
            merged = [bytes(merge_updates(*merged[start : start + _MERGE_AT_ONCE])) for start in runs]
        if len(merged) == 1:
            return squash_update(merged[0])


def cut_update(update: bytes, version: bytes) -> bytes:
    """Return what `update`, which has passed `require_update`, has beyond the state vector `version`, and all of its deletions."""
    with refusing(0):
        return bytes(get_update(update, version))


def require_version(version: bytes) -> None:
    """Raise InvalidUpdateError for bytes that are no state vector: pycrdt makes room for whatever they announce."""
    try:
        read_version(version)
    except (WireError, IndexError) as error:
        raise InvalidUpdateError(f"not a state vector: {error}") from error
