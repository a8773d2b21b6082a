"""Who is no replica and talks to the server directly: other programs that write, and people who delete and trim."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping

from ds_sync.protocol.framing import build_frame
from ds_sync.testing.simulator.device import SERVER
from ds_sync.testing.simulator.laws import Laws
from ds_sync.testing.simulator.network import LATEST, Network
from ds_sync.testing.simulator.server import Server
from ds_sync.testing.simulator.subjects import Subject


class Shared:
    """A document, as the world knows it: its stream, its judge, and what strangers put into it."""

    def __init__(self, path: str, laws: Laws) -> None:
        self.path = path
        self.laws = laws
        self.url = f"{SERVER}/v1/stream/{laws.path}"
        self.acknowledged: list[bytes] = []
        """Updates of strangers that the server has confirmed."""


class Strangers:
    """All of them. What they do returns whether it could be done."""

    def __init__(self, server: Server, network: Network, subject: Subject, seed: int) -> None:
        self._server = server
        self._network = network
        self._trace = network.trace
        self._subject = subject
        self._seed = seed
        self._later: list[asyncio.Task[None]] = []
        self._writers = 0

    async def ask(
        self, method: str, shared: Shared, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str]]:
        """Make a request that nothing happens to; return status and headers. The status is 0 if the server does not answer."""
        if not self._server.up:
            return 0, {}
        call = self._server.open(method, shared.url, {"content-type": shared.laws.adapter.content_type, **(headers or {})}, body)
        while not call.ended and not call.cut:
            await call.wait()
        return (0, {}) if call.cut else (call.status, call.headers)

    async def find_tail(self, shared: Shared) -> str | None:
        """Return the offset at the stream's end; None if there is no stream, or no answer."""
        status, headers = await self.ask("HEAD", shared)
        return headers["stream-next-offset"] if status == 200 else None

    async def finish(self) -> None:
        """Wait until nobody does anything any more."""
        await asyncio.gather(*self._later)

    async def write(self, shared: Shared, draw: random.Random) -> bool:
        """Make two edits, the second on top of the first, and send the second first."""
        tail = await self.find_tail(shared)
        if tail is None:
            return False
        adapter = self._subject.make_adapter(random.Random(f"{self._seed} stranger {draw.random()}"))
        doc, updates = adapter.new(), list[bytes]()
        adapter.apply(doc, [update for update in shared.laws.ledger.frames(tail) if update not in shared.laws.garbage])
        unobserve = adapter.observe(doc, updates.append)
        while len(updates) < 2:
            self._subject.edit(doc, draw)
        unobserve()
        self._trace.note("stranger", "writes two edits and sends the second")
        await self._append(shared, updates[1])
        self._do_later(draw.choice((0.5, 10.0, 60.0)), self._append(shared, updates[0]))
        return True

    async def write_garbage(self, shared: Shared, draw: random.Random) -> bool:
        """Write a whole frame that holds no update."""
        if await self.find_tail(shared) is None:
            return False
        garbage = b"garbage %016x" % draw.getrandbits(64)
        shared.laws.garbage.add(garbage)
        await self._append(shared, garbage)
        return True

    async def delete(self, shared: Shared, draw: random.Random) -> bool:
        """Delete the stream; now and then the request arrives once more, and may find one that somebody has made anew."""
        if not self._server.up:
            return False
        await self._delete(shared)
        if draw.random() < 0.3:
            self._do_later(draw.uniform(0.0, LATEST), self._delete(shared))
        return True

    async def trim(self, shared: Shared) -> bool:
        """Let the server keep nothing that stands before the tail of the moment."""
        tail = await self.find_tail(shared)
        if tail is None or self._server.options.foreign is not None:
            return False
        self._trace.note("stranger", f"trims the stream of {shared.path} up to {tail}")
        shared.laws.trimmed = True
        self._server.trim(shared.url, tail)
        return True

    def _do_later(self, delay: float, work: Coroutine[None, None, None]) -> None:
        async def wait() -> None:
            await asyncio.sleep(delay)
            await work

        self._later.append(asyncio.create_task(wait()))

    async def _append(self, shared: Shared, update: bytes) -> None:
        body = build_frame(update)
        self._writers += 1  # two who write the same at the same time are two, and their bytes stand twice
        self._network.senders.setdefault(body, set()).add(f"stranger {self._writers}")
        status, _ = await self.ask("POST", shared, body)
        self._trace.note("stranger", f"appends {len(update)} bytes to {shared.path}: {status}")
        habits = self._server.options.foreign
        if status in (200, 204) and update not in shared.laws.garbage and not (habits and habits.producers == "swallow"):
            shared.acknowledged.append(update)

    async def _delete(self, shared: Shared) -> None:
        shared.laws.set_back_at = asyncio.get_running_loop().time()
        status, _ = await self.ask("DELETE", shared)
        shared.laws.set_back_at = asyncio.get_running_loop().time()  # it was still there when the request went out
        self._trace.note("stranger", f"deletes the stream of {shared.path}: {status}")
