import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def node() -> str:
    """The path of Node.js, with the packages it needs installed."""
    done = subprocess.run([sys.executable, str(Path(__file__).parent / "node.py")], capture_output=True, text=True)
    if done.returncode:
        pytest.fail(done.stderr)
    return done.stdout.strip()
