"""Every test there is: style, types, Python, and the JavaScript side with the official suites.

    .venv/bin/python tests/run.py

What can't be had here (Node.js, the recorded editing sessions) is named, and the rest runs; with CI=true that is a failure.
DS_SYNC_TRACES names the folder of the sessions. The last line sums everything up: N passed, N failed, N skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRACES = Path(os.environ.get("DS_SYNC_TRACES", ROOT.parent / "shared" / "data"))
CI = os.environ.get("CI", "").lower() in ("true", "1")

STEP_SECONDS = 300.0
PYTEST_SECONDS = 2700.0
"""A step that takes longer hangs, and is killed."""

TEST_SECONDS = 600.0
"""One test that takes longer fails, and says where it was."""

WORKERS = max(2, min(4, os.cpu_count() or 1))
"""Tests that run at a time: many wait, for a clock or for a server. With more, those that look at the clock fail by chance."""

FUZZ_MINUTES = 1.0
FUZZ_SECONDS = 150.0
"""The fuzzer ends by itself; what it starts and reads again at the end takes some seconds more."""

PROGRAMS = {"nginx": ("nginx-light", "nginx"), "chromium": ("chromium", "browser"), "chromedriver": ("chromium-driver", "browser")}
"""What tests start, with the package that has it and the tests' mark."""

CHECKS = {
    "ruff check": ["-m", "ruff", "check", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "."],
    "mypy": ["-m", "mypy", "ds_sync", "adapters"],
}


@dataclass
class Totals:
    """What came of it all. A check counts as one test."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    remarks: list[str] = field(default_factory=list)
    """Lines to repeat at the end."""

    def receive_missing(self, what: str) -> None:
        self.remarks.append(f"MISSING: {what}")
        if CI:
            self.failed += 1
        else:
            self.skipped += 1


def run(name: str, arguments: list[str], seconds: float = STEP_SECONDS, *, quiet: bool = True) -> tuple[int, str]:
    """Run Python with `arguments`; return its exit code, and what it wrote if `quiet`. Prints how long it took."""
    began = time.monotonic()
    print(f"== {name}", flush=True)
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "DS_SYNC_TRACES": str(TRACES)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output = process.communicate(timeout=seconds)[0] or ""
    except subprocess.TimeoutExpired:
        output = f"{name} was killed after {seconds:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            process.wait()
    print(f"== {name}: {'ok' if process.returncode == 0 else 'FAILED'}, {time.monotonic() - began:.1f} s", flush=True)
    return process.returncode, output.strip()


def check(name: str, arguments: list[str], totals: Totals, seconds: float = STEP_SECONDS) -> None:
    """Run a check that passes or fails as a whole."""
    code, output = run(name, arguments, seconds)
    if code == 0:
        totals.passed += 1
        return
    print(output, flush=True)
    totals.failed += 1
    totals.remarks.append(f"FAILED: {name}")


def find_what_is_needed(totals: Totals) -> list[str]:
    """Set up what the tests need beside Python; return pytest's options that leave out what can't run."""
    without: list[str] = []
    code, output = run("Node.js", ["tests/interop/node.py"])
    print(output, flush=True)
    if code:
        totals.receive_missing(output.splitlines()[-1].removeprefix("missing: ") if output else "Node.js")
        without.append("interop")
    for program, (package, marker) in PROGRAMS.items():
        if not find_program(program, package):
            totals.receive_missing(f"{program} (Debian's package {package}); apt-get is asked for it only as root")
            without.append(marker)
    if not any(TRACES.glob("*.json.gz")):
        totals.receive_missing(f"the recorded editing sessions: none in {TRACES}; DS_SYNC_TRACES names another folder")
    return ["-m", " and ".join(f"not {marker}" for marker in dict.fromkeys(without))] if without else []


def find_program(program: str, package: str) -> bool:
    """Return whether a program is there, after asking Debian's apt-get for it if this is root."""
    if shutil.which(program) is None and shutil.which("apt-get") is not None and hasattr(os, "geteuid") and os.geteuid() == 0:
        print(f"== apt-get install {package}", flush=True)
        # The lists of a fresh machine are empty or old; a failure shows in the program's absence.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]):
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode:
                print(done.stderr.strip(), flush=True)
    return shutil.which(program) is not None


def test(options: list[str], totals: Totals) -> None:
    """Run pytest, and count."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        apart = [f"--numprocesses={WORKERS}", "--dist=worksteal", f"--timeout={TEST_SECONDS:.0f}"]
        arguments = ["-m", "pytest", *apart, "--durations=5", "--durations-min=2", f"--junitxml={report}", *options]
        code, output = run("pytest", arguments, PYTEST_SECONDS, quiet=False)
        failed_before = totals.failed
        if report.exists():
            for case in ElementTree.parse(report).iter("testcase"):
                receive_case(case, totals)
    if code and totals.failed == failed_before:
        totals.failed += 1
        totals.remarks.append(f"FAILED: pytest ended with {code} {output}".rstrip())


def receive_case(case: ElementTree.Element, totals: Totals) -> None:
    """Count one test of pytest's report."""
    name = f"{case.get('classname')}::{case.get('name')}"
    skipped = case.find("skipped")
    if case.find("failure") is not None or case.find("error") is not None:
        totals.failed += 1
        totals.remarks.append(f"FAILED: {name}")
    elif skipped is not None:
        totals.skipped += 1
        totals.remarks.append(f"SKIPPED: {name}: {skipped.get('message', '')}")
    else:
        totals.passed += 1


def main() -> int:
    """Run everything; return the exit code."""
    began = time.monotonic()
    totals = Totals()
    for name, arguments in CHECKS.items():
        check(name, arguments, totals)
    options = find_what_is_needed(totals)
    test(options, totals)
    check("fuzz", ["tests/fuzz", "--minutes", str(FUZZ_MINUTES)], totals, FUZZ_SECONDS)
    print(f"== all: {time.monotonic() - began:.1f} s")
    print(*totals.remarks, sep="\n", end="\n" if totals.remarks else "")
    print(f"{totals.passed} passed, {totals.failed} failed, {totals.skipped} skipped", flush=True)
    return 0 if totals.passed and not totals.failed else 1


if __name__ == "__main__":
    sys.exit(main())
