"""A server that dies at each of its commits in turn, before it or after it: no wake is lost, no generation is leased twice."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from ds_sync.protocol import subscription as machine
from ds_sync.protocol import subscription_requests
from ds_sync.server.engines.base import INTERNAL
from ds_sync.server.engines.memory import MemoryEngine

from .conftest import Receiver, build_answer, build_service

pytestmark = pytest.mark.anyio

STREAMS = ("events/a", "events/b")
KILLS = 15
"""A run has about so many commits."""


class MortalEngine(MemoryEngine):
    """Stops for ever at the `fatal`th commit to the server's own streams; what was committed stays."""

    def __init__(self, fatal: int, *, before: bool) -> None:
        super().__init__()
        self.left = fatal
        self.before = before
        self.died = asyncio.Event()

    async def transact(self, paths: Sequence[str], decide: Any, *, producer: str | None = None) -> Any:
        if self.died.is_set():
            await asyncio.Event().wait()
        counted = any(path.startswith(INTERNAL) for path in paths)
        self.left -= counted
        if counted and self.left == 0 and self.before:
            self.died.set()
            await asyncio.Event().wait()
        result = await super().transact(paths, decide, producer=producer)
        if counted and self.left == 0:
            self.died.set()
            await asyncio.Event().wait()
        return result

    def revive(self) -> None:
        self.left, self.died = 0, asyncio.Event()


@dataclass
class Run:
    """One life and the next of a server, its receiver and its worker."""

    engine: MortalEngine
    receiver: Receiver
    leases: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    """By subscription and generation: the wakes somebody got."""
    ends: dict[str, str] = field(default_factory=dict)

    async def live(self) -> bool:
        """Run until everything is read, or the server died; return whether it did."""
        service = build_service(self.engine)
        self.service = service
        await service.app.start()
        script = asyncio.ensure_future(self.script())
        died = asyncio.ensure_future(self.engine.died.wait())
        await asyncio.wait((script, died), return_when=asyncio.FIRST_COMPLETED)
        dead = self.engine.died.is_set()
        for task in (script, died):
            task.cancel()
        await asyncio.wait((script, died))
        await service.app.aclose()
        self.engine.revive()
        if not script.cancelled():
            script.result()
        return dead

    async def script(self) -> None:
        """Subscribe, append, and work until all is read; everything may have been done already in an earlier life."""
        fields = {"pattern": "events/*", "lease_ttl_ms": 50}
        await self.service.ask("PUT", "wakes")
        await self.service.ask("PUT", "__ds/subscriptions/pull", {**fields, "type": "pull-wake", "wake_stream": "wakes"})
        await self.service.ask("PUT", "__ds/subscriptions/hook", {**fields, "type": "webhook", "webhook": {"url": self.receiver.url}})
        for path in STREAMS:
            if path not in self.ends:
                self.ends[path] = await self.service.append(path)
        seen = 0
        for _ in range(500):
            status, _, wake = await self.service.ask("POST", "__ds/subscriptions/pull/claim", {"worker": "w"})
            if status == 200:
                assert ("pull", wake["generation"]) not in self.leases, "a generation was claimed twice"
                await self.work("pull", wake, wake["token"])
            for delivery in self.receiver.deliveries[seen:]:
                seen += 1
                await self.work("hook", delivery.body, delivery.body["callback_token"])
            if await self.is_read():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("a wake was lost")

    async def work(self, name: str, wake: dict[str, Any], token: str) -> None:
        self.leases.setdefault((name, wake["generation"]), set()).add(wake["wake_id"])
        for number, stream in enumerate(wake["streams"], 1):
            body = {
                "wake_id": wake["wake_id"],
                "generation": wake["generation"],
                "acks": [{"stream": stream["path"], "offset": stream["tail_offset"]}],
                "done": number == len(wake["streams"]),
            }
            status, _, answer = await self.service.ask("POST", f"__ds/subscriptions/{name}/callback", body, token=token)
            assert status == 200 or answer["error"]["code"] == "FENCED"

    async def is_read(self) -> bool:
        for name in ("pull", "hook"):
            _, _, found = await self.service.ask("GET", f"__ds/subscriptions/{name}")
            if {stream["path"]: stream["acked_offset"] for stream in found["streams"]} != self.ends:
                return False
        return True


class FickleReceiver(Receiver):
    """Answers well from its third delivery on."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self.deliveries) >= 2:
            self.answer = build_answer("200 OK")
        await super().serve(reader, writer)


@pytest.mark.parametrize("answer", [b"", build_answer("200 OK"), build_answer("500 Oops"), None], ids=["cut", "ok", "refused", "silent"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_death_at_every_commit(before: bool, answer: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription_requests, "MIN_LEASE_MS", 1)
    monkeypatch.setattr(machine, "FIRST_PAUSE", 0.01)

    async def run(fatal: int) -> bool:
        receiver = FickleReceiver(answer=answer)
        server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
        receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        life = Run(MortalEngine(fatal, before=before), receiver)
        died = await life.live()
        await life.live()
        assert all(len(wakes) == 1 for wakes in life.leases.values()), "a generation had two wakes"
        receiver.close()
        server.close()
        return died

    deaths = await asyncio.gather(*(run(fatal) for fatal in range(1, KILLS + 1)))
    assert sum(deaths) >= 10
