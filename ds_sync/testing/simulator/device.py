"""A device with a replica file: processes with the real Replica on it, one after the other, and what the device did to its documents."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ds_sync.environment import Environment
from ds_sync.exceptions import StorageFullError
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.replica.document import Document
from ds_sync.replica.records import Phase
from ds_sync.testing.simulator.disk import Disk, Image
from ds_sync.testing.simulator.laws import Laws
from ds_sync.testing.simulator.network import Network, SimulatedTransport
from ds_sync.testing.simulator.process import ProcessDiedError
from ds_sync.testing.simulator.replica import RecordingAdapter, ReplicaProcess, SimulatedReplica, SimulatedStore
from ds_sync.testing.simulator.scenario import Scenario
from ds_sync.testing.simulator.server import EPOCH
from ds_sync.testing.simulator.subjects import Subject
from ds_sync.testing.simulator.trace import Trace

SERVER = "http://server"


class Holding:
    """One document on one device: the open one, and what the device did to it."""

    def __init__(self, device: Device, path: str, laws: Laws) -> None:
        self.name = device.name if path == "doc" else f"{device.name}/{path}"
        self.path = path
        self.laws = laws
        self.document: Document | None = None
        """None while it is closed."""
        self.sealed: ProducerStamp | None = None
        """The number of the newest batch that was sealed."""
        self.transaction: asyncio.Task[None] | None = None
        """The application has one open."""
        self._device = device
        self._edits: list[tuple[bytes, int]] = []
        """The updates of the edits that returned, each with the number of the newest commit then."""

    @property
    def returned(self) -> list[bytes]:
        """The updates of all edits that returned, here or before the file was copied, and that nothing has excused since."""
        return [update for update, _ in self._edits]

    @property
    def store(self) -> SimulatedStore:
        """The open store."""
        return self._device.store

    @property
    def stopped(self) -> bool:
        """Whether the open document waits for somebody to resolve it."""
        return self.document is not None and self.document._local.record.phase in (Phase.DIVERGED, Phase.DELETED)

    def snapshot(self) -> bytes:
        """Return the open document, by the adapter that has it: an adapter may keep what waits beside the document."""
        if self.document is None:
            raise AssertionError("no document")
        return self._device.adapter.snapshot(self.document.doc)

    def note_edits(self, updates: list[bytes], commit: int) -> None:
        """Write down that edits returned when `commit` was the newest of the file."""
        self._edits += ((update, commit) for update in updates)

    def fall_back(self, commit: int) -> None:
        """The power was cut, and `commit` is the newest that is left: later edits are excused."""
        self._edits = [edit for edit in self._edits if edit[1] <= commit]

    def continue_from(self, other: Holding) -> None:
        """This is a copy of the file in which `other` is."""
        self.note_edits(other.returned, 0)
        self.sealed = other.sealed


class Device:
    """A file, and the process of the moment."""

    def __init__(
        self, name: str, path: Path, subject: Subject, network: Network, laws: Mapping[str, Laws], scenario: Scenario, seed: int
    ) -> None:
        """`laws`: of each document, by its path."""
        self.name = name
        self.path = path
        self.disk = Disk(path)
        self.holdings = {document: Holding(self, document, of) for document, of in laws.items()}
        self.online = False
        self.process: ReplicaProcess | None = None
        self._replica: SimulatedReplica | None = None
        self._subject = subject
        self._network = network
        self._trace: Trace = network.trace
        self._scenario = scenario
        self._seed = seed
        self._random = random.Random(f"{seed} {name}")

    @property
    def up(self) -> bool:
        """Whether a process is running with the file open."""
        return self.process is not None and not self.process.dead and self._replica is not None

    @property
    def store(self) -> SimulatedStore:
        """The open store."""
        return self._opened.store

    @property
    def adapter(self) -> RecordingAdapter:
        """The adapter of the running process."""
        return self._opened.adapter

    @property
    def _opened(self) -> SimulatedReplica:
        if self._replica is None:
            raise AssertionError("no process")
        return self._replica

    @property
    def open_holdings(self) -> list[Holding]:
        """Those of the documents that are open."""
        return [holding for holding in self.holdings.values() if holding.document is not None] if self.up else []

    async def start(self, *, online: bool) -> None:
        """Start a process that opens all documents. It may die on the way."""
        if self.process is not None:
            raise AssertionError("a process is there already")
        self._trace.note(self.name, "starts" + (", online" if online else ""))
        own = random.Random(f"{self._seed} {self.name} {self._random.random()}")
        self.online = online
        self.process = ReplicaProcess(
            self.name, self.path, self._trace, self.disk, self._random, {**self.holdings}, self._scenario.checkpoint_pages
        )
        await self._attend(self.process.start(self._start(self.process, own)))
        self._check("after a start")

    async def _start(self, process: ReplicaProcess, own: random.Random) -> None:
        loop = asyncio.get_running_loop()
        replica = SimulatedReplica(
            process,
            RecordingAdapter(self._subject.make_adapter(own)),
            server=SERVER if self.online else None,
            token=partial(self._network.find_token, self.name),
            transport=SimulatedTransport(process, self._network),
            environment=Environment(monotonic=loop.time, now=lambda: EPOCH + loop.time(), random=own, run_in_thread=_run_at_once),
            tuning=self._scenario.tuning,
            power_safe=self._scenario.power_safe,
        )
        await replica.__aenter__()
        self._replica = replica
        await self._open_all(replica)

    async def _open_all(self, replica: SimulatedReplica) -> None:
        for holding in self.holdings.values():
            if holding.document is None:
                holding.document = await replica.open(holding.path, crdt=replica.adapter.name)

    async def open_all(self) -> None:
        """Open the documents that were closed."""
        if self.up and self.process is not None:
            self._network.excuse(self.process)
            await self._attend(self.process.start(self._open_all(self._opened)))

    async def _attend(self, task: asyncio.Task[Any]) -> None:
        """Wait for something done inside the process; the process may die of it."""
        await asyncio.wait((task,))
        if self.process is not None and self.process.dead:
            await self.bury()
        elif not task.cancelled():
            task.result()

    def _check(self, when: str) -> None:
        for holding in self.open_holdings:
            holding.laws.check_edits(holding, when)

    # Edits

    def edit(self, holding: Holding) -> bool:
        """Make one edit, as a part of the open transaction if there is one; return whether there was anybody to make it."""
        process, document = self.process, holding.document
        if process is None or document is None or process.dead:
            return False
        with self._editing(process, holding) as said:
            said.append(process.run(lambda: self._subject.edit(document.doc, self._random)))
        return True

    def transact(self, holding: Holding, pauses: list[float]) -> bool:
        """Begin a transaction in which an edit is made before each of `pauses`, in seconds; return whether one was begun."""
        document, process = holding.document, self.process
        if document is None or process is None or process.dead or holding.transaction is not None:
            return False
        transaction = self._subject.transaction(document.doc)
        if transaction is None:
            return False

        async def work() -> None:
            with self._editing(process, holding) as said, transaction:
                for pause in pauses:
                    self._subject.edit(document.doc, self._random)
                    await asyncio.sleep(pause)
                said.append("ends its transaction")
                self.adapter.updates = []  # other documents were edited meanwhile

        self._trace.note(holding.name, f"begins a transaction of {len(pauses)} edits")
        holding.transaction = process.start(work())
        holding.transaction.add_done_callback(lambda task: setattr(holding, "transaction", None))
        return True

    @contextmanager
    def _editing(self, process: ReplicaProcess, holding: Holding) -> Generator[list[str]]:
        """Write down what an edit came to; whoever makes it says what it is."""
        adapter, said, returned = self.adapter, list[str](), False
        adapter.updates = []
        try:
            yield said
            returned = not process.dead
        except ProcessDiedError:
            said.append("edits, and dies of it")
        except StorageFullError:
            said.append("edits, and is told that the disk is full")
        except BaseExceptionGroup as errors:  # pycrdt collects what its observers raise
            if errors.split((StorageFullError, ProcessDiedError))[1] is not None:
                raise
            said.append("edits, and that raises")
        self._trace.note(holding.name, said[-1])
        if returned:
            holding.note_edits(adapter.updates, self.disk.commits)

    # Everything else

    async def go_online(self, *, online: bool) -> bool:
        """Connect, or disconnect; return whether there was anybody to do it."""
        if not self.up or self.process is None:
            return False
        self._trace.note(self.name, "goes online" if online else "goes offline")
        self.online = online
        self._network.excuse(self.process)
        replica = self._opened
        await self._attend(self.process.start(replica.connect(SERVER) if online else replica.disconnect()))
        return True

    async def reopen(self, holding: Holding, *, after: float | None) -> bool:
        """Close the document, and open it again `after` so many seconds (None: that is left to others); return whether it was open."""
        process, document = self.process, holding.document
        if not self.up or process is None or document is None:
            return False
        self._trace.note(holding.name, "is closed" + ("" if after is None else ", and opened again"))

        async def reopen() -> None:
            await document.close()
            if after is not None:
                await asyncio.sleep(after)
                self._network.excuse(process)
                holding.document = await self._opened.open(holding.path, crdt=self.adapter.name)

        holding.document = None
        await self._attend(process.start(reopen()))
        if self.up and holding.document is not None:
            holding.laws.check_edits(holding, "after closing and opening")
        return True

    async def resolve(self, holding: Holding) -> bool:
        """Resolve a document that has stopped by "both"; return whether that came to its end."""
        process, document = self.process, holding.document
        if process is None or document is None:
            return False
        self._trace.note(holding.name, f"is {document._local.record.phase}, and resolved")
        self._network.excuse(process)
        with holding.laws.resolving(self.name):
            await self._attend(process.start(document.resolve("both")))
        if not self.up:
            return False
        holding.laws.note_resolved(self.name)
        if holding.transaction is None:
            holding.laws.check_edits(holding, "after it was resolved")
        return True

    async def bury(self) -> None:
        """Wait until nothing of the dead process runs any more; the file is then as the death left it."""
        process = self.process
        if process is None or not process.dead or process.image is None:
            raise AssertionError("the process lives")
        await process.buried
        for close in process.closers:
            close()
        self.process = self._replica = None
        for holding in self.holdings.values():
            holding.document = None
            if process.power_fails and not self._scenario.power_safe:
                holding.fall_back(self.disk.commits)
        process.image.restore(self.path)

    def copy_to(self, other: Device) -> None:
        """Give another device a copy of the file as it is, and with it the edits that are in it."""
        Image.take(self.path).restore(other.path)
        for holding in self.holdings.values():
            other.holdings[holding.path].continue_from(holding)
        with self.store.looking():
            for record in self.store.documents():
                self._network.copied.add(record.producer.id)
                if record.batch is not None:
                    self._network.copied.add(record.batch.stamp.id)


async def _run_at_once(call: Callable[..., Any], /, *args: Any) -> Any:
    return call(*args)
