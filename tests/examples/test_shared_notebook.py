from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

if os.name == "posix":
    import pty

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


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_ctrl_c_ends_it_without_a_word_and_loses_nothing(tmp_path: Path) -> None:
    file = str(tmp_path / "Ada.db")
    nobody = "http://127.0.0.1:9"
    process, terminal = pty.fork()
    if not process:
        os.execv(sys.executable, [sys.executable, str(NOTEBOOK), file, nobody, "Ada"])
    os.write(terminal, b"kept\n")
    seen = b""
    while b"1 to send" not in seen:
        seen += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGINT
    os.close(terminal)
    again = subprocess.Popen([sys.executable, str(NOTEBOOK), file, nobody, "Ada"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert again.stdout is not None
    assert again.stdout.readline() == "Ada: kept\n"
    again.kill()
    again.communicate()
