from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ds_sync import __version__


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ds_sync.cli.main", *arguments], capture_output=True, text=True, timeout=60)


def test_help_names_every_command_and_imports_none() -> None:
    program = "import sys, ds_sync.cli.main as m\ntry: m.main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    for command in ("serve", "stream", "replay", "demo"):
        assert f"\n  {command} " in done.stdout
    assert not {"pycrdt", "httpx", "rich", "sqlite3", "granian", "asyncio"} & set(done.stdout.split("\n")[-2].split())


def test_version() -> None:
    assert run("--version").stdout == f"ds-sync, version {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonesuch",),
        ("replay",),
        ("replay", "/nonexistent.json.gz"),
        ("replay", "x", "--kills", "-1"),
        ("replay", "x", "--server", "localhost"),
    ],
)
def test_bad_input_is_exit_2_without_a_traceback(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_bad_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("hello")
    done = run("replay", str(file))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "not a gzip file" in done.stderr
