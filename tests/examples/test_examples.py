from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ds_sync.testing.server_process import ServerProcess

EXAMPLES = Path(__file__).parents[2] / "examples"
HELLO = EXAMPLES / "hello.py"


def test_hello_meets_the_other_device(tmp_path: Path) -> None:
    with ServerProcess() as server:
        for device, expected in (("one.db", "hello "), ("two.db", "hello")):
            done = subprocess.run(
                [sys.executable, str(HELLO), str(tmp_path / device), server.url], capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(expected)
        assert done.stdout.startswith("hellohello ")


def test_the_demo_session_is_the_packages() -> None:
    session = json.loads((EXAMPLES / "demo_session.json").read_text("utf-8"))
    assert list(session) == ["title", "together", "offline", "server down", "back"]
    assert session == json.loads((EXAMPLES.parent / "ds_sync" / "cli" / "demo_session.json").read_text("utf-8"))
