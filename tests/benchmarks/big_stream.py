"""How much memory a server takes for a stream of 1 GB: `python tests/benchmarks/big_stream.py [MEGABYTES]`.

Records of 1 MiB are appended, fsynced; then one reader catches up by pages, and one by SSE. The figure is the server's peak resident set.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from ds_sync import StreamClient
from ds_sync.client.follower import Interruption
from ds_sync.testing.server_process import ServerProcess

RECORD = 1 << 20


def peak(pid: int) -> float:
    """Return the peak resident set of process `pid`, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


async def stream_through(server: ServerProcess, megabytes: int) -> None:
    async with StreamClient(f"{server.url}/v1/stream/big") as client:
        await client.create()
        started = time.perf_counter()
        for _ in range(megabytes):
            await client.append(os.urandom(RECORD), content_type="application/octet-stream")
        print(f"append {megabytes} MiB: {time.perf_counter() - started:.1f} s, server's peak {peak(server.pid):.0f} MB")
        for live in (False, "sse"):
            size, started = 0, time.perf_counter()
            async with client.follow(live=live) as follower:
                async for page in follower:
                    if isinstance(page, Interruption):
                        raise page.error
                    size += len(page.data)
                    if page.up_to_date:
                        break
            assert size == megabytes * RECORD
            print(f"read ({live or 'catch-up'}): {time.perf_counter() - started:.1f} s, server's peak {peak(server.pid):.0f} MB; bar 200")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, ServerProcess(Path(folder, "big.db")) as process:
        asyncio.run(stream_through(process, int(sys.argv[1]) if len(sys.argv) > 1 else 1024))
