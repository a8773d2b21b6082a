"""A malicious server: whatever it answers, the client gives a value or one of our errors, in time."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from findings import HANG_SECONDS, Finding
from hostile import make_answers, serve
from pycrdt import Text

from ds_sync import Replica, StreamClient
from ds_sync.client.retry import RetryPolicy
from ds_sync.client.timeouts import Timeouts
from ds_sync.environment import Environment
from ds_sync.exceptions import DsSyncError
from ds_sync.protocol.messages import ProducerStamp

TYPED = "typed on this device"

PATIENCE = 0.06
"""Seconds for a call, then it is cancelled."""

Call = Callable[[StreamClient], Coroutine[Any, Any, object]]


async def _follow(client: StreamClient, live: Any) -> None:
    async with client.follow(live=live) as follower:
        count = 0
        async for _ in follower:
            count += 1
            if count > 5:
                return


CALLS: list[Call] = [
    lambda client: client.read(),
    lambda client: client.head(),
    lambda client: client.create(),
    lambda client: client.delete(),
    lambda client: client.append(b"x", content_type="text/plain", producer=ProducerStamp("p", 0, 0)),
    lambda client: client.close(),
    lambda client: _follow(client, False),
    lambda client: _follow(client, "auto"),
    lambda client: _follow(client, "sse"),
    lambda client: _follow(client, "long-poll"),
]
"""The first byte of an input chooses one."""


class ClientTarget:
    """The client on real sockets. An input is a byte that chooses the call, then the server's answers."""

    name = "client"
    share = 2.0

    def open(self, folder: Path) -> None:
        self._runner = asyncio.Runner()

    def make(self, rng: random.Random) -> bytes:
        return bytes((rng.randrange(256),)) + make_answers(rng)

    def check(self, data: bytes) -> None:
        self._runner.run(self._call(CALLS[data[0] % len(CALLS)], data[1:]))

    def close(self) -> None:
        self._runner.close()

    async def _call(self, call: Call, answers: bytes) -> None:
        retry = RetryPolicy(max_attempts=2, first_delay=0.001, max_delay=0.001, max_retry_after=0.001)
        async with serve(answers) as url:
            client = StreamClient(f"{url}/v1/stream/s", retry=retry, timeouts=Timeouts().scaled(0.002))
            async with in_time():
                calling = asyncio.ensure_future(call(client))
                await asyncio.wait({calling}, timeout=PATIENCE)
                calling.cancel()
                await asyncio.wait({calling})
                if not calling.cancelled() and (error := calling.exception()) is not None and not isinstance(error, DsSyncError):
                    raise error
                await client.aclose()


class ReplicaTarget:
    """A replica with edits, online with the malicious server for a moment: what was typed is there, whatever it was told."""

    name = "replica-online"
    share = 2.0

    def open(self, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self._seed, self._file = folder / "seed.db", folder / "replica.db"
        self._runner.run(self._type(self._seed))

    def make(self, rng: random.Random) -> bytes:
        return make_answers(rng)

    def check(self, data: bytes) -> None:
        for suffix in ("-wal", "-shm"):
            Path(f"{self._file}{suffix}").unlink(missing_ok=True)
        shutil.copyfile(self._seed, self._file)
        self._runner.run(self._go_online(data))
        self._runner.run(self._look())

    def close(self) -> None:
        self._runner.close()

    async def _type(self, path: Path) -> None:
        async with Replica(path) as replica:
            document = await replica.open("fuzz")
            document.doc.get("text", type=Text).insert(0, TYPED)

    async def _go_online(self, answers: bytes) -> None:
        async with serve(answers) as url, in_time():
            environment = Environment(sleep=lambda seconds: asyncio.sleep(min(seconds, 0.002)))
            async with Replica(self._file, environment=environment) as replica:
                document = await replica.open("fuzz")
                await replica.connect(url)
                await asyncio.sleep(PATIENCE)
                repr(document.status)

    async def _look(self) -> None:
        async with in_time(), Replica(self._file) as replica:
            document = await replica.open("fuzz")
            text = str(document.doc.get("text", type=Text))
            if TYPED not in text:
                raise Finding(f"what was typed is gone; the text is {text!r}")


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Raise Finding if the block takes too long."""
    try:
        async with asyncio.timeout(HANG_SECONDS):
            yield
    except TimeoutError:
        raise Finding(f"a hang: no end after {HANG_SECONDS} s") from None
