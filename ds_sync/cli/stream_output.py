"""What `ds-sync stream` reads from standard input, writes to standard output, and tells on standard error."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import IO, TYPE_CHECKING, Final

from ds_sync.client.stream import Interruption

if TYPE_CHECKING:
    from rich.progress import Progress

READ_BYTES: Final = 64 * 1024

PROGRESS_AFTER: Final = 1.0
"""Seconds of reading before its progress is shown: what is quicker needs none."""


def say(message: str) -> None:
    """Write a line to standard error."""
    print(f"ds-sync stream: {' '.join(message.split())}", file=sys.stderr, flush=True)


def say_interrupted(interruption: Interruption) -> None:
    """Tell that the connection was lost, and when it is tried again."""
    say(f"{interruption.error}; again in {interruption.retry_in:.1f} s")


class Output:
    """Writes what is read to `file`. With `lines` a line comes whole or not yet; `live` sends out everything at once."""

    def __init__(self, file: IO[bytes], *, lines: bool, live: bool, progress: Meter) -> None:
        self._file = file
        self._lines = lines
        self._live = live
        self._progress = progress
        self._rest = b""

    def write(self, data: bytes) -> None:
        """Write bytes of the stream."""
        self._progress.add(len(data))
        if self._lines:
            whole, newline, rest = (self._rest + data).rpartition(b"\n")
            self._rest, data = rest, whole + newline
        self._put(data)

    def write_message(self, text: str) -> None:
        """Write a message of a JSON stream as a line. Line breaks in it stand between its parts, never inside a string."""
        data = text.replace("\r", " ").replace("\n", " ").encode() + b"\n"
        self._progress.add(len(data))
        self._put(data)

    def end(self) -> None:
        """Write what is left: the stream's last line, if it has no end."""
        self._put(self._rest)
        self._rest = b""
        self._file.flush()

    def _put(self, data: bytes) -> None:
        if data:
            self._file.write(data)
            if self._live:
                self._file.flush()


class Meter:
    """Shows on standard error how much was read. A context manager. `wanted` None: if it takes long, and somebody can see it."""

    def __init__(self, wanted: bool | None) -> None:
        self._wanted = sys.stderr.isatty() and not sys.stdout.isatty() if wanted is None else wanted
        self._begin = time.monotonic() + (PROGRESS_AFTER if wanted is None else 0.0)
        self._count = 0
        self._shown: Progress | None = None

    def add(self, count: int) -> None:
        """Count bytes."""
        self._count += count
        if self._shown is None and self._wanted and time.monotonic() >= self._begin:
            self._shown = _start_progress()
        if self._shown is not None:
            self._shown.update(self._shown.task_ids[0], completed=self._count)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.stop()


def _start_progress() -> Progress:
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    # How much there is to come nobody knows: offsets are opaque.
    columns = (SpinnerColumn(), DownloadColumn(), TransferSpeedColumn(), TextColumn("after"), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    progress.add_task("", total=None)
    progress.start()
    return progress


def read_data(text: str | None) -> bytes:
    """Return what is to be sent: `text`, or all of standard input if it is "-" or missing."""
    return sys.stdin.buffer.read() if text is None or text == "-" else text.encode("utf-8", "surrogateescape")


async def read_lines(file: IO[bytes]) -> AsyncIterator[bytes]:
    """Yield the lines of `file` as they come, with their ends; the last one may have none."""
    rest = b""
    read = getattr(file, "read1", file.read)
    while data := await asyncio.to_thread(read, READ_BYTES):
        *lines, rest = (rest + data).split(b"\n") if b"\n" in data else (rest + data,)
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest
