"""A simulated process and its death."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from ds_sync.testing.simulator.disk import Disk, Image
from ds_sync.testing.simulator.loop import OWNER
from ds_sync.testing.simulator.trace import Trace

T = TypeVar("T")


class ProcessDiedError(BaseException):
    """Not an Exception: a program can't catch its own death."""


class Process:
    """Runs tasks that end together. `step` is called wherever the process could die; a fuse says at which call it does."""

    def __init__(self, name: str, path: Path, trace: Trace, disk: Disk, random: random.Random) -> None:
        self.name = name
        self.path = path
        self.trace = trace
        self.disk = disk
        self.tasks: list[asyncio.Task[Any]] = []
        self.dead = False
        self.fuse: int | None = None
        """Calls of `step` until death."""
        self.power_fails = False
        """The fuse is the machine's: the files fall back to what the disk has."""
        self.closers: list[Callable[[], None]] = []
        """What lets go of the process's files."""
        self._random = random
        self.image: Image | None = None
        """What death left of the file."""
        self.on_death: Callable[[], None] = lambda: None
        self.buried: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._context = contextvars.copy_context()
        self._context.run(OWNER.set, self)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` inside the process."""
        return asyncio.get_running_loop().create_task(work, context=self._context)

    def run(self, call: Callable[[], T]) -> T:
        """Call `call` inside the process, now."""
        return self._context.copy().run(call)

    def step(self, where: str) -> None:
        """Die here, if it is time to. Raises ProcessDiedError, now and ever after."""
        if self.dead:
            raise ProcessDiedError(self.name)
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.die(where)
                raise ProcessDiedError(self.name)

    def die(self, where: str) -> None:
        """End the process as SIGKILL does, or with the power: what it had under way is not finished."""
        if not self.dead:
            self.dead = True
            self.image = Image.take(self.path)
            if self.power_fails:
                written = self.disk.commits
                self.image = self.disk.cut(self.image, self._random)
                self.trace.note(self.name, f"loses power, and its last {written - self.disk.commits} commits: {where}")
                self.trace.count("power cut, commits lost" if written > self.disk.commits else "power cut, nothing lost")
            else:
                self.trace.note(self.name, f"dies: {where}")
                self.trace.count("death")
            self.on_death()
            asyncio.get_running_loop().call_soon(self._bury)

    def _bury(self) -> None:
        for task in self.tasks:
            if not task.done():
                task.cancel()
        self.tasks.clear()
        self.buried.set_result(None)
