"""Streams in one SQLite file: WAL, synchronous=FULL, one writer, group commit.

Decisions run on the event loop against the newest states in memory, and what they change is queued. One task drains the
queue: everything that came while the last commit was written goes into the next, as a few statements run off the loop.
When that commit is durable all of its transactions return, and readers see it. If it fails, the states in memory go back to
the durable ones, and all that was queued on top fails too: nothing was told to anybody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from ds_sync.environment import RunInThread
from ds_sync.exceptions import ClosedError, CorruptFileError, StoreError
from ds_sync.ownership import Ownership
from ds_sync.protocol.history import START, Place
from ds_sync.protocol.producer import ProducerState
from ds_sync.protocol.state import Change, StreamState, StreamView
from ds_sync.server.engines.base import INTERNAL, Decide, Done, Records, Run, Watcher, diverged, find_owners, require_kept
from ds_sync.server.engines.globs import compile_glob
from ds_sync.server.engines.layout import Connect, build_state, connect, open_file, settings_of, spell
from ds_sync.server.engines.shelf import NOTHING, RecentRecords, Stream, load_shelf, start_of
from ds_sync.server.engines.writing import (
    LogRow,
    mark_version,
    producer_row,
    read_file,
    remove_before,
    remove_life,
    stream_row,
    write_commit,
    write_settlement,
)

R = TypeVar("R")

log = logging.getLogger(__name__)

SETTLE_ROWS: Final = 10_000
"""Log rows after which the lower tables are brought up to date: what opening the file has to read at most."""

REMOVE_ROWS: Final = 1_000
"""Records of a deleted stream removed at a time, between two commits."""


class _Step:
    """One change under way: the log row it becomes, and how to take it back."""

    __slots__ = ("before", "came", "earlier", "named", "record", "row", "state", "stream")

    def __init__(self, stream: Stream, earlier: Stream | None, change: Change, row: LogRow, came: int) -> None:
        self.stream = stream
        self.earlier = earlier
        """The life this change ends, if it does."""
        self.before = stream.newest.state
        self.named = change.producer
        self.state = change.state
        self.record = change.record
        self.row = row
        self.came = came
        """By how many there are more listed streams now: 1, 0 or -1."""


class _Commit:
    """One transaction under way, and whom to tell how it went."""

    __slots__ = ("_done", "_refusal", "_result", "steps")

    def __init__(self, steps: list[tuple[_Step, ProducerState | None]], done: Done[Any], result: object, refusal: Exception | None) -> None:
        self.steps = steps
        """With what was known of the step's producer before."""
        self._done = done
        self._result = result
        self._refusal = refusal

    def tell(self, error: Exception | None) -> None:
        """Tell it: it is durable, or `error`."""
        try:
            self._done(self._result, error or self._refusal)
        except Exception:  # the others must be told, too
            log.exception("an answer failed")


class SqliteEngine:
    """A StorageEngine in one file, which it owns: a second one raises FileInUseError.

    `run_in_thread` runs the blocking calls; by default two threads of the engine's own do, one for writing, one for reading.
    `connect` opens the file; `ds_sync.testing.power` has one whose power can be cut.
    Raises CorruptFileError and NewerFileError, and then leaves the file as it is.
    """

    durable = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        run_in_thread: RunInThread | None = None,
        settle_rows: int = SETTLE_ROWS,
        recent_bytes: int = 32 * 1024 * 1024,
        connect: Connect = connect,
    ) -> None:
        self._path = Path(path)
        self._ownership = Ownership(self._path, "server")
        try:
            self._writer = open_file(self._path, connect)
            try:
                self._shelf = load_shelf(self._writer)
                mark_version(self._writer)
                self._reader = connect(self._path, readonly=True)
            except (sqlite3.Error, KeyError, ValueError, TypeError, StoreError) as error:
                self._writer.close()
                if isinstance(error, StoreError):
                    raise
                raise CorruptFileError(f"{self._path} is damaged: {error}") from error
        except BaseException:
            self._ownership.release()
            raise
        self._settle_rows = settle_rows
        self._recent = RecentRecords(recent_bytes)
        self._pools: list[ThreadPoolExecutor] = []
        self._run_writer = run_in_thread or self._own_thread("ds-sync-writer")
        self._run_reader = run_in_thread or self._own_thread("ds-sync-reader")
        self._queue: list[_Commit] = []
        self._flushing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers: list[Watcher] = []
        streams = self._shelf.durable.values()
        self._count = sum(_is_listed(stream.path, stream.durable) for stream in streams)
        self._closed = False

    async def transact(self, paths: Sequence[str], decide: Decide[R], *, producer: str | None = None) -> R:
        """Decide now, return when durable."""
        if self._loop is None or self._flushing is None:
            self._loop = asyncio.get_running_loop()  # kept while commits are under way: Python 3.11 asks the kernel each time
        future: asyncio.Future[R] = self._loop.create_future()

        def done(result: R | None, error: Exception | None) -> None:
            if future.done():
                return  # whoever waited was cancelled
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]  # there is a result where there is no error
            else:
                future.set_exception(error)

        self._submit(paths, decide, done)
        return await future

    def submit(self, path: str, decide: Decide[R], done: Done[R]) -> None:
        """Decide now; `done` when durable."""
        try:
            self._submit((path,), decide, done)
        except ClosedError as error:
            done(None, error)

    def _submit(self, paths: Sequence[str], decide: Decide[R], done: Done[R]) -> None:
        self._require_open()
        newest = self._shelf.newest
        streams = [newest.get(path) for path in paths]
        steps: list[tuple[_Step, ProducerState | None]] = []
        result: R | None = None
        refusal: Exception | None = None
        try:
            decision = decide([NOTHING if stream is None else stream.newest for stream in streams])
        except Exception as error:
            refusal = error
        else:
            result = decision.result
            for path, stream, change in zip(paths, streams, decision.changes, strict=True):
                if change is not None:
                    steps.append(self._stage(path, stream, change))
        # A refusal, too, may rest on a state that is not durable yet; it is told when that is.
        if not steps and not _any_pending(streams):
            done(result, refusal)
            return
        self._queue.append(_Commit(steps, done, result, refusal))
        if self._flushing is None:
            self._flushing = asyncio.ensure_future(self._flush())

    async def read(self, path: str, after: Place | None, limit: int) -> Run:
        """Read from memory what is recent, from the file what is not."""
        run = self.read_now(path, after, limit)
        if run is not None:
            return run
        stream = self._shelf.durable.get(path)
        state = None if stream is None else stream.durable
        if stream is None or state is None or after is None:
            raise AssertionError("that is answered from memory")
        if state.origin is not None and after.position < state.origin.position:
            found = await self._read_through(state, path, after, limit)
        else:
            found = await self._read_file(stream, after, limit)
        if self._shelf.durable.get(path) is not stream:
            return await self.read(path, after, limit)
        if found is None:
            if stream.durable is not None and stream.durable.earliest != state.earliest:
                return await self.read(path, after, limit)
            raise diverged(state)
        return Run(state, found[0], found[1])

    def read_now(self, path: str, after: Place | None, limit: int) -> Run | None:
        """Read what is recent; None for what stands in the file."""
        self._require_open()
        stream = self._shelf.durable.get(path)
        state = None if stream is None else stream.durable
        if stream is None or state is None or state.deleted or state.kept:
            return Run(state, (), after or START)
        if after is None:
            return Run(state, (), state.place)
        if after.position == state.position:
            if not after.matches(state.place):
                raise diverged(state)
            return Run(state, (), after)
        if after.position > state.position:
            raise diverged(state)
        require_kept(state, after)
        if state.origin is not None and after.position < state.origin.position:
            return None
        found = self._recent.read(stream, after, limit)
        return None if found is None else Run(state, found[0], found[1])

    def state_of(self, path: str) -> StreamState | None:
        """Look it up."""
        stream = self._shelf.durable.get(path)
        return None if stream is None else stream.durable

    async def list(self, glob: str) -> list[str]:
        """Match against all paths."""
        self._require_open()
        matches = compile_glob(glob).fullmatch
        streams = self._shelf.durable.values()
        return sorted(stream.path for stream in streams if stream.durable is not None and stream.durable.listed and matches(stream.path))

    def count(self) -> int:
        """Counted as they come and go."""
        return self._count

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` once for each commit of the file."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    async def aclose(self) -> None:
        """Finish what is queued, settle, close the file and give it up."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._flushing is not None:
                await self._flushing
            await self._settle()
        except StoreError as error:
            log.warning("%s could not be settled: %s; opening it will take longer", self._path, error)
        finally:
            for pool in self._pools:
                pool.shutdown(wait=True)
            self._reader.close()
            self._writer.close()
            self._ownership.release()

    async def _read_file(self, stream: Stream, after: Place, limit: int) -> Records | None:
        base = START if stream.durable is None else stream.durable.base
        unsettled = [entry for entry in stream.unsettled if entry[0] >= after.position]
        found: Records | None = await self._run_reader(read_file, self._reader, stream.id, base, after, limit, stream.settled, unsettled)
        return found

    async def _read_through(self, state: StreamState, path: str, after: Place, limit: int) -> Records | None:
        """Read a fork from before its own records on, as far as one page goes."""
        records: list[bytes] = []
        for owner, bound in find_owners(state, path, after, self._require_state):
            if bound <= after.position:
                continue
            stream, size = self._shelf.durable[owner], min(limit, bound - after.position)
            found = self._recent.read(stream, after, size) or await self._read_file(stream, after, size)
            if found is None:
                return None
            limit -= found[1].position - after.position
            if records and limit < 0:
                break  # only a page's first record may be above its limit
            records += found[0]
            after = found[1]
            if after.position < bound or limit <= 0:
                break
        return tuple(records), after

    def _require_state(self, path: str) -> StreamState:
        state = self._shelf.durable[path].durable
        if state is None:
            raise AssertionError("a source lives as long as its forks")
        return state

    def _stage(self, path: str, stream: Stream | None, change: Change) -> tuple[_Step, ProducerState | None]:
        shelf, earlier, state = self._shelf, None, change.state
        text: dict[str, Any] = {}
        if stream is None or change.fresh:
            earlier, stream = stream, Stream(shelf.next_stream, path)
            shelf.next_stream += 1
            shelf.newest[path] = stream
        before = stream.newest.state
        producers = stream.producers
        came = 0
        if before is None or settings_of(before) != settings_of(state):
            text["state"] = build_state(path, state)
            last = earlier.newest.state if earlier is not None else before
            came = _is_listed(path, state) - _is_listed(path, last)
        known = None
        if change.producer is not None:
            name, made = change.producer
            known = producers.get(name)
            text["producer"] = (name, made.epoch, made.seq, made.digest.hex())
        row: LogRow = (shelf.next_log, stream.id, state.position, state.running, spell(text) if text else None, change.record)
        shelf.next_log += 1
        step = _Step(stream, earlier, change, row, came)
        if change.producer is not None:
            producers[change.producer[0]] = change.producer[1]
        stream.newest = StreamView(state, producers)
        stream.pending += 1
        return step, known

    async def _flush(self) -> None:
        shelf = self._shelf
        written: list[_Commit] = []
        """Durable, and not told yet: that is done while the next ones are written."""
        try:
            while self._queue or shelf.removable or shelf.trimmable:
                batch, self._queue = self._queue, []
                rows = [step.row for commit in batch for step, _ in commit.steps]
                writing = self._run_writer(write_commit, self._writer, rows) if rows else None
                self._publish(written)
                written = []
                try:
                    if writing is not None:
                        await writing
                except StoreError as error:
                    self._take_back(batch + self._queue, error)
                    self._queue = []
                    continue
                except Exception as error:
                    # Nobody expected this one; whoever waits must not wait for ever.
                    log.exception("a commit to %s failed", self._path)
                    self._take_back(batch + self._queue, StoreError(f"the commit failed: {error!r}"))
                    self._queue = []
                    continue
                if rows:
                    shelf.last_log = rows[-1][0]
                due = shelf.last_log - shelf.settled >= self._settle_rows
                if self._queue and not due:
                    written = batch
                    continue
                self._publish(batch)
                try:
                    if due:
                        await self._settle()
                    elif (shelf.removable or shelf.trimmable) and not self._queue:
                        await self._remove_some()
                except StoreError as error:
                    # Everything is in the log; what is left over takes space and nothing else. The next commit tries again.
                    log.warning("%s could not be tidied up: %s", self._path, error)
                    if not self._queue:
                        break
        finally:
            self._flushing = None

    def _publish(self, batch: Sequence[_Commit]) -> None:
        shelf = self._shelf
        changed: dict[str, None] = {}
        for commit in batch:
            for step, _ in commit.steps:
                stream, state = step.stream, step.state
                before = stream.durable
                stream.durable = state
                stream.pending -= 1
                self._count += step.came
                if before is None:
                    shelf.durable[stream.path] = stream
                    if step.earlier is not None:
                        shelf.ended.append(step.earlier.id)
                if step.record is not None:
                    start = (before.position, before.running) if before is not None else start_of(state)
                    stream.unsettled.append((state.position, state.running, step.row[0]))
                    self._recent.add(stream, start, step.record, (state.position, state.running))
                if step.named is not None:
                    shelf.dirty_producers[stream.id, step.named[0]] = step.named[1]
                shelf.dirty[stream.id] = stream
                changed[stream.path] = None
        for commit in batch:
            commit.tell(None)
        if changed:
            for watcher in tuple(self._watchers):
                watcher(changed)

    def _take_back(self, batch: Sequence[_Commit], error: StoreError) -> None:
        shelf = self._shelf
        for commit in reversed(batch):
            for step, known in reversed(commit.steps):
                stream = step.stream
                stream.pending -= 1
                if step.before is None:
                    if step.earlier is None:
                        del shelf.newest[stream.path]
                    else:
                        shelf.newest[stream.path] = step.earlier
                if step.named is not None and known is not None:
                    stream.producers[step.named[0]] = known
                elif step.named is not None:
                    del stream.producers[step.named[0]]
                stream.newest = StreamView(step.before, stream.producers)
        for commit in batch:
            commit.tell(type(error)(*error.args))

    async def _settle(self) -> None:
        shelf = self._shelf
        streams, producers, ended = shelf.dirty, shelf.dirty_producers, shelf.ended
        if not streams and not ended:
            return
        upto = shelf.last_log
        await self._run_writer(
            write_settlement,
            self._writer,
            shelf.settled,
            upto,
            [stream_row(stream) for stream in streams.values()],
            [producer_row(stream, name, state) for (stream, name), state in producers.items()],
        )
        for stream in streams.values():
            stream.unsettled = []
            stream.settled = 0 if stream.durable is None else stream.durable.position
            if stream.durable is not None and stream.durable.earliest is not None:
                shelf.trimmable[stream.id] = stream.durable.earliest.position
        shelf.settled = upto
        shelf.dirty, shelf.dirty_producers, shelf.ended = {}, {}, []
        shelf.removable += ended

    async def _remove_some(self) -> None:
        if not self._shelf.removable:
            life, position = next(iter(self._shelf.trimmable.items()))
            if not await self._run_writer(remove_before, self._writer, life, position, REMOVE_ROWS):
                del self._shelf.trimmable[life]
            return
        life = self._shelf.removable[-1]
        if not await self._run_writer(remove_life, self._writer, life, REMOVE_ROWS):
            self._shelf.removable.remove(life)

    def _own_thread(self, name: str) -> RunInThread:
        pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._pools.append(pool)

        def run(call: Callable[..., Any], *args: Any) -> Any:
            return asyncio.get_running_loop().run_in_executor(pool, call, *args)

        return run

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError("the engine was closed")


def _is_listed(path: str, state: StreamState | None) -> bool:
    return state is not None and state.listed and not path.startswith(INTERNAL)


def _any_pending(streams: Sequence[Stream | None]) -> bool:
    return any(stream is not None and stream.pending for stream in streams)
