"""The engine kit catches engines that break its laws: each subject here breaks one."""

import subprocess
import sys
from pathlib import Path

import pytest

PREAMBLE = """
import pytest
from dataclasses import replace
from ds_sync.protocol.decisions import Decision, StreamView
from ds_sync.protocol.history import START, Place
from ds_sync.server.engines.base import Run, diverged
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.testing.engine_contract import StorageEngineContract
from ds_sync.testing.engine_fork_contract import EngineForkContract

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

BROKEN = {
    "loses the last record of a page": (
        """
        class Engine(MemoryEngine):
            async def read(self, path, after, limit):
                run = await super().read(path, after, limit)
                return replace(run, records=run.records[:-1])
        """,
        "byte_for_byte",
    ),
    "never checks a history": (
        """
        class Engine(MemoryEngine):
            async def read(self, path, after, limit):
                for place in self._places.get(path, []):
                    if after is not None and place.position == after.position:
                        after = place
                return await super().read(path, after, limit)
        """,
        "another_history",
    ),
    "takes check plus one for another place": (
        """
        class Engine(MemoryEngine):
            async def read(self, path, after, limit):
                if after is not None and after not in self._places.get(path, [after]):
                    raise diverged(self._views[path].state)
                return await super().read(path, after, limit)
        """,
        "check_plus_one",
    ),
    "stores what a refused decision made": (
        """
        class Engine(MemoryEngine):
            async def transact(self, paths, decide, *, producer=None):
                try:
                    return await super().transact(paths, decide, producer=producer)
                except Exception:
                    for path in paths:
                        self._views.pop(path, None)
                    raise
        """,
        "refusal_stores_nothing",
    ),
    "lets two transactions decide on one state": (
        """
        import asyncio
        class Engine(MemoryEngine):
            async def transact(self, paths, decide, *, producer=None):
                old = [self._views.get(path) or StreamView(None, {}) for path in paths]
                old = [StreamView(view.state, dict(view.producers)) for view in old]
                await asyncio.sleep(0)
                return await super().transact(paths, lambda views: decide(old), producer=producer)
        """,
        "one_line",
    ),
    "forgets producers": (
        """
        class Engine(MemoryEngine):
            async def transact(self, paths, decide, *, producer=None):
                for path in paths:
                    self._producers.get(path, {}).clear()
                return await super().transact(paths, decide, producer=producer)
        """,
        "accepted_once",
    ),
    "deletes by prefix": (
        """
        class Engine(MemoryEngine):
            async def transact(self, paths, decide, *, producer=None):
                result = await super().transact(paths, decide, producer=producer)
                for path in paths:
                    if self._views[path].state.deleted:
                        for other in [name for name in self._views if name.startswith(path) and name != path]:
                            del self._views[other]
                return result
        """,
        "strangers",
    ),
    "keeps the producers of an earlier life": (
        """
        class Engine(MemoryEngine):
            def _apply(self, path, change):
                kept = dict(self._producers.get(path, {}))
                super()._apply(path, change)
                self._producers[path].update({name: state for name, state in kept.items() if name not in self._producers[path]})
        """,
        "new_life",
    ),
    "says durable and is not": (
        """
        class Engine(MemoryEngine):
            durable = True
        """,
        "after_reopening",
    ),
    "tells watchers before the commit": (
        """
        class Engine(MemoryEngine):
            def watch(self, watcher):
                return lambda: None
        """,
        "watchers",
    ),
    "answers after it was closed": (
        """
        class Engine(MemoryEngine):
            def _require_open(self):
                pass
        """,
        "after_close",
    ),
    "ignores the limit": (
        """
        class Engine(MemoryEngine):
            async def read(self, path, after, limit):
                return await super().read(path, after, 1 << 30)
        """,
        "limit",
    ),
    "reads on in a source past the seam": (
        """
        class Engine(MemoryEngine):
            def _read_own(self, path, after, limit):
                return super()._read_own(path, after, 1 << 30)
        """,
        "its_source_up_to_where_they_part",
    ),
    "drops what an ended source held": (
        """
        class Engine(MemoryEngine):
            def _apply(self, path, change):
                super()._apply(path, change)
                if change.state.kept:
                    self._records[path], self._places[path] = [], [START]
        """,
        "a_source_that_ended",
    ),
    "lists what has ended": (
        """
        class Engine(MemoryEngine):
            async def list(self, glob):
                return sorted(self._views)
        """,
        "a_source_that_ended",
    ),
    "counts who is gone": (
        """
        class Engine(MemoryEngine):
            def count(self):
                return len(self._views)
        """,
        "counted_as_they_come_and_go",
    ),
    "begins every history at the start": (
        """
        class Engine(MemoryEngine):
            def _apply(self, path, change):
                super()._apply(path, change)
                if change.fresh:
                    self._places[path][0] = START
        """,
        "parted",
    ),
    "stops a page at the seam": (
        """
        class Engine(MemoryEngine):
            async def read(self, path, after, limit):
                state = self._views[path].state if path in self._views else None
                if state and state.origin and after and after.position < state.origin.position:
                    limit = min(limit, state.origin.position - after.position)
                return await super().read(path, after, limit)
        """,
        "goes_on_over_the_seam",
    ),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All subjects in one run of pytest: starting it costs more than the tests."""
    folder: Path = tmp_path_factory.mktemp("broken")
    for number, (source, _) in enumerate(BROKEN.values()):
        lines = source.splitlines()
        indent = len(lines[1]) - len(lines[1].lstrip())
        subject = "\n".join(line[indent:] for line in lines)
        test = """
class TestBroken(StorageEngineContract, EngineForkContract):
    @pytest.fixture
    def open_engine(self):
        return Engine
"""
        (folder / f"test_subject{number}.py").write_text(PREAMBLE + subject + test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-rf", "--tb=no", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False).stdout


@pytest.mark.parametrize("name", BROKEN)
def test_the_kit_catches_an_engine_that(name: str, report: str) -> None:
    number = list(BROKEN).index(name)
    failures = [line for line in report.splitlines() if line.startswith(f"FAILED test_subject{number}.py")]
    assert any(BROKEN[name][1] in line for line in failures), report
