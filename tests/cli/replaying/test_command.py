from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest


def trace_file(folder: Path) -> Path:
    """A line typed a character a time, half of it not ASCII, with a letter corrected at each tenth."""
    text, transactions = "start ", []
    for number in range(1_500):
        patches = [[len(text), 0, "é" if number % 2 else "a"]]
        text += patches[0][2]
        if number % 10 == 9:
            patches.append([len(text) - 3, 2, "😀"])
            text = text[:-3] + "😀" + text[-1:]
        transactions.append({"patches": patches})
    path = folder / "made.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"startContent": "start ", "endContent": text, "txns": transactions}).encode()))
    return path


@pytest.mark.parametrize("kills", [0, 4])
def test_every_text_ends_as_recorded(tmp_path: Path, kills: int) -> None:
    command = [sys.executable, "-m", "ds_sync.cli.main", "replay", str(trace_file(tmp_path)), "--kills", str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[-2]
    assert "1,650" in row
    assert row.split("│")[4].strip() == str(kills)
    assert row.split("│")[8].strip() == "yes"
