import os
from pathlib import Path

import pytest

TRACES = Path(os.environ.get("DS_SYNC_TRACES", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=50, help="tests/kills: how often somebody is killed")
    parser.addoption("--room-rounds", type=int, default=None, help="tests/kills: those of the y-websocket gateway; a fifth of --rounds")
    parser.addoption("--kill-seed", type=int, default=None, help="tests/kills: play only this seed")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name tests after bytes only where these can be read: others may be made by chance, and the same test must have one name."""
    return argname if isinstance(val, bytes) and not (val.isascii() and val.decode().isprintable()) else None
