"""A document and its rows on a device of their own, without a network; documents are edited through either of two adapters."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ds_sync_yjs import YjsAdapter
from pycrdt import Doc, Text

sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))

from lww_map import LwwMapAdapter

from ds_sync.crdt import CrdtAdapter
from ds_sync.environment import Environment
from ds_sync.exceptions import StorageFullError
from ds_sync.protocol.messages import Page
from ds_sync.protocol.offsets import Offset
from ds_sync.replica.local import LocalDocument, Tuning
from ds_sync.replica.records import DocumentKey
from ds_sync.replica.store import LocalStore

MEGABYTE = 1 << 20


def body(doc: Any) -> Text:
    text: Text = doc.get("body", type=Text)
    return text


def edit_text(doc: Any, rng: random.Random) -> None:
    text = body(doc)
    size = len(str(text))
    if size > 2 and rng.random() < 0.35:
        start = rng.randrange(size - 1)
        del text[start : start + 2]
    else:
        text.insert(rng.randrange(size + 1), rng.choice(("a", "bc", "def")))


def edit_map(doc: Any, rng: random.Random) -> None:
    doc.set(rng.choice("abcdef"), rng.choice((None, rng.random())))


@dataclass(frozen=True)
class Kind:
    """An adapter, and how its documents are edited and read."""

    adapter: Callable[[], CrdtAdapter]
    edit: Callable[[Any, random.Random], None]
    content: Callable[[Any], Any]


KINDS = {
    "yjs": Kind(YjsAdapter, edit_text, lambda doc: str(body(doc))),
    "lww": Kind(LwwMapAdapter, edit_map, lambda doc: doc.to_py()),
}


class Device:
    """A file with one document, which can be closed and opened again."""

    def __init__(self, path: Path, kind: Kind = KINDS["yjs"], **tuning: Any) -> None:
        self.path, self.kind, self.tuning = path, kind, Tuning(**{"store_retry": 0.01, **tuning})
        self.offset = 0
        self.open()

    def open(self) -> LocalDocument:
        self.store = LocalStore(self.path)
        self.adapter = self.kind.adapter()
        try:
            self.local = LocalDocument(
                self.store, self.adapter, DocumentKey(self.adapter.name, "default", "note"), Environment(), self.tuning
            )
        except BaseException:
            self.store.close()
            raise
        return self.local

    def close(self) -> None:
        self.local.close()
        self.store.close()

    def reopen(self) -> LocalDocument:
        self.close()
        return self.open()

    def receive(self, data: bytes, *, scratch: Any = None) -> Any:
        seen = self.local.receive(Page(data, Offset(f"{self.offset + 1:04}"), up_to_date=True), scratch=scratch)
        self.offset += 1
        return seen

    @property
    def content(self) -> Any:
        return self.kind.content(self.local.doc)

    def require(self) -> Any:
        """Require that closing and opening changes nothing; return the content."""
        content, record, outbox = self.content, self.local.record, self.local.outbox
        self.reopen()
        assert self.content == content
        assert (self.local.record.batch, self.local.record.checkpoint, self.local.record.partial) == (
            record.batch,
            record.checkpoint,
            record.partial,
        )
        assert (self.local.record.quarantined, self.local.record.durable, self.local.outbox) == (record.quarantined, record.durable, outbox)
        assert self.local.record.server_version == record.server_version
        return content


class Peer:
    """Another replica's document, and the updates it made."""

    def __init__(self, kind: Kind = KINDS["yjs"]) -> None:
        self.adapter, self.updates = kind.adapter(), list[bytes]()
        self.doc = self.adapter.new()
        self.adapter.observe(self.doc, self.updates.append)

    def write(self, *words: str) -> list[bytes]:
        """Append each word; return the update of each."""
        count = len(self.updates)
        for word in words:
            text = body(self.doc)
            text += word
        return self.updates[count:]


def write(device: Device, *words: str) -> None:
    for word in words:
        text = body(device.local.doc)
        text += word


def poison() -> tuple[bytes, bytes]:
    """Return a letter, and an update that makes it the parent of a text: it reads well, waits for the letter, and can't be integrated."""
    base: Doc[Any] = Doc(client_id=5)
    adapter, updates = YjsAdapter(), list[bytes]()
    adapter.observe(base, updates.append)
    body(base).insert(0, "x")
    return updates[0], bytes([1, 1, 3, 0, 0x04, 0, 5, 0, 2]) + b"no\x00"


class full:  # noqa: N801 - reads as what it is: `with full(device):`
    """The file can't grow by a page."""

    def __init__(self, device: Device) -> None:
        self.connection = device.store._connection

    def __enter__(self) -> None:
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = self.connection.execute("PRAGMA page_count").fetchone()[0]
        self.connection.execute(f"PRAGMA max_page_count = {pages}")

    def __exit__(self, *_: object) -> None:
        self.connection.execute("PRAGMA max_page_count = 1000000")


def write_in_vain(device: Device, *words: str) -> None:
    for word in words:
        with pytest.raises(ExceptionGroup) as caught:
            write(device, word)
        assert caught.group_contains(StorageFullError)


LONG = "z" * 9000
"""More than a page, so that no free space inside one takes it."""
