"""What was echoed to its sender, or relayed to anybody, is there after SIGKILL of the server at any moment.

`--room-rounds` says how often; by default, a fifth of `--rounds` (10 of the default 50). `make kills-rooms` plays 100.
"""

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ds_sync_yjs.wire import is_within, read_ranges
from ds_sync_ywebsocket import messages
from pycrdt import Doc, Text
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidMessage

from ds_sync.protocol.framing import parse_frames
from ds_sync.testing.server_process import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.kills]

WRITERS = 4
SECONDS = 20.0


class Writer:
    """A client that types until the connection ends. `heard` holds what the server sent, and nothing else."""

    def __init__(self, url: str, chance: random.Random, heard_one: Callable[[], None]) -> None:
        self._url = url
        self._chance = chance
        self._heard_one = heard_one
        self.document: Doc[Any] = Doc()
        self.heard: Doc[Any] = Doc()
        self.echoes = 0

    async def type(self) -> None:
        made: list[bytes] = []
        subscription = self.document.observe(lambda event: made.append(bytes(event.update)))
        try:
            async with connect(self._url, max_size=None, ping_interval=None) as socket:
                await socket.send(messages.build_sync(messages.STEP_1, self.document.get_state()))
                listening = asyncio.ensure_future(self._listen(socket))
                try:
                    while not listening.done():
                        made.clear()
                        text = self.document.get("body", type=Text)
                        if len(text) > 20 and self._chance.random() < 0.3:
                            del text[0:3]
                        else:
                            text.insert(0, self._chance.choice("abcdefgh") * self._chance.choice((1, 1, 1, 500)))
                        await socket.send(messages.build_sync(messages.UPDATE, made[0]))
                        await asyncio.sleep(self._chance.random() * 0.004)
                finally:
                    listening.cancel()
                    await asyncio.gather(listening, return_exceptions=True)
        except (ConnectionClosed, OSError, InvalidMessage):
            return
        finally:
            self.document.unobserve(subscription)

    async def _listen(self, socket: Any) -> None:
        async for frame in socket:
            if frame[0] != messages.SYNC:
                continue
            body = parse_frames(frame[2:]).payloads[0]
            if frame[1] == messages.STEP_1:
                await socket.send(messages.build_sync(messages.STEP_2, self.document.get_update(body)))
                continue
            self.echoes += 1
            self.heard.apply_update(body)
            self.document.apply_update(body)
            self._heard_one()


class Trigger:
    """Kills the server: mostly when somebody has just heard something, which was durable then or never will be."""

    def __init__(self, server: ServerProcess, chance: random.Random) -> None:
        self._server = server
        self._chance = chance
        self._left = 0
        self._pulled = asyncio.Event()

    def hear(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(self._server.pid, signal.SIGKILL)
            self._pulled.set()

    async def pull(self) -> None:
        if self._chance.random() < 0.25:
            await asyncio.sleep(0.1 + self._chance.random() * 0.4)
        else:
            self._pulled.clear()
            self._left = self._chance.randrange(1, 100)
            await asyncio.wait_for(self._pulled.wait(), SECONDS)
        self._server.kill()


async def read_room(url: str) -> Doc[Any]:
    """What a newcomer is given."""
    document: Doc[Any] = Doc()
    async with connect(url, max_size=None) as socket, asyncio.timeout(SECONDS):
        await socket.send(messages.build_sync(messages.STEP_1, document.get_state()))
        async for frame in socket:
            if frame[:2] == bytes((messages.SYNC, messages.STEP_2)):
                document.apply_update(parse_frames(frame[2:]).payloads[0])
                break
    return document


async def test_nothing_that_was_echoed_or_relayed_is_lost(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    asked = request.config.getoption("--room-rounds")
    rounds = max(1, request.config.getoption("--rounds") // 5 if asked is None else asked)
    seed = request.config.getoption("--kill-seed") or random.randrange(2**32)
    chance = random.Random(seed)
    echoes = 0
    with ServerProcess(tmp_path / "streams.db", options=("--compact-after", "20000")) as server:
        url = f"{server.url.replace('http', 'ws', 1)}/v1/ws/default/room"
        trigger = Trigger(server, chance)
        writers = [Writer(url, chance, trigger.hear) for _ in range(WRITERS)]
        for number in range(rounds):
            typing = [asyncio.ensure_future(writer.type()) for writer in writers]
            await trigger.pull()
            await asyncio.wait_for(asyncio.gather(*typing), SECONDS)
            server.start()
            held = read_ranges((await read_room(url)).get_update())
            for who, writer in enumerate(writers):
                assert is_within(read_ranges(writer.heard.get_update()), held, {}), (
                    f"seed {seed}, round {number}: writer {who} was told more"
                )
        echoes = sum(writer.echoes for writer in writers)
    assert echoes > rounds * WRITERS  # else nothing was tried
