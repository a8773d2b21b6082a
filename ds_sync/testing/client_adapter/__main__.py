"""Lines in, lines out."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import BinaryIO

from ds_sync.testing.client_adapter.commands import Adapter, Answer, Command


async def serve(lines: BinaryIO, out: BinaryIO) -> None:
    """Carry out the commands on `lines` until `shutdown` or the end; write each answer to `out`."""
    written: asyncio.Task[None] | None = None
    async with Adapter() as adapter:
        while line := await asyncio.to_thread(lines.readline):
            if not line.strip():
                continue
            command = parse_command(line)
            work = asyncio.create_task(adapter.carry_out(command))
            written = asyncio.create_task(_write(out, work, written))
            # The suite appends while a live read waits: what comes after such a read must not wait for it. The answers keep their order.
            if not (command.get("type") == "read" and command.get("live")):
                await asyncio.wait({work})
            if command.get("type") == "shutdown":
                break
        if written is not None:
            await written


def parse_command(line: bytes) -> Command:
    """Return the command; what is not one comes out as a command of the type ""."""
    try:
        command = json.loads(line)
    except (ValueError, RecursionError):
        command = None
    return command if isinstance(command, dict) and isinstance(command.get("type"), str) else {"type": ""}


async def _write(out: BinaryIO, work: asyncio.Task[Answer], before: asyncio.Task[None] | None) -> None:
    answer = await work
    if before is not None:
        await before
    # In ASCII: some readers of lines take U+2028 for the end of one.
    await asyncio.to_thread(_write_line, out, json.dumps(answer).encode())


def _write_line(out: BinaryIO, line: bytes) -> None:
    out.write(line + b"\n")
    out.flush()


def main() -> None:
    """Serve standard input and output."""
    asyncio.run(serve(sys.stdin.buffer, sys.stdout.buffer))


if __name__ == "__main__":
    main()
