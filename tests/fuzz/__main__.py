"""Throw damaged bytes at every boundary they can cross.

python tests/fuzz --minutes 10                  # all targets, by their shares of the time
python tests/fuzz --only http-sqlite --seed 7   # one of them, from a known seed
python tests/fuzz --rerun tests/fuzz/failures/sse.0123456789ab
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import random
import secrets
import sys
import tempfile
import time
import traceback
from pathlib import Path

from findings import Finding, Target, keep
from targets import TARGETS


def run(target: Target, seconds: float, seed: int, folder: Path) -> tuple[int, list[str]]:
    """Fuzz one target; return how many inputs it got and what was found, a line each."""
    found: list[str] = []
    until, count, data = time.monotonic() + seconds, 0, b""
    target.open(folder)
    try:
        while time.monotonic() < until and len(found) < 5:
            data = target.make(random.Random(f"{seed}/{target.name}/{count}"))
            count += 1
            if not check(target, data, found):
                break
    finally:
        try:
            target.close()
        except Exception as error:
            found.append(f"{target.name}, at its end: {describe(error)}\n  again: python tests/fuzz --only {target.name} --seed {seed}")
    return count, found


def check(target: Target, data: bytes, found: list[str]) -> bool:
    """Let one input cross; return whether the target can go on."""
    try:
        target.check(data)
    except Exception as error:
        path = keep(target.name, data)
        found.append(f"{target.name}: {describe(error)}\n  again: python tests/fuzz --rerun {path}")
        print(found[-1], flush=True)
        return "dead" not in str(error)
    return True


def describe(error: Exception) -> str:
    """Return what a person has to know."""
    return str(error) if isinstance(error, Finding) else "".join(traceback.format_exception(error)).rstrip()


def rerun(path: Path) -> int:
    """Give one kept input to its target."""
    target = next(target for target in TARGETS if target.name == path.name.rpartition(".")[0])
    found: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ds-sync-fuzz-") as folder:
        target.open(Path(folder))
        check(target, path.read_bytes(), found)
        target.close()
    print("found again" if found else "nothing found")
    return 1 if found else 0


def main() -> int:
    """Run what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description="Fuzz every boundary.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="of the inputs; a random one is drawn and printed")
    parser.add_argument("--only", default="", help="targets, with commas between them")
    parser.add_argument("--rerun", type=Path, help="an input that was kept")
    options = parser.parse_args()
    faulthandler.enable()
    logging.basicConfig(level=logging.CRITICAL)  # damaged bytes are reported all the time
    if options.rerun is not None:
        return rerun(options.rerun)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    names = options.only.split(",") if options.only else [target.name for target in TARGETS]
    chosen = [target for target in TARGETS if target.name in names]
    shares = sum(target.share for target in chosen)
    found: list[str] = []
    for target in chosen:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="ds-sync-fuzz-") as folder:
            count, more = run(target, options.minutes * 60 * target.share / shares, seed, Path(folder))
        found += more
        print(f"{target.name}: {count} inputs in {time.monotonic() - began:.0f} s, {len(more)} findings", flush=True)
        if statuses := getattr(target, "statuses", None):
            print("  answers: " + ", ".join(f"{status} x {times}" for status, times in sorted(statuses.items())), flush=True)
    print(*found, f"{len(found)} findings", sep="\n", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
