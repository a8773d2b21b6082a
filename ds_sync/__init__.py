"""Local-first sync for CRDT documents over Durable Streams: the public names, and nothing else.

They are loaded at first use, so that `import ds_sync` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ds_sync.client.stream import StreamClient as StreamClient
    from ds_sync.replica.document import Document as Document
    from ds_sync.replica.document import Status as Status
    from ds_sync.replica.replica import Replica as Replica

_HOMES = {
    "Replica": "ds_sync.replica.replica",
    "Document": "ds_sync.replica.document",
    "Status": "ds_sync.replica.document",
    "StreamClient": "ds_sync.client.stream",
}

__all__ = ["Document", "Replica", "Status", "StreamClient"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ds_sync' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
