import os
from pathlib import Path

import pytest

TRACES = Path(os.environ.get("DS_SYNC_TRACES", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
