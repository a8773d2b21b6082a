import pytest

from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.testing.engine_contract import OpenEngine, StorageEngineContract


class TestMemoryEngine(StorageEngineContract):
    @pytest.fixture
    def open_engine(self) -> OpenEngine:
        return MemoryEngine
