"""A device with a replica file: processes with the real Replica on it, one after the other, and the store calls at which they die."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from ds_sync.crdt import CrdtAdapter, Unobserve
from ds_sync.environment import Environment
from ds_sync.exceptions import StorageFullError
from ds_sync.replica import local as local_module
from ds_sync.replica import replica as replica_module
from ds_sync.replica.document import Document
from ds_sync.replica.local import Tuning
from ds_sync.replica.replica import Replica
from ds_sync.replica.store import LocalStore
from ds_sync.testing.simulator.laws import Laws
from ds_sync.testing.simulator.loop import OWNER
from ds_sync.testing.simulator.network import Network, SimulatedTransport
from ds_sync.testing.simulator.process import Image, Process, ProcessDiedError
from ds_sync.testing.simulator.server import EPOCH
from ds_sync.testing.simulator.subjects import Subject
from ds_sync.testing.simulator.trace import Trace

SERVER = "http://server"
DOCUMENT = "doc"


class ReplicaProcess(Process):
    """A process of a device."""

    def __init__(self, name: str, path: Path, trace: Trace, laws: Laws, make_adapter: Callable[[], CrdtAdapter]) -> None:
        super().__init__(name, path, trace)
        self.laws = laws
        self.make_adapter = make_adapter
        self.full = 0
        """Calls of `enqueue` that fail from now on."""
        self.stores: list[SimulatedStore] = []


class SimulatedStore(LocalStore):
    """The real store. Its process may die before and after each call, and `enqueue` may find no space."""

    def __init__(self, *args: Any, **options: Any) -> None:
        owner = OWNER.get()
        if not isinstance(owner, ReplicaProcess):
            raise AssertionError("a store outside of a simulated process")
        self.process = owner
        self.trusted = False
        """The simulation itself is calling."""
        super().__init__(*args, **options)
        owner.stores.append(self)

    @contextmanager
    def looking(self) -> Generator[None]:
        """Let the simulation look into the file without any consequences."""
        before, self.trusted = self.trusted, True
        try:
            yield
        finally:
            self.trusted = before


def _stepping(name: str) -> Callable[..., Any]:
    def call(self: SimulatedStore, *args: Any, **options: Any) -> Any:
        original = getattr(LocalStore, name)
        if self.trusted:
            return original(self, *args, **options)
        process = self.process
        process.step(f"before {name}")
        if name == "enqueue" and process.full:
            process.full -= 1
            process.trace.note(process.name, "  the disk is full")
            raise StorageFullError(f"{self.path}: there is no space left for it")
        before = process.laws.before(self, name, args, options.get("settled"))
        result = original(self, *args, **options)
        if before is not None:
            process.laws.after(self, name, args, before)
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


class Device:
    """A file, and the process of the moment."""

    def __init__(self, name: str, path: Path, subject: Subject, network: Network, laws: Laws, tuning: Tuning, seed: str) -> None:
        self.name = name
        self.path = path
        self.returned: list[bytes] = []
        """The updates of all edits that returned, here or before the file was copied."""
        self.attempted: list[bytes] = []
        """The updates of edits that did not return: they may be there or not."""
        self.online = False
        self.process: ReplicaProcess | None = None
        self.document: Document | None = None
        self._replica: Replica | None = None
        self._adapter: RecordingAdapter | None = None
        self._subject = subject
        self._network = network
        self._laws = laws
        self._tuning = tuning
        self._seed = seed
        self._random = random.Random(f"{seed} {name}")

    @property
    def up(self) -> bool:
        """Whether a process is running with the document open."""
        return self.process is not None and not self.process.dead and self.document is not None

    @property
    def store(self) -> SimulatedStore:
        """The open store."""
        if self.process is None:
            raise AssertionError("no process")
        return self.process.stores[-1]

    def snapshot(self) -> bytes:
        """Return the open document, by the adapter that has it: an adapter may keep what waits beside the document."""
        if self.document is None:
            raise AssertionError("no document")
        return self._adapter_of(self.document).snapshot(self.document.doc)

    async def start(self, *, online: bool) -> None:
        """Start a process that opens the document. It may die on the way."""
        if self.process is not None:
            raise AssertionError("a process is there already")
        trace = self._laws.trace
        trace.note(self.name, "starts" + (", online" if online else ""))
        own = random.Random(f"{self._seed} {self.name} {self._random.random()}")
        self.online = online
        self.process = ReplicaProcess(self.name, self.path, trace, self._laws, lambda: self._subject.make_adapter(own))
        await self._attend(self.process.start(self._open(self.process, own)))
        if self.up:
            self._laws.check_edits(self, "after a start")

    async def _open(self, process: ReplicaProcess, own: random.Random) -> None:
        loop = asyncio.get_running_loop()
        environment = Environment(monotonic=loop.time, now=lambda: EPOCH + loop.time(), random=own, run_in_thread=_run_at_once)
        replica = Replica(
            self.path,
            server=SERVER if self.online else None,
            token=partial(self._network.find_token, self.name),
            transport=SimulatedTransport(process, self._network),
            environment=environment,
            tuning=self._tuning,
        )
        self._replica = await replica.__aenter__()
        self.document = await replica.open(DOCUMENT, crdt=self._laws.adapter.name)

    async def _attend(self, task: asyncio.Task[Any]) -> None:
        """Wait for something done inside the process; the process may die of it."""
        await asyncio.wait((task,))
        if self.process is not None and self.process.dead:
            await self.bury()
        elif not task.cancelled():
            task.result()

    def edit(self) -> None:
        """Make one edit."""
        process, document = self.process, self.document
        if process is None or document is None or process.dead:
            return
        adapter = self._adapter_of(document)
        adapter.updates = []
        doc, returned = document.doc, False
        try:
            what = process.run(lambda: self._subject.edit(doc, self._random))
            returned = not process.dead
        except ProcessDiedError:
            what = "edits, and dies of it"
        except StorageFullError:
            what = "edits, and is told that the disk is full"
        except BaseExceptionGroup as errors:  # pycrdt collects what its observers raise
            if errors.split((StorageFullError, ProcessDiedError))[1] is not None:
                raise
            what = "edits, and that raises"
        self._laws.trace.note(self.name, what)
        (self.returned if returned else self.attempted).extend(adapter.updates)

    @staticmethod
    def _adapter_of(document: Document) -> RecordingAdapter:
        adapter = document._local.adapter
        if not isinstance(adapter, RecordingAdapter):
            raise AssertionError("the replica has another adapter")
        return adapter

    async def go_online(self, *, online: bool) -> None:
        """Connect, or disconnect."""
        if self.process is not None and self._replica is not None and self.up:
            self._laws.trace.note(self.name, "goes online" if online else "goes offline")
            self.online = online
            self._network.excuse(self.process)
            replica = self._replica
            await self._attend(self.process.start(replica.connect(SERVER) if online else replica.disconnect()))

    async def reopen(self) -> None:
        """Close the document, and open it again."""
        process, replica, document = self.process, self._replica, self.document
        if process is not None and replica is not None and document is not None and not process.dead:
            self._laws.trace.note(self.name, "closes the document and opens it again")
            self._network.excuse(process)

            async def reopen() -> None:
                await document.close()
                self.document = await replica.open(DOCUMENT, crdt=self._laws.adapter.name)

            self.document = None
            await self._attend(process.start(reopen()))
            if self.up:
                self._laws.check_edits(self, "after closing and opening")

    async def bury(self) -> None:
        """Wait until nothing of the dead process runs any more; the file is then as the death left it."""
        process = self.process
        if process is None or not process.dead or process.image is None:
            raise AssertionError("the process lives")
        await process.buried
        for store in process.stores:
            store.close()
        self.process = self.document = self._replica = None
        process.image.restore(self.path)

    def copy_to(self, other: Device) -> None:
        """Give another device a copy of the file as it is, and with it the edits that are in it."""
        Image.take(self.path).restore(other.path)
        other.returned = list(self.returned)
        if self.up:
            with self.store.looking():
                for record in self.store.documents():
                    self._network.copied.add(record.producer.id)
                    if record.batch is not None:
                        self._network.copied.add(record.batch.stamp.id)


async def _run_at_once(call: Callable[..., Any], /, *args: Any) -> Any:
    return call(*args)


def _load_adapter(name: str) -> RecordingAdapter:
    owner = OWNER.get()
    if not isinstance(owner, ReplicaProcess):
        raise AssertionError("an adapter outside of a simulated process")
    return RecordingAdapter(owner.make_adapter())


@contextmanager
def seams(*, merge_rows: int) -> Generator[None]:
    """Make every Replica use the simulated store and adapters for a while. `merge_rows`: above so many rows a batch is taken from the
    live document.
    """
    with (
        mock.patch.multiple(replica_module, LocalStore=SimulatedStore, load_adapter=_load_adapter),
        mock.patch.object(local_module, "MERGE_ROWS", merge_rows),
    ):
        yield
