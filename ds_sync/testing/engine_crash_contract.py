"""The laws of a durable StorageEngine under kills and power cuts, at every step it takes.

Derive from `EngineCrashContract`, give it a `storage` fixture, and pytest runs a day in an engine's life, takes what a kill and what a
power cut would leave at each step on the way, and opens all of that again:

    class TestMyEngine(EngineCrashContract):
        @pytest.fixture
        def storage(self, tmp_path):
            return SqliteStorage(tmp_path, lambda path, connect: MyEngine(path / "streams.db", connect=connect))

An engine on SQLite takes how it connects as a parameter and runs its blocking calls at once. Any other engine brings a storage of its
own: four methods (`CrashStorage`).
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from ds_sync.server.engines.base import StorageEngine
from ds_sync.testing.engine_ledger import Ledger, live_a_day, require_laws

MEMORY: Final = Path("/dev/shm")


class CrashStorage(Protocol):
    """Where one engine keeps its streams, with a record of what is safe."""

    def open(self, on_step: Callable[[str], None]) -> StorageEngine:
        """Open the engine on empty storage. `on_step` is called, in the caller's thread, before each thing it does to the disk."""
        ...

    def leave_killed(self, folder: Path) -> None:
        """Write to the empty `folder` what the death of the process would leave now."""
        ...

    def leave_cut(self, folder: Path, rng: random.Random | None) -> None:
        """Write to the empty `folder` what a power cut would leave now; without `rng` only what is certain."""
        ...

    def reopen(self, folder: Path) -> StorageEngine:
        """Open what was left, without any record."""
        ...


class SqliteStorage:
    """A CrashStorage for engines on SQLite. Needs apsw."""

    def __init__(self, folder: Path, open_engine: Callable[..., StorageEngine], *, name: str = "streams.db") -> None:
        """`open_engine(path)` opens the file as always, `open_engine(path, connect=...)` by the given way to connect.

        With `connect`, the engine's blocking calls must run at once, in the thread of the event loop.
        """
        from ds_sync.testing.power import PowerDisk

        self._disk = PowerDisk()
        self._path = folder / name
        self._open_engine = open_engine

    def open(self, on_step: Callable[[str], None]) -> StorageEngine:
        self._disk.on_step = on_step
        return self._open_engine(self._path, connect=self._disk.connect)

    def leave_killed(self, folder: Path) -> None:
        self._disk.leave_killed(self._path, folder / self._path.name)

    def leave_cut(self, folder: Path, rng: random.Random | None) -> None:
        self._disk.leave_cut(self._path, folder / self._path.name, rng)

    def reopen(self, folder: Path) -> StorageEngine:
        return self._open_engine(folder / self._path.name)


async def run_at_once(call: Callable[..., Any], /, *args: Any) -> Any:
    """Run a blocking call here and now: for an engine's `run_in_thread`."""
    return call(*args)


@dataclass(frozen=True, slots=True)
class Moment:
    """What was left at a step, and what had been promised by then."""

    name: str
    folder: Path
    ledger: Ledger


class EngineCrashContract:
    """The laws, a test for each kind of end. Both look at every step: statements, and writes and syncs of files."""

    pytestmark = pytest.mark.anyio

    seed = 1

    @pytest.fixture
    def left(self, tmp_path: Path) -> Iterator[Path]:
        """A folder for what was left: in memory if there is such a place, because it is opened hundreds of times."""
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else tmp_path) as folder:
            yield Path(folder)

    async def test_a_kill_at_any_step_loses_nothing_that_returned_and_leaves_nothing_half(self, storage: CrashStorage, left: Path) -> None:
        moments = await self._live(storage, left, {"killed": storage.leave_killed})
        await self._require_all(storage, moments)

    async def test_a_power_cut_at_any_step_loses_nothing_that_returned_and_leaves_nothing_half(
        self, storage: CrashStorage, left: Path
    ) -> None:
        rng = random.Random(self.seed)
        kinds = {
            "power cut": lambda folder: storage.leave_cut(folder, None),
            "power cut, some sectors written": lambda folder: storage.leave_cut(folder, rng),
        }
        moments = await self._live(storage, left, kinds)
        await self._require_all(storage, moments)

    async def _live(self, storage: CrashStorage, folder: Path, kinds: Mapping[str, Callable[[Path], None]]) -> list[Moment]:
        ledger, moments = Ledger(), list[Moment]()
        seen: dict[str, tuple[object, dict[str, bytes]]] = {}

        def receive_step(step: str) -> None:
            for kind, leave in kinds.items():
                left = folder / f"{len(moments):05}"
                left.mkdir()
                leave(left)
                now = ledger.mark(), {file.name: file.read_bytes() for file in left.iterdir()}
                if seen.get(kind) == now:  # nothing has changed since the step before
                    for file in left.iterdir():
                        file.unlink()
                    left.rmdir()
                    continue
                seen[kind] = now
                moments.append(Moment(f"{kind} before step {step[:60]!r}, after {ledger.last}", left, ledger.copy()))

        engine = storage.open(receive_step)
        await live_a_day(engine, ledger, random.Random(self.seed))
        await engine.aclose()
        receive_step("the end")
        assert len(moments) > 40, "the storage reported hardly any steps"
        return moments

    async def _require_all(self, storage: CrashStorage, moments: list[Moment]) -> None:
        for moment in moments:
            await require_laws(moment.ledger, partial(storage.reopen, moment.folder), moment.name)
