"""One process, one file: an advisory lock beside the file, which dies with its owner and says who that is."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ds_sync.exceptions import FileInUseError, StoreError

if sys.platform == "win32":  # pragma: no cover - the two platforms' locks
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # past the text, which others must be able to read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


_log = logging.getLogger("ds_sync.ownership")

_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
"""What the platforms answer when somebody else holds the lock."""


class Ownership:
    """Holds `<path>-owner` (symbolic links resolved) locked from construction to `release`, or to the death of the process."""

    def __init__(self, path: str | os.PathLike[str], role: str) -> None:
        """Take the file for `role` ("replica", "server").

        Raises FileInUseError, which names who has it, StoreError where files can't be locked, and OSError if there can be no such file.
        """
        lock = Path(f"{os.path.realpath(path)}-owner")
        self._descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            _lock(self._descriptor)
        except OSError as error:
            if error.errno not in _HELD:
                os.close(self._descriptor)
                raise StoreError(f"{lock} can't be locked: {error.strerror}") from error
            owner = _describe(os.read(self._descriptor, 4096))
            os.close(self._descriptor)
            raise FileInUseError(f"{os.fspath(path)} is in use by {owner}", owner=owner) from None
        text = json.dumps(
            {
                "pid": os.getpid(),
                "role": role,
                "command": _name_command(sys.argv),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
        )
        note = text.encode()
        try:
            # Over the note of the owner before, and only then cut: on a full disk that needs no space.
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.ftruncate(self._descriptor, os.write(self._descriptor, note))
        except OSError as error:
            # The lock holds without it; whoever is refused reads "another process". A document on a full disk must still open.
            _log.warning("%s: who owns it can't be written down: %s", lock, error.strerror)

    def release(self) -> None:
        """Give the file up. The lock file stays: removing it would race with the next owner."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _name_command(arguments: list[str]) -> str:
    """Without its arguments, which may be tokens; of those only a first that is a plain word: the subcommand."""
    return " ".join(arguments[:2] if arguments[1:] and arguments[1].isalpha() else arguments[:1])[:200]


def _describe(text: bytes) -> str:
    try:
        note = json.loads(text)
        return f"process {note['pid']} ({note['role']}: {note['command']}) since {note['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


@dataclass(frozen=True, slots=True)
class FileOwner:
    """Who has a file open, or had it last."""

    pid: int
    role: str
    command: str
    since: str
    running: bool | None
    """Whether a process of that number runs on this machine: the same one, or one that was given its number later. None: can't be told."""


def find_owner(path: str | os.PathLike[str]) -> FileOwner | None:
    """Return who owns the file, or owned it last, by the note beside it; None without one. Takes no lock, so that no owner is refused."""
    try:
        with open(f"{os.path.realpath(path)}-owner", "rb") as file:
            note = json.loads(file.read(4096))
        pid = int(note["pid"])
        return FileOwner(pid, str(note["role"]), str(note["command"]), str(note["since"]), _is_running(pid))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_running(pid: int) -> bool | None:
    if sys.platform == "win32":  # pragma: no cover - there, signal 0 is no question
        return None
    if pid <= 0:
        return None
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
