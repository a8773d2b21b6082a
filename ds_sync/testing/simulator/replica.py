"""The real Replica with the real store, in a simulated process: it may die at every call of its store, and its disk is followed."""

from __future__ import annotations

import inspect
import random
import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from ds_sync.crdt import CrdtAdapter, Unobserve
from ds_sync.exceptions import StorageFullError
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.replica.records import DocumentRecord
from ds_sync.replica.replica import Replica
from ds_sync.replica.store import LocalStore
from ds_sync.testing.simulator.disk import Disk
from ds_sync.testing.simulator.process import Process
from ds_sync.testing.simulator.trace import Trace

if TYPE_CHECKING:
    from pathlib import Path


class Judge(Protocol):
    """Looks at what calls of the store make of a document."""

    def before(self, store: SimulatedStore, name: str, args: Sequence[Any], options: Mapping[str, Any]) -> DocumentRecord | None: ...

    def after(self, store: SimulatedStore, name: str, args: Sequence[Any], before: DocumentRecord) -> None: ...


class Held(Protocol):
    """A document, as the device remembers it."""

    @property
    def laws(self) -> Judge: ...

    sealed: ProducerStamp | None


class ReplicaProcess(Process):
    """A process of a device. `documents`: by path."""

    def __init__(
        self, name: str, path: Path, trace: Trace, disk: Disk, random: random.Random, documents: dict[str, Held], checkpoint_pages: int
    ) -> None:
        super().__init__(name, path, trace, disk, random)
        self.documents = documents
        self.checkpoint_pages = checkpoint_pages
        self.full = 0
        """Calls of `enqueue` that fail from now on."""


class SimulatedReplica(Replica):
    """A Replica in a simulated process."""

    def __init__(self, process: ReplicaProcess, adapter: RecordingAdapter, **options: Any) -> None:
        super().__init__(process.path, adapters={adapter.name: adapter}, **options)
        self.adapter = adapter
        self._process = process

    @property
    def store(self) -> SimulatedStore:
        """The open store."""
        store = self._require_store()
        if not isinstance(store, SimulatedStore):
            raise AssertionError("the replica has another store")
        return store

    def _open_store(self) -> LocalStore:
        return SimulatedStore(self._process, power_safe=self._power_safe)


class SimulatedStore(LocalStore):
    """The real store. Its process may die before and after each call, and `enqueue` may find no space."""

    def __init__(self, process: ReplicaProcess, *, power_safe: bool) -> None:
        self.process = process
        self.trusted = False
        """The simulation itself is calling."""
        self._held: dict[int, Held] = {}
        super().__init__(process.path, power_safe=power_safe)
        process.closers.append(self.close)

    def _connect(self) -> sqlite3.Connection:
        connection = super()._connect()
        connection.execute(f"PRAGMA wal_autocheckpoint={self.process.checkpoint_pages}")
        watched: sqlite3.Connection = self.process.disk.watch(connection)
        return watched

    @contextmanager
    def looking(self) -> Generator[None]:
        """Let the simulation look into the file without any consequences."""
        before, self.trusted = self.trusted, True
        try:
            yield
        finally:
            self.trusted = before

    def record(self, document: int) -> DocumentRecord:
        """Return the record in row `document`."""
        (record,) = self._records("WHERE id = ?", (str(document),))
        return record

    def held(self, document: int) -> Held:
        """Return what the device knows of the document in row `document`."""
        if document not in self._held:
            with self.looking():
                for record in self.documents():
                    self._held[record.id] = self.process.documents[record.key.path]
        return self._held[document]


def _stepping(name: str) -> Callable[..., Any]:
    judged = name in ("advance", "compact", "settle", "begin_heal")

    def call(self: SimulatedStore, *args: Any, **options: Any) -> Any:
        original = getattr(LocalStore, name)
        if self.trusted:
            return original(self, *args, **options)
        process = self.process
        process.step(f"before {name}")
        if name == "enqueue" and process.full:
            process.full -= 1
            process.trace.note(process.name, "  the disk is full")
            process.trace.count("an edit that found the disk full")
            raise StorageFullError(f"{self.path}: there is no space left for it")
        laws = self.held(args[0]).laws if judged else None
        before = None if laws is None else laws.before(self, name, args, options)
        result = original(self, *args, **options)
        if name == "seal":
            self.held(args[0]).sealed = args[1].stamp
        if laws is not None and before is not None:
            laws.after(self, name, args, before)
        process.step(f"after {name}")
        return result

    return call


for _name, _ in inspect.getmembers(LocalStore, inspect.isfunction):
    if not _name.startswith("_") and _name != "close":
        setattr(SimulatedStore, _name, _stepping(_name))


class RecordingAdapter:
    """An adapter that keeps the updates of the edit that is being made."""

    def __init__(self, inner: CrdtAdapter) -> None:
        self.inner = inner
        self.name, self.format, self.content_type = inner.name, inner.format, inner.content_type
        self.updates: list[bytes] = []

    def new(self) -> Any:
        return self.inner.new()

    def apply(self, doc: Any, updates: Sequence[bytes]) -> bool:
        return self.inner.apply(doc, updates)

    def version(self, doc: Any) -> bytes:
        return self.inner.version(doc)

    def missing(self, doc: Any, since: bytes | None) -> bytes:
        return self.inner.missing(doc, since)

    def snapshot(self, doc: Any) -> bytes:
        return self.inner.snapshot(doc)

    def merge(self, updates: Sequence[bytes]) -> bytes:
        return self.inner.merge(updates)

    def observe(self, doc: Any, callback: Callable[[bytes], None]) -> Unobserve:
        def receive(update: bytes) -> None:
            self.updates.append(update)
            callback(update)

        return self.inner.observe(doc, receive)
