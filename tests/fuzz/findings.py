"""What a target is, and what it does when it finds something."""

from __future__ import annotations

import hashlib
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

FAILURES = Path(__file__).parent / "failures"

HANG_SECONDS = 10


class Finding(Exception):  # noqa: N818 - found, not raised by the subject
    """Something that must not happen."""


class Target(Protocol):
    """A boundary that untrusted bytes cross."""

    name: str
    share: float
    """Of the time."""

    def open(self, folder: Path) -> None:
        """Set up in an empty folder."""
        ...

    def make(self, rng: random.Random) -> bytes:
        """Return the next input."""
        ...

    def check(self, data: bytes) -> None:
        """Let the input cross. Raises Finding; any other exception is one, too."""
        ...

    def close(self) -> None:
        """Check what can only be checked at the end, and clean up. Raises Finding."""
        ...


def keep(target: str, data: bytes, folder: Path = FAILURES) -> Path:
    """Write an input down under its target and digest."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{target}.{hashlib.blake2b(data, digest_size=6).hexdigest()}"
    path.write_bytes(data)
    return path


@contextmanager
def no_longer_than(seconds: int = HANG_SECONDS) -> Iterator[None]:
    """Raise Finding if the block takes longer."""

    def receive_alarm(number: int, frame: FrameType | None) -> None:
        raise Finding(f"a hang: no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, receive_alarm)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
