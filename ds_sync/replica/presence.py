"""Presence: who has the document open now, and what each says of itself (Yjs awareness over HTTP, YJS-PROTOCOL.md sections 5.5 and 5.6).

Nothing here is ever on disk. Each client repeats its word every 15 seconds (those of y-protocols, every 15 to 18); one that is not heard of
for 30 seconds is gone. A word that was said before we listened is of unknown age: the server forgets words after 24 seconds (KEPT_SECONDS
in ds_sync/server/engines/presence.py), so we look every 5 seconds what it has left. Who is gone from there is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Final

from ds_sync.client.retry import Backoff, RetryPolicy
from ds_sync.client.stream import StreamClient
from ds_sync.crdt import PresenceAdapter, Word
from ds_sync.environment import Environment
from ds_sync.exceptions import DsSyncError, FramingError, GoneError, InvalidUpdateError
from ds_sync.protocol.framing import build_frame, parse_frames
from ds_sync.protocol.messages import Page
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.protocol.urls import redact_url
from ds_sync.replica.signal import Signal

RENEW_SECONDS: Final = 15.0
TIMEOUT_SECONDS: Final = 29.0
"""With the second between two looks at the clock, 30."""

OLD_SECONDS: Final = 5.0
"""How old a word counts that was said before we listened: it has 24 s left, even on a server that forgets nothing. Clients that are there
repeat theirs within 18 s."""

LOOK_SECONDS: Final = 5.0
"""Between two looks at what the server still has of such words, while there are any."""

FULL_BYTES: Final = 128 * 1024
"""Where more is left than this, words may be missing for want of room, and not because they are old: then nobody is taken for gone."""

LEAVE_SECONDS: Final = 1.0
"""For saying good-bye."""

MAX_STATE: Final = 32 * 1024
"""Bytes of one presence update of ours."""

MAX_CLIENTS: Final = 5_000
"""Others that are remembered; beyond it, those who were heard of longest ago are dropped."""

RETRY: Final = RetryPolicy(first_delay=0.5, max_delay=15.0)

_log = logging.getLogger("ds_sync.replica")


class Presence:
    """Who is there. `Document.presence` makes it; it follows the document's being online and offline."""

    def __init__(self, adapter: PresenceAdapter, client: int, environment: Environment) -> None:
        self.client = client
        """Our own number in `states`."""
        self._adapter = adapter
        self._environment = environment
        self._own: Word | None = None
        self._others: dict[int, tuple[Word, float]] = {}
        """Each with when it was heard. Those that said good-bye stay until they are forgotten, so that an old word does not revive them."""
        self._unproven: set[int] = set()
        """Of them: those of whom nothing was heard since we listen. They may have been gone before."""
        self._heard = Signal()
        self._said = Signal()
        self._caught_up = self._ended = False

    @property
    def states(self) -> dict[int, Any]:
        """What is known of everybody who is there, by client; ours too, if there is one. A copy."""
        states = {client: word.state for client, (word, _) in self._others.items() if word.state is not None}
        if self._own is not None and self._own.state is not None:
            states[self.client] = self._own.state
        return states

    def set(self, state: Mapping[str, Any] | None) -> None:
        """Say `state` of ourselves, now and again while online; None: say that we are gone.

        It is JSON; editors look for `{"user": {"name": ..., "color": ...}}`. Raises ValueError or TypeError for what is not, and for more
        than MAX_STATE bytes.
        """
        word = Word(self.client, 0 if self._own is None else self._own.clock + 1, None if state is None else dict(state))
        size = len(self._adapter.encode([word]))
        if size > MAX_STATE:
            raise ValueError(f"a presence state of {size} bytes; the limit is {MAX_STATE}")
        self._own = word
        self._said.notify()
        self._heard.notify()

    def become(self, client: int) -> None:
        """Speak under another number from now on. Not while `run` is running."""
        self.client = client
        if self._own is not None:
            self._own = Word(client, 0, self._own.state)
        self._heard.notify()

    def end(self) -> None:
        """End `changes`: the document is closed."""
        self._ended = True
        self._heard.notify()

    async def changes(self) -> AsyncIterator[dict[int, Any]]:
        """Yield `states` now, and again after each change, the newest only; ends when the document is closed."""
        last: dict[int, Any] | None = None
        while not self._ended:
            states = self.states
            if states != last:
                last = states
                yield states
            else:
                await self._heard.wait()

    async def run(self, stream: StreamClient) -> None:
        """Be present on `stream` until cancelled; then say good-bye. A server without presence is asked again from time to time."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(stream))
                group.create_task(self._speak(stream))
                group.create_task(self._forget())
                group.create_task(self._look_again(stream))
        finally:
            self._others.clear()
            self._unproven.clear()
            self._heard.notify()
            if self._own is not None and self._own.state is not None:
                await self._leave(stream, self._own)

    async def _listen(self, stream: StreamClient) -> None:
        backoff = Backoff(RETRY, self._environment.random)
        while True:
            self._caught_up = False
            try:
                async with stream.follow(BEGINNING, live="sse") as follower:
                    async for item in follower:
                        if isinstance(item, Page):
                            backoff.reset()
                            self._hear(item.data)
                            self._caught_up = self._caught_up or item.up_to_date
                        else:
                            self._caught_up = False  # what is said until we are back may be old by then
            except GoneError:
                continue  # what we were about to read is forgotten: begin with what is left
            except DsSyncError as error:
                _log.debug("%s: nobody is heard: %s", redact_url(stream.url), error)
            await self._environment.sleep(backoff.next_delay())

    async def _speak(self, stream: StreamClient) -> None:
        backoff = Backoff(RETRY, self._environment.random)
        said: Word | None = None
        while True:
            own = self._own
            if own is None or own is said:
                await self._said.wait(None if own is None or own.state is None else RENEW_SECONDS)
                if self._own is said and said is not None and said.state is not None:
                    self._own = Word(said.client, said.clock + 1, said.state)
                continue
            try:
                await stream.append(build_frame(self._adapter.encode([own])), content_type="application/octet-stream")
                said = own
                backoff.reset()
            except DsSyncError as error:
                _log.debug("%s: not heard: %s", redact_url(stream.url), error)
                await self._environment.sleep(backoff.next_delay())

    async def _forget(self) -> None:
        while True:
            await self._environment.sleep(1.0)
            late = self._environment.monotonic() - TIMEOUT_SECONDS
            self._drop([client for client, (_, heard) in self._others.items() if heard <= late])

    async def _look_again(self, stream: StreamClient) -> None:
        """Drop those of whom nothing was heard since we listen, once the server has forgotten what they said before."""
        while True:
            await self._environment.sleep(LOOK_SECONDS)
            if not self._unproven:
                continue
            asked = frozenset(self._unproven)
            try:
                page = await stream.read(BEGINNING, fresh=True)
                left = {word.client for word in self._decode(page.data)}
            except DsSyncError as error:
                _log.debug("%s: what is left is not known: %s", redact_url(stream.url), error)
                continue
            if page.up_to_date and len(page.data) <= FULL_BYTES:
                self._drop((asked & self._unproven) - left)

    def _drop(self, clients: Collection[int]) -> None:
        for client in clients:
            del self._others[client]
            self._unproven.discard(client)
        if clients:
            self._heard.notify()

    async def _leave(self, stream: StreamClient, own: Word) -> None:
        # Said again at the next `run`: only this connection ends.
        last = Word(own.client, own.clock + 1, None)
        self._own = Word(own.client, own.clock + 2, own.state)
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await stream.append(build_frame(self._adapter.encode([last])), content_type="application/octet-stream")
        except (DsSyncError, TimeoutError) as error:
            _log.debug("%s: left without a word: %s", redact_url(stream.url), error)

    def _hear(self, data: bytes) -> None:
        try:
            words = self._decode(data)
        except FramingError:
            return  # a stranger's bytes; others follow in the next page
        changed = False
        for word in words:
            changed = self._take(word) or changed
        if changed:
            self._heard.notify()

    def _decode(self, data: bytes) -> list[Word]:
        """Return all words that can be read. Raises FramingError."""
        words: list[Word] = []
        for update in parse_frames(data).payloads:
            try:
                words += self._adapter.decode(update)
            except InvalidUpdateError as error:
                _log.debug("presence that can't be read: %s", error)
        return words

    def _take(self, word: Word) -> bool:
        if word.client == self.client:
            self._defend(word)
            return False
        known = self._others.get(word.client)
        if known is not None:
            before = known[0]
            leaves = word.clock == before.clock and word.state is None and before.state is not None
            if word.clock <= before.clock and not leaves:
                return False
        now = self._environment.monotonic()
        self._others.pop(word.client, None)
        self._others[word.client] = (word, now if self._caught_up else now - OLD_SECONDS)
        if self._caught_up:
            self._unproven.discard(word.client)
        else:
            self._unproven.add(word.client)
        if len(self._others) > MAX_CLIENTS:
            first = next(iter(self._others))
            del self._others[first]
            self._unproven.discard(first)
        return word.state is not None or (known is not None and known[0].state is not None)

    def _defend(self, word: Word) -> None:
        """Somebody speaks of us: an earlier connection of ours, or one who took us for gone. We know better."""
        own = self._own
        if own is not None and own.state is not None and (word.clock > own.clock or (word.clock == own.clock and word.state is None)):
            self._own = Word(own.client, word.clock + 1, own.state)
            self._said.notify()
