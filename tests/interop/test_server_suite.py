"""The official server suite, unmodified, against both engines."""

import json
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent

TESTS = 338
"""What the suite has, version 0.3.6."""

ENGINES = ("memory", "sqlite")


def open_server(data: Path | None) -> ServerProcess:
    return ServerProcess(data, long_poll_timeout=2, options=("--allow-http-webhooks",))


@pytest.fixture(scope="module")
def reports(node: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The suite's results by engine. It mostly waits, so both run at once."""
    folder = tmp_path_factory.mktemp("suite")
    data = {"memory": None, "sqlite": folder / "streams.db"}
    with ExitStack() as stack:
        servers = {engine: stack.enter_context(open_server(path)) for engine, path in data.items()}
        runs = {}
        for engine, server in servers.items():
            command = [node, "node_modules/vitest/vitest.mjs", "run", "--reporter=json", f"--outputFile={folder / engine}.json"]
            environment = {**os.environ, "DS_SYNC_SERVER_URL": server.url}
            with (folder / f"{engine}.log").open("w") as log:
                runs[engine] = subprocess.Popen(command, cwd=HERE, env=environment, stdout=log, stderr=log)
        for run in runs.values():
            run.wait()
        for server in servers.values():
            assert server.terminate() == 0
    results = {}
    for engine in ENGINES:
        report = folder / f"{engine}.json"
        assert report.exists(), (folder / f"{engine}.log").read_text()
        results[engine] = [result for file in json.loads(report.read_text())["testResults"] for result in file["assertionResults"]]
    return results


@pytest.mark.parametrize("engine", ENGINES)
def test_every_test_of_the_suite_passes(engine: str, reports: dict[str, list[dict[str, Any]]]) -> None:
    found = reports[engine]
    bad = [f"{result['status']}: {result['fullName']}: {result.get('failureMessages')}" for result in found if result["status"] != "passed"]
    assert bad == []
    assert len(found) == TESTS
