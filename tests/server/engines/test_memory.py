import pytest

from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.testing.engine_contract import OpenEngine, StorageEngineContract
from ds_sync.testing.engine_fork_contract import EngineForkContract


class TestMemoryEngine(StorageEngineContract, EngineForkContract):
    @pytest.fixture
    def open_engine(self) -> OpenEngine:
        return MemoryEngine
