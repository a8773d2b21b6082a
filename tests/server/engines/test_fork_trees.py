"""Forests of forks against a model: whatever is made, ended and reopened, everybody reads what they should, and nothing is left over."""

import asyncio
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_sync.environment import Environment
from ds_sync.exceptions import ConflictError, GoneError, NotFoundError, StorageFullError
from ds_sync.protocol.decisions import CreateRequest
from ds_sync.protocol.history import START, Place
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.server.lives import Lives
from ds_sync.testing.engine_contract import BINARY, append, read_all
from ds_sync.testing.engine_fork_contract import end, fork

PATHS = ("a", "b", "c", "d")


@dataclass
class Model:
    """A stream as it should be."""

    source: str | None = None
    records: list[bytes] = field(default_factory=list)
    places: list[Place] = field(default_factory=lambda: [START])
    ended: bool = False


class Forest:
    """The streams, in an engine and in the model."""

    def __init__(self, engine: StorageEngine) -> None:
        self.engine = engine
        self.streams: dict[str, Model] = {}
        self.lives = 0

    def forks(self, path: str) -> int:
        return sum(model.source == path for model in self.streams.values())

    def alive(self, path: str) -> bool:
        return path in self.streams and not self.streams[path].ended

    async def make(self, path: str) -> None:
        self.lives += 1
        create = Lives(self.engine, Environment()).create(CreateRequest(path, BINARY, f"{self.lives:032x}"))
        known = self.streams.get(path)
        if known is None:
            assert (await create).created
            self.streams[path] = Model()
        elif known.ended or known.source is not None:
            with pytest.raises(ConflictError):
                await create
        else:
            assert not (await create).created

    async def write(self, path: str, size: int) -> None:
        body = b"%s%d" % (path.encode(), self.lives) * size
        if self.alive(path):
            model = self.streams[path]
            model.places.append((await append(self.engine, path, body)).state.place)
            model.records.append(body)
        else:
            with pytest.raises((NotFoundError, GoneError)):
                await append(self.engine, path, body)

    async def branch(self, path: str, source: str, at: int, sub_offset: int) -> None:
        self.lives += 1
        life = f"{self.lives:032x}"
        if path in self.streams or not self.alive(source):
            with pytest.raises((NotFoundError, ConflictError)):
                await fork(self.engine, path, source, life, place=START, sub_offset=99)  # of no fork here
            return
        parent = self.streams[source]
        at %= len(parent.places)
        taken = parent.records[at][:sub_offset] if at < len(parent.records) else b""
        state = await fork(self.engine, path, source, life, place=parent.places[at], sub_offset=len(taken))
        model = self.streams[path] = Model(source, parent.records[:at], parent.places[: at + 1])
        if taken:
            model.records.append(taken)
            model.places.append(state.place)
        assert state.place == model.places[-1]

    async def finish(self, path: str) -> None:
        if not self.alive(path):
            with pytest.raises((NotFoundError, GoneError)):
                await end(self.engine, path)
            return
        await end(self.engine, path)
        self.streams[path].ended = True
        gone: str | None = path
        while gone is not None and self.streams[gone].ended and not self.forks(gone):
            gone = self.streams.pop(gone).source

    async def check(self) -> None:
        assert await self.engine.list("*") == sorted(path for path in self.streams if self.alive(path))
        for path in PATHS:
            state = (await self.engine.read(path, None, 0)).state
            model = self.streams.get(path)
            if model is None:
                assert state is None or state.deleted
                continue
            assert state is not None
            assert (state.deleted, state.kept, state.forks) == (False, model.ended, self.forks(path))
            if not model.ended:
                for number, place in enumerate(model.places):
                    for limit in (5, 1 << 20):
                        assert await read_all(self.engine, path, place, limit) == model.records[number:]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.sampled_from(PATHS)),
        st.tuples(st.just("write"), st.sampled_from(PATHS), st.integers(1, 3)),
        st.tuples(st.just("write"), st.sampled_from(PATHS), st.integers(1, 3)),
        st.tuples(st.just("branch"), st.sampled_from(PATHS), st.sampled_from(PATHS), st.integers(0, 5), st.integers(0, 2)),
        st.tuples(st.just("branch"), st.sampled_from(PATHS), st.sampled_from(PATHS), st.integers(0, 5), st.integers(0, 2)),
        st.tuples(st.just("finish"), st.sampled_from(PATHS)),
    ),
    min_size=5,
    max_size=25,
)


SEED: list[tuple[object, ...]] = [("make", "a"), ("write", "a", 1), ("write", "a", 2), ("write", "a", 1), ("branch", "b", "a", 3, 0)]


async def grow(forest: Forest, steps: list[tuple[object, ...]]) -> None:
    for name, *arguments in SEED + steps:
        await getattr(forest, str(name))(*arguments)
    await forest.check()


@settings(max_examples=200, deadline=None)
@given(steps=STEPS)
def test_forests_in_memory(steps: list[tuple[object, ...]]) -> None:
    asyncio.run(grow(Forest(MemoryEngine()), steps))


@settings(max_examples=30, deadline=None)
@given(steps=STEPS, settle_rows=st.sampled_from([1, 3, 1000]), recent_bytes=st.sampled_from([0, 600, 1 << 20]))
def test_forests_in_a_file_that_is_opened_again_and_emptied(steps: list[tuple[object, ...]], settle_rows: int, recent_bytes: int) -> None:
    async def run(path: Path) -> None:
        forest = Forest(SqliteEngine(path, settle_rows=settle_rows, recent_bytes=recent_bytes))
        await grow(forest, steps)
        for settled in (settle_rows, 1):
            await forest.engine.aclose()
            forest.engine = SqliteEngine(path, settle_rows=settled, recent_bytes=recent_bytes)
            await forest.check()
        for name in PATHS:
            if forest.alive(name):
                await forest.finish(name)
        assert forest.streams == {}
        await forest.make("last")
        await forest.engine.aclose()

    with TemporaryDirectory() as folder:
        path = Path(folder) / "streams.db"
        asyncio.run(run(path))
        connection = sqlite3.connect(path)
        assert connection.execute("SELECT count(*) FROM log WHERE data IS NOT NULL").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM place").fetchone() == (0,)
        connection.close()


@pytest.mark.anyio
async def test_a_fork_that_finds_no_space_is_not_counted(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "streams.db")
    await Lives(engine, Environment()).create(CreateRequest("s", BINARY, "a" * 32))
    state = (await append(engine, "s", b"shared")).state
    pages = engine._writer.execute("PRAGMA page_count").fetchone()[0]
    engine._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StorageFullError):
        await fork(engine, "f", "s", "b" * 32, body=b"x" * 100_000)
    assert (await engine.read("s", None, 0)).state == state
    assert (await engine.read("f", None, 0)).state is None
    engine._writer.execute("PRAGMA max_page_count = 1000000")
    await fork(engine, "f", "s", "c" * 32, body=b"own")
    assert await read_all(engine, "f") == [b"shared", b"own"]
    await engine.aclose()
