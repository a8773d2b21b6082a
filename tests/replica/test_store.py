"""The local store obeys its kit; kills and power cuts at every point; what the file shows of them."""

import pytest

from ds_sync.replica.store import LocalStore
from ds_sync.testing.store_contract import LocalStoreContract, OpenStore


class TestLocalStore(LocalStoreContract):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        return LocalStore
