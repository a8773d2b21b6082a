"""The official server suite, unmodified, against both engines."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent

LATER = ("TTL", "Expir", "Fork - ", "Reserved subscription APIs")
"""What the suite calls the features this server does not offer yet, in the names of its groups and tests."""

MEASURED = 220
"""Tests of the suite, version 0.3.6, that concern other features."""


def install() -> None:
    if not (HERE / "node_modules" / ".package-lock.json").exists():
        subprocess.run([_node_tool("npm"), "ci", "--no-audit", "--no-fund"], cwd=HERE, check=True, capture_output=True)


def _node_tool(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is not on PATH: install Node.js 18 or later"
    return found


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
def test_every_test_outside_later_groups_passes(engine: str, tmp_path: Path) -> None:
    install()
    report = tmp_path / "report.json"
    with ServerProcess(None if engine == "memory" else tmp_path / "streams.db", long_poll_timeout=2) as server:
        command = [_node_tool("npx"), "vitest", "run", "--reporter=json", f"--outputFile={report}"]
        run = subprocess.run(
            command, cwd=HERE, env={**os.environ, "DS_SYNC_SERVER_URL": server.url}, capture_output=True, text=True, check=False
        )
        assert report.exists(), run.stdout + run.stderr
        assert server.terminate() == 0
    results = [result for file in json.loads(report.read_text())["testResults"] for result in file["assertionResults"]]
    ours = [result for result in results if not any(feature in result["fullName"] for feature in LATER)]
    bad = [f"{result['status']}: {result['fullName']}: {result.get('failureMessages')}" for result in ours if result["status"] != "passed"]
    assert bad == []
    assert len(ours) >= MEASURED
