"""Node.js programs the tests talk to in JSON lines, and waiting for what came of it in Python."""

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pycrdt import Text

HERE = Path(__file__).parent
SECONDS = 60.0
"""Longest that a line, the end of a program, or an edit may take."""
LINE_BYTES = 2**24


class NodePeer:
    """A running program. Each JSON line it is told goes to its standard input; what it says comes from its standard output."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def tell(self, **fact: Any) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(fact).encode() + b"\n")

    async def hear(self) -> dict[str, Any]:
        """Return its next line."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), SECONDS)
        assert line, f"the JavaScript side ended, code {await self._process.wait()}"
        fact: dict[str, Any] = json.loads(line)
        return fact

    async def __call__(self, order: str, **options: Any) -> Any:
        """Give an order to a program that answers each by a line; return the answer."""
        self.tell(order=order, **options)
        return (await self.hear())["answer"]


@asynccontextmanager
async def node_peer(node: str, script: str, *arguments: str, folder: Path = HERE) -> AsyncIterator[NodePeer]:
    """Run a script of the folder. At the end its input ends, and it has to end without a failure."""
    process = await asyncio.create_subprocess_exec(node, script, *arguments, cwd=folder, stdin=PIPE, stdout=PIPE, limit=LINE_BYTES)
    try:
        yield NodePeer(process)
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), SECONDS) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def python_sees(text: Text, wanted: str) -> None:
    """Wait until the text is `wanted`."""
    changed = asyncio.Event()
    subscription = text.observe(lambda event: changed.set())
    try:
        async with asyncio.timeout(SECONDS):
            while str(text) != wanted:
                changed.clear()
                await changed.wait()
    finally:
        text.unobserve(subscription)
