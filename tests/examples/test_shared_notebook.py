from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ds_sync.testing.server_process import ServerProcess

NOTEBOOK = Path(__file__).parents[2] / "examples" / "shared_notebook.py"


def test_it_has_30_lines() -> None:
    assert len(NOTEBOOK.read_text("utf-8").splitlines()) <= 35
    assert len([line for line in NOTEBOOK.read_text("utf-8").splitlines() if line.strip()]) <= 30


def test_what_one_writes_the_other_reads(tmp_path: Path) -> None:
    with ServerProcess() as server:
        said = {}
        for name, text in (("Ada", "hello\nare you there?\n"), ("Bob", "yes\n"), ("Ada", "good\n")):
            command = [sys.executable, str(NOTEBOOK), str(tmp_path / f"{name}.db"), server.url, name]
            done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            said[name] = [line for line in done.stdout.splitlines() if not line.startswith("  [")]
            assert "to send, here: " in done.stdout
    assert sorted(said["Bob"]) == ["Ada: are you there?", "Ada: hello", "Bob: yes"]
    assert sorted(said["Ada"]) == ["Ada: are you there?", "Ada: good", "Ada: hello", "Bob: yes"]
