"""Compaction: a document whose log has grown gets a snapshot, so that newcomers need not read it all (YJS-PROTOCOL.md section 8).

A snapshot is built from stored records up to one place, by a process of its own; stored; read again; compared with the document; and
only then named in the index, after which older snapshots go. A crash at any step leaves the document as it was, and perhaps a snapshot
that nobody was told of, which the next compaction removes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol

from ds_sync.environment import Environment
from ds_sync.exceptions import CompactionError, DsSyncError, GoneError, NotFoundError
from ds_sync.protocol.framing import build_frames
from ds_sync.protocol.history import START, Place
from ds_sync.protocol.state import FRAMED_SUFFIX
from ds_sync.server.documents.snapshots import Snapshot, Snapshots, build_key
from ds_sync.server.documents.trimming import Trimmer
from ds_sync.server.engines.base import StorageEngine

CHECK_SECONDS: Final = 0.25
"""How long commits are gathered before the documents they touched are looked at."""

PATIENCE: Final = 2.0
"""Seconds after which a document whose log has grown by less than `after` gets a snapshot all the same, if that is worth it."""

SMALLEST_PART: Final = 64
"""It is worth it if the log has grown by this part of `after` ..."""

SNAPSHOT_PART: Final = 32
"""... and by this part of the snapshot's own size. To apply single updates costs newcomers up to twenty times what the same bytes cost in a
snapshot (measured with Yjs: 64 kB behind a snapshot of 377 kB double the time of a join)."""

REST: Final = 3.0
"""How many times as long as a page of the log took the next one waits: fewer than one in a hundred appends should notice."""

EARLY_REST: Final = 3.0
"""How many times as long as an early snapshot took the next one waits: all of them together take a quarter of one core at most."""

NICENESS: Final = 10
"""How far the process stands back behind the server."""

WORK_SECONDS: Final = 600.0
"""After which a worker that has not answered is given up."""

PAGE_BYTES: Final = 256 * 1024
"""About how much goes to the process at a time."""

log = logging.getLogger(__name__)


class Worker(Protocol):
    """Who makes one snapshot: a process, or (in tests) this one. Each method may raise CompactionError."""

    async def feed(self, frames: bytes) -> None:
        """Take a run of whole frames."""
        ...

    async def snapshot(self) -> tuple[bytes, int]:
        """Return the snapshot and how many updates are not in it because they can't be read."""
        ...

    async def verify(self, stored: bytes) -> bool:
        """Whether what was stored is the document."""
        ...


OpenWorker = Callable[[str], AbstractAsyncContextManager[Worker]]
"""Of the CRDT adapter's name. What leaves it ends it, whatever it is doing."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """From where a log's growth counts."""

    incarnation: str
    position: int
    worth: int
    """By how many bytes it must have grown for an early snapshot."""


class Compactor:
    """Watches an engine, and makes snapshots, one at a time; drops updates that snapshots have, if it may.

    A document whose log has grown by `after` bytes gets one at once. One that has grown by less gets one a little later, so that a newcomer
    need not apply many single updates; but these have to share a small part of the machine.
    """

    def __init__(
        self,
        engine: StorageEngine,
        snapshots: Snapshots,
        environment: Environment,
        after: int,
        open_worker: OpenWorker | None = None,
        trimmer: Trimmer | None = None,
    ) -> None:
        self._engine = engine
        self._snapshots = snapshots
        self._environment = environment
        self._after = after
        self._open_worker = open_worker or open_process
        self._trimmer = trimmer
        self._dirty: set[str] = set()
        self._marks: dict[str, _Mark] = {}
        self._early: dict[str, float] = {}
        """Documents that are worth an early snapshot, and when they may have it; in that order."""
        self._rested = 0.0
        """When the next early snapshot may be made."""
        self._tidy: set[str] = set()
        """Documents that have no other snapshots than the one their index ends with."""
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._unwatch = engine.watch(self._note)

    async def aclose(self) -> None:
        """Stop, in the middle of a snapshot if need be."""
        self._closed = True
        self._unwatch()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def consider(self, root: str) -> None:
        """Look at a document soon, as if it had been written to: somebody joins, and others may follow."""
        self._note((root + FRAMED_SUFFIX,))

    async def compact(self, root: str) -> bool:
        """Make a snapshot of the document now, if there is anything that its newest one lacks. Raises CompactionError, DsSyncError."""
        run = await self._engine.read(root + FRAMED_SUFFIX, None, 0)
        state = run.state
        if state is None or not state.listed:
            return False
        incarnation, place = state.incarnation, state.place
        key = None
        try:
            last = await self._snapshots.newest(root, incarnation)
            newest = None if last is None else await self._snapshots.read(root, incarnation, build_key(last.place))
            if place == (START if newest is None else newest.place):
                return False
            tidy = root in self._tidy
            self._tidy.discard(root)
            async with self._open_worker(root.partition("/")[0]) as worker:
                if newest is not None:
                    await worker.feed(build_frames([newest.data]))
                await self._feed(worker, root, START if newest is None else newest.place, place)
                data, refused = await worker.snapshot()
                key = await self._snapshots.store(root, incarnation, Snapshot(data, place))
                stored = await self._snapshots.read(root, incarnation, key)
                if stored.data != data or not await worker.verify(stored.data):
                    raise CompactionError(f"{root}: the snapshot is not the document; the log is kept as it is")
            await self._snapshots.publish(root, incarnation, key, left_out=refused + (0 if last is None else last.left_out))
        except (CompactionError, GoneError, NotFoundError):
            if key is not None:
                await self._snapshots.delete(root, key)
            if await self._lives(root, incarnation):
                raise
            return False  # it was deleted meanwhile
        if refused:
            log.warning("%s: %d updates can't be read, and are not in the snapshot", root, refused)
        self._marks[root] = _Mark(incarnation, place.position, self._measure_worth(len(data)))
        if tidy and last is not None:
            await self._snapshots.delete(root, build_key(last.place))
        else:
            await self._snapshots.delete_all(root, but=key)  # that searches the names of all streams
        self._tidy.add(root)
        if self._trimmer is not None:
            await self._trimmer.trim(root, incarnation)
        return True

    def _note(self, paths: Collection[str]) -> None:
        dirty = [path for path in paths if path.endswith(FRAMED_SUFFIX) and "/docs/" in path]
        if dirty:
            self._dirty.update(dirty)
            if self._task is None and not self._closed:
                self._task = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        try:
            while self._dirty or self._early:
                await self._environment.sleep(CHECK_SECONDS)
                dirty, self._dirty = self._dirty, set()
                for path in sorted(dirty):
                    root = path.removesuffix(FRAMED_SUFFIX)
                    if await self._look(root):
                        self._early.setdefault(root, self._environment.monotonic() + PATIENCE)
                    else:
                        self._early.pop(root, None)
                await self._look_at_the_first()
        finally:
            self._task = None

    async def _look_at_the_first(self) -> None:
        began = self._environment.monotonic()
        root, due = next(iter(self._early.items()), ("", math.inf))
        if began < due or began < self._rested:
            return
        del self._early[root]
        await self._look(root, early=True)
        ended = self._environment.monotonic()
        self._rested = ended + EARLY_REST * (ended - began)

    async def _look(self, root: str, *, early: bool = False) -> bool:
        """Make a snapshot, if it is time; return whether it is worth one and has to wait."""
        try:
            state = (await self._engine.read(root + FRAMED_SUFFIX, None, 0)).state
            if state is None or not state.listed or state.position < self._measure_worth(0):
                return False
            mark = await self._find_mark(root, state.incarnation)
            growth = state.position - mark.position
            if growth < (mark.worth if early else self._after):
                if self._trimmer is not None:
                    await self._trimmer.tend(root, state.incarnation)
                return growth >= mark.worth
            try:
                await self.compact(root)
            except (CompactionError, TimeoutError, OSError):
                # What failed now would fail again at once: it is tried when the log has grown by as much again.
                self._marks[root] = _Mark(state.incarnation, state.position, self._after)
                raise
        except (DsSyncError, TimeoutError, OSError):
            log.exception("%s: no snapshot could be made", root)
        return False

    async def _find_mark(self, root: str, incarnation: str) -> _Mark:
        mark = self._marks.get(root)
        if mark is None or mark.incarnation != incarnation:
            last = await self._snapshots.newest(root, incarnation)
            size = 0 if last is None else await self._snapshots.measure(root, build_key(last.place))
            mark = self._marks[root] = _Mark(incarnation, 0 if last is None else last.place.position, self._measure_worth(size))
        return mark

    def _measure_worth(self, size: int) -> int:
        return min(self._after, max(1, self._after // SMALLEST_PART, size // SNAPSHOT_PART))

    async def _lives(self, root: str, incarnation: str) -> bool:
        state = (await self._engine.read(root + FRAMED_SUFFIX, None, 0)).state
        return state is not None and state.listed and state.incarnation == incarnation

    async def _feed(self, worker: Worker, root: str, after: Place, until: Place) -> None:
        monotonic = self._environment.monotonic
        while after.position < until.position:
            began = monotonic()
            run = await self._engine.read(root + FRAMED_SUFFIX, after, min(PAGE_BYTES, until.position - after.position))
            if not run.records:
                raise CompactionError(f"{root}: the log ended while it was read")
            await worker.feed(b"".join(run.records))
            after = run.end
            await self._environment.sleep(REST * (monotonic() - began))


class ProcessWorker:
    """`worker` in a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("the process has no pipes")
        self._requests, self._answers = process.stdin, process.stdout

    async def feed(self, frames: bytes) -> None:
        """Send the frames; wait while the process is behind."""
        await self._send(b"U", frames)

    async def snapshot(self) -> tuple[bytes, int]:
        """Ask for the snapshot."""
        await self._send(b"S", b"")
        refused = int(await self._receive(b"R"))
        return await self._receive(b"S"), refused

    async def verify(self, stored: bytes) -> bool:
        """Send the snapshot back."""
        await self._send(b"V", stored)
        return await self._receive(b"V") == b"same"

    async def content(self) -> bytes:
        """Ask what the document says to people; return JSON, as `worker.Compaction.content` does."""
        await self._send(b"C", b"")
        return await self._receive(b"C")

    async def _send(self, kind: bytes, data: bytes) -> None:
        try:
            self._requests.write(kind + len(data).to_bytes(8, "big"))
            rest = memoryview(data)
            while rest:  # in parts: to copy 100 MB at once would keep everybody waiting
                self._requests.write(rest[:PAGE_BYTES])
                await self._requests.drain()
                rest = rest[PAGE_BYTES:]
        except OSError as error:
            raise CompactionError(f"the compaction process ended: {error}") from error

    async def _receive(self, kind: bytes) -> bytes:
        try:
            head = await self._answers.readexactly(9)
            parts, missing = list[bytes](), int.from_bytes(head[1:], "big")
            while missing:
                parts.append(await self._answers.readexactly(min(missing, PAGE_BYTES)))
                missing -= len(parts[-1])
        except (asyncio.IncompleteReadError, OSError) as error:
            raise CompactionError(f"the compaction process ended: {error}") from error
        if head[:1] != kind:
            raise CompactionError(f"the compaction process answered {head[:1]!r}")
        return b"".join(parts)


@asynccontextmanager
async def open_process(adapter: str) -> AsyncIterator[ProcessWorker]:
    """Give a worker process; kill it at the end, or after WORK_SECONDS (TimeoutError)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ds_sync.server.documents.worker",
        adapter,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    _make_way(process.pid)
    try:
        async with asyncio.timeout(WORK_SECONDS):
            yield ProcessWorker(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _make_way(pid: int) -> None:
    # From its first moment on: to start Python and load the CRDT library keeps a core busy for 0.2 s.
    if hasattr(os, "setpriority"):
        with suppress(ProcessLookupError):  # it has ended already, as the first message to it will say
            os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
