"""`ds-sync demo` with the official JavaScript provider in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.interop


def test_the_story_ends_well_with_the_official_provider(node: str) -> None:
    environment = {**os.environ, "PATH": f"{Path(node).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-m", "ds_sync.cli.main", "demo"], capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Cleo joins them in JavaScript" in done.stdout
    assert "All three have the same text: all 224 characters that were typed, each exactly once." in done.stdout
