"""The browser's part in `ds-sync demo`: Node.js and the official JavaScript provider, if they can be had without waiting long."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from ds_sync.exceptions import DsSyncError

SHIPPED: Final = Path(__file__).parent / "demo_npm"
"""The script, and which npm packages it needs."""
CHECKOUT: Final = Path(__file__).parents[2] / "tests" / "interop"
"""Where a checkout that was tested has them, and more."""
OLDEST: Final = 18
INSTALL_SECONDS: Final = 20.0

_PROVIDER: Final = Path("node_modules", "@durable-streams", "y-durable-streams", "package.json")


class NoJavaScriptError(DsSyncError):
    """The JavaScript provider can't be had here; the message says why."""


def find_command(report: Callable[[str], None]) -> tuple[list[str], Path]:
    """Return the command that runs the script, to be completed by the service's URL and the document's path, and the folder to run it in.

    Packages that are not here yet are fetched by `npm ci` into a folder of the user's cache, once; `report` is told before that. Raises
    NoJavaScriptError, after INSTALL_SECONDS at most.
    """
    node = shutil.which("node")
    if node is None:
        raise NoJavaScriptError("there is no `node` on the PATH")
    if not _is_recent(node):
        raise NoJavaScriptError(f"`node` is not Node.js {OLDEST} or newer")
    script = (SHIPPED / "person.mjs").read_text("utf-8")
    return [node, "--input-type=module", "--eval", script, "--"], _find_packages(report)


def _is_recent(node: str) -> bool:
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=INSTALL_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    major = said.strip().removeprefix("v").partition(".")[0]
    return major.isdigit() and int(major) >= OLDEST


def _find_packages(report: Callable[[str], None]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ds-sync"
    kept = cache / f"demo-{sha256((SHIPPED / 'package-lock.json').read_bytes()).hexdigest()[:12]}"
    for folder in (CHECKOUT, kept):
        if (folder / _PROVIDER).exists():
            return folder
    npm = shutil.which("npm")
    if npm is None:
        raise NoJavaScriptError("there is no `npm` on the PATH")
    report("Fetching the JavaScript provider from npm, once ...")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="fetching-", dir=cache))
        try:
            _install(npm, folder)
            shutil.rmtree(kept, ignore_errors=True)
            folder.rename(kept)  # whole or not at all
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise NoJavaScriptError(f"its packages can't be kept in {cache}: {error}") from error
    return kept


def _install(npm: str, folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SHIPPED / name, folder)
    command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise NoJavaScriptError(f"`npm ci` took longer than {INSTALL_SECONDS:g} s") from None
    if done.returncode:
        lines = [line.strip() for line in f"{done.stderr}\n{done.stdout}".splitlines() if "error" in line.lower()]
        raise NoJavaScriptError(f"`npm ci` failed: {lines[0] if lines else f'exit code {done.returncode}'}")
