"""Presence by the clock, in simulated seconds: what is said again when, and how long somebody is seen who is not there any more."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from ds_sync_yjs.presence import YjsPresence

from ds_sync.client.stream import StreamClient
from ds_sync.crdt import Word
from ds_sync.environment import Environment
from ds_sync.protocol.framing import build_frame, parse_frames
from ds_sync.protocol.messages import Page
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.replica.presence import Presence
from ds_sync.server.app import create_app
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.testing.asgi_transport import AsgiTransport
from ds_sync.testing.simulator.loop import VirtualLoop

T = TypeVar("T")

DOC = "http://server/v1/yjs/default/docs/notes"
KIND = "application/octet-stream"


class Clockwork(VirtualLoop):
    """Each turn takes a moment: a timer may go off a hair too early, and who then waits for what is left would wait for ever."""

    def select(self, timeout: float | None) -> list[Any]:
        return super().select(None if timeout is None else timeout + 1e-6)


class Cable:
    """Leads to an application until it is cut."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.whole = True
        self._app = app
        self._calls: set[asyncio.Future[None]] = set()

    async def __call__(self, *call: Any) -> None:
        if self.whole:
            running = asyncio.ensure_future(self._app(*call))
            self._calls.add(running)
            await asyncio.wait({running})
            self._calls.discard(running)

    def cut(self) -> None:
        self.whole = False
        for call in self._calls:
            call.cancel()


class House:
    """A server and whoever is there, in simulated time."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.environment = Environment(monotonic=loop.time, now=lambda: 1.8e9 + loop.time(), random=random.Random(1))
        self._engine = MemoryEngine()
        self._app = create_app(self._engine, environment=self.environment, compact_after=None)
        self.cable = Cable(self._app)
        """Of those who have joined."""
        self._transport, self._cabled = AsgiTransport(self._app), AsgiTransport(self.cable)
        self._running: list[asyncio.Task[None]] = []

    def stream(self, transport: AsgiTransport | None = None) -> StreamClient:
        """A way of its own to what is said."""
        return StreamClient(DOC, transport=transport or self._transport, params={"awareness": "default"}, environment=self.environment)

    async def open(self) -> None:
        await StreamClient(DOC, transport=self._transport).create(content_type=KIND)

    def join(self, client: int) -> Presence:
        presence = Presence(YjsPresence(), client, self.environment)
        self._running.append(asyncio.ensure_future(presence.run(self.stream(self._cabled))))
        return presence

    async def say(self, *words: Word) -> None:
        await self.stream().append(build_frame(YjsPresence().encode(words)), content_type=KIND)

    async def aclose(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._app.drain(5)
        await self._app.aclose()
        await self._transport.aclose()
        await self._cabled.aclose()
        await self._engine.aclose()


def live(act: Callable[[House], Awaitable[T]]) -> T:
    async def main() -> T:
        house = House()
        await house.open()
        try:
            return await act(house)
        finally:
            await house.aclose()

    loop = Clockwork()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def now() -> float:
    return asyncio.get_running_loop().time()


async def seen_until(presence: Presence, client: int) -> float:
    """Wait until `client` is there, and until it is not; return when that was."""
    seen = False
    async for states in presence.changes():
        if seen and client not in states:
            return now()
        seen = seen or client in states
    raise AssertionError("unreachable")


async def renew(house: House, client: int, seconds: float, times: int) -> None:
    for clock in range(times):
        await house.say(Word(client, clock, {"n": clock}))
        await asyncio.sleep(seconds)


def test_what_we_say_is_said_again_every_15_seconds() -> None:
    async def act(house: House) -> list[tuple[float, int, Any]]:
        heard: list[tuple[float, int, Any]] = []

        async def listen() -> None:
            async with house.stream().follow(BEGINNING, live="sse") as follower:
                async for item in follower:
                    if isinstance(item, Page):
                        for update in parse_frames(item.data).payloads:
                            heard.extend((round(now(), 1), word.clock, word.state) for word in YjsPresence().decode(update))

        listening = asyncio.ensure_future(listen())
        ada = house.join(1)
        await asyncio.sleep(2)
        ada.set({"name": "Ada"})
        await asyncio.sleep(50)
        listening.cancel()
        await asyncio.wait({listening})
        return heard

    assert live(act) == [(seconds, clock, {"name": "Ada"}) for clock, seconds in enumerate((2.0, 17.0, 32.0, 47.0))]


def test_who_crashes_is_gone_30_seconds_after_the_last_word() -> None:
    async def act(house: House) -> float:
        bob = house.join(2)
        await asyncio.sleep(3.3)
        await house.say(Word(7, 1, {}))
        return await seen_until(bob, 7) - 3.3

    assert 29.0 <= live(act) <= 30.1


@pytest.mark.parametrize("seconds", [5.0, 12.0, 20.0])
def test_what_was_said_during_an_interruption_is_as_old_as_it_may_be(seconds: float) -> None:
    async def act(house: House) -> float:
        bob = house.join(2)
        await asyncio.sleep(3.0)
        house.cable.cut()
        await asyncio.sleep(0.5)
        await house.say(Word(7, 1, {}))
        said = now()
        await asyncio.sleep(seconds)
        house.cable.whole = True
        return await seen_until(bob, 7) - said

    assert 23.9 <= live(act) <= 31.1


@pytest.mark.parametrize("late", [0.0, 0.1, 3.0, 7.0, 11.5, 15.0, 19.3, 22.0, 23.5, 23.9])
def test_who_comes_after_a_crash_sees_nobody_30_seconds_after_the_last_word(late: float) -> None:
    async def act(house: House) -> float:
        await house.say(Word(7, 1, {}))
        await asyncio.sleep(late)
        return await seen_until(house.join(2), 7)

    assert 23.9 <= live(act) <= 30.1


@pytest.mark.parametrize("late", [24.0, 25.0, 60.0])
def test_who_comes_24_seconds_after_a_crash_never_sees_who_is_gone(late: float) -> None:
    async def act(house: House) -> bool:
        await house.say(Word(7, 1, {}))
        await asyncio.sleep(late)
        bob = house.join(2)
        for _ in range(400):
            await asyncio.sleep(0.1)
            if bob.states:
                return False
        return True

    assert live(act)


@pytest.mark.parametrize("every", [15.0, 18.0, 20.0])
@pytest.mark.parametrize("late", [0.01, 2.0, 7.5, 14.9, 17.9])
def test_who_comes_sees_at_once_and_without_a_break_who_is_there(every: float, late: float) -> None:
    """Clients of y-protocols repeat their words every 15 to 18 s."""

    async def act(house: House) -> list[float]:
        renewing = asyncio.ensure_future(renew(house, 7, every, 6))
        await asyncio.sleep(every + late)
        bob = house.join(2)
        await asyncio.sleep(0.1)
        missing = []
        while not renewing.done():
            if 7 not in bob.states:
                missing.append(now())
            await asyncio.sleep(0.1)
        return missing

    assert live(act) == []


def test_where_much_is_said_nobody_is_taken_for_gone_for_want_of_room() -> None:
    """The server keeps 256 kB: what a quiet client said is pushed out by the others long before it is old."""

    async def act(house: House) -> list[float]:
        await house.say(Word(7, 1, {"quiet": True}))
        bob = house.join(2)
        await asyncio.sleep(1)
        missing = []
        for clock in range(170):
            if clock % 10 == 0 and clock < 60:
                await house.say(*(Word(8, clock + more, {"text": "x" * 1_000}) for more in range(5)))
                for part in range(5):
                    await house.say(Word(9 + part, clock, {"text": "x" * 30_000}))
            if 7 not in bob.states:
                missing.append(now())
            await asyncio.sleep(0.1)
        page = await house.stream().read(BEGINNING, fresh=True)
        left = {word.client for update in parse_frames(page.data).payloads for word in YjsPresence().decode(update)}
        assert 7 not in left
        return missing

    assert live(act) == []


def test_where_much_is_said_who_comes_after_a_crash_sees_who_is_gone_for_25_seconds() -> None:
    """What the server has left tells nothing there."""

    async def act(house: House) -> float:
        async def talk() -> None:
            for clock in range(20):
                for client in range(8, 14):
                    await house.say(Word(client, clock, {"text": "x" * 30_000}))
                await asyncio.sleep(2)

        await house.say(Word(7, 1, {}))
        bob = house.join(2)
        await asyncio.sleep(0.5)
        talking = asyncio.ensure_future(talk())
        gone = await seen_until(bob, 7)
        talking.cancel()
        return gone

    assert 24.0 <= live(act) <= 25.2
