"""One process, one file: an advisory lock beside the file, which dies with its owner and says who that is."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from ds_sync.exceptions import FileInUseError

if sys.platform == "win32":  # pragma: no cover - the two platforms' locks
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # past the text, which others must be able to read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Ownership:
    """Holds `<path>-owner` locked from construction to `release`, or to the death of the process, by whatever means."""

    def __init__(self, path: str | os.PathLike[str], role: str) -> None:
        """Take the file for `role` ("replica", "server"). Raises FileInUseError, which names who has it."""
        lock = Path(f"{os.fspath(path)}-owner")
        self._descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            _lock(self._descriptor)
        except OSError:
            owner = _describe(os.read(self._descriptor, 4096))
            os.close(self._descriptor)
            raise FileInUseError(f"{os.fspath(path)} is in use by {owner}", owner=owner) from None
        text = json.dumps(
            {
                "pid": os.getpid(),
                "role": role,
                "command": " ".join(sys.argv)[:200],
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
        )
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, text.encode())

    def release(self) -> None:
        """Give the file up. The lock file stays: removing it would race with the next owner."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _describe(text: bytes) -> str:
    try:
        note = json.loads(text)
        return f"process {note['pid']} ({note['role']}: {note['command']}) since {note['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
