"""A room: the clients of one document, and what they say, stored before anybody hears it.

One task stores what came in, many updates in one append, and passes on what is durable, ours and that of clients on HTTP alike, in the
order of the log. Another passes on presence. A room that fails closes its own connections and no others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from ds_sync_yjs import YjsAdapter
from ds_sync_yjs.updates import join_updates, require_update

from ds_sync.crdt import Word
from ds_sync.exceptions import ConflictError, DsSyncError, GoneError, InvalidUpdateError, NotFoundError, ServerError, StoreError
from ds_sync.server.gateway import Doorway, Mark, SharedDocument
from ds_sync_ywebsocket import messages
from ds_sync_ywebsocket.attendance import Attendance, Held
from ds_sync_ywebsocket.connection import COME_BACK, FAILED, Connection
from ds_sync_ywebsocket.document_copy import DocumentCopy

HELD_BYTES: Final = 8 * 1024 * 1024
"""Of updates that wait to be stored. Who sends more is not read from until they are."""

COMPARED_ABOVE: Final = 4096
"""Bytes. What is typed is stored as it comes; larger updates are compared with what is stored, as are the answers to our step 1."""

OFF_LOOP_BYTES: Final = 64 * 1024
"""An update above this is checked in a thread, and the others go on meanwhile."""

PRESENCE_BYTES: Final = 64 * 1024
"""Of one presence update, as over HTTP."""

QUIET_SECONDS: Final = 10.0
"""After which a client that has heard nothing is sent a heartbeat."""

CLOSE_CODES: Final = 4000
"""Plus the HTTP status of a refusal. y-websocket clients do not come back by themselves after 4400 to 4499."""

TRIMMED: Final = "OFFSET_EXPIRED"
"""The code of a refusal to read what is in a snapshot and was dropped (`--keep-updates`)."""

LOADS: Final = 3
"""How often a document is read again whose snapshot was replaced meanwhile."""

log = logging.getLogger(__name__)


class Room:
    """One document and its clients."""

    def __init__(self, document: SharedDocument, doorway: Doorway, presence: Held) -> None:
        """Open it. `presence` is what all rooms hold of it together."""
        self._document = document
        self._doorway = doorway
        self._environment = doorway.environment
        self._words = YjsAdapter.presence
        self._copy = DocumentCopy(YjsAdapter(), document.path)
        self._attendance = Attendance(presence)
        self._told_away = 0
        """Of the words that were not taken: how many were logged."""
        self._connections: dict[Connection, None] = {}
        self._waiting: deque[tuple[Connection, bytes]] = deque()
        """Updates that came in, and are not stored."""
        self._waiting_bytes = 0
        self._room_to_wait = asyncio.Event()
        self._room_to_wait.set()
        self._bell, self._presence_bell = asyncio.Event(), asyncio.Event()
        self._unread = True
        """Whether the log may hold more than we have read."""
        self._unwatch = (document.watch(self._notice), document.watch_presence(self._presence_bell.set))
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks = (asyncio.ensure_future(self._keep(self._work())), asyncio.ensure_future(self._keep(self._hear())))
        self.over = False
        """Nobody enters any more: whoever comes opens another."""
        self.empty_since: float | None = self._environment.monotonic()

    @property
    def path(self) -> str:
        """What it goes by."""
        return self._document.path

    async def enter(self, connection: Connection) -> None:
        """Let a client in, once the document is loaded: say where we are and who is there, and pass on what comes."""
        self._connections[connection] = None
        self.empty_since = None
        await asyncio.shield(self._loaded)
        if not self.over:
            connection.post(messages.build_sync(messages.STEP_1, self._copy.version()))
            connection.entered = True
            present = self._attendance.present()
            if present:
                connection.post(messages.build_presence(self._words.encode(present)))

    async def leave(self, connection: Connection) -> None:
        """Let a client go, and say that those are gone for whom it spoke."""
        self._connections.pop(connection, None)
        if not self._connections:
            self.empty_since = self._environment.monotonic()
        gone = self._attendance.leave(connection)
        if gone:
            await self._document.say(self._words.encode(gone))

    async def receive(self, connection: Connection, data: bytes) -> None:
        """Act on what a client sent. Raises FramingError or InvalidUpdateError for bytes that mean nothing: nothing has happened."""
        message = messages.parse_message(data)
        if message is None:
            return
        if message.kind == messages.PRESENCE:
            await self._receive_presence(connection, message.body)
        elif message.kind == messages.ASK_PRESENCE:
            await connection.answer(messages.build_presence(self._words.encode(self._attendance.present())))
        elif message.step == messages.STEP_1:
            await connection.answer(messages.build_sync(messages.STEP_2, self._copy.missing(message.body)))
        else:
            connection.answered |= message.step == messages.STEP_2
            await self._receive_update(connection, message.body, compare=message.step == messages.STEP_2)

    def look_after(self, now: float) -> None:
        """Cut off stalled clients, give a sign of life to silent ones, forget who was not heard of. To be called every few seconds."""
        for connection in tuple(self._connections):
            connection.look_after(now, messages.HEARTBEAT, QUIET_SECONDS)
        self._tell(self._attendance.expire(now))
        if self._attendance.turned_away > self._told_away:
            log.warning("%s: %d words of presence were beyond its limits", self.path, self._attendance.turned_away - self._told_away)
            self._told_away = self._attendance.turned_away

    def end(self, code: int, reason: str) -> None:
        """Hang up on everybody."""
        self.over = True
        if not self._loaded.done():
            self._loaded.set_result(None)
        for connection in tuple(self._connections):
            connection.close(code, reason)

    async def aclose(self) -> None:
        """Stop working. Who is still here is hung up on."""
        self.end(COME_BACK, "the room was closed")
        for unwatch in self._unwatch:
            unwatch()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self._attendance.clear()

    def _notice(self) -> None:
        self._unread = True
        self._bell.set()

    async def _receive_update(self, connection: Connection, update: bytes, *, compare: bool) -> None:
        if update == messages.NOTHING:
            return
        compare |= not connection.may_write
        if len(update) > OFF_LOOP_BYTES:
            await self._environment.run_in_thread(require_update, update)
        else:
            require_update(update)
        news: bytes | None = update
        if compare or len(update) > COMPARED_ABOVE:
            news = self._copy.news(update)
        if news is None:
            return
        if not connection.may_write:
            self._refuse_to_write(connection)
            return
        self._waiting.append((connection, news))
        self._waiting_bytes += len(news)
        self._bell.set()
        if self._waiting_bytes > HELD_BYTES:
            self._room_to_wait.clear()
            await self._room_to_wait.wait()

    def _refuse_to_write(self, connection: Connection) -> None:
        """Say it once: y-websocket clients print it. What the client changes stays with it, and it goes on to see what others do."""
        if not connection.told_to_read_only:
            connection.told_to_read_only = True
            connection.post(messages.build_refusal("you may only read here: what you change is not kept"))

    async def _receive_presence(self, connection: Connection, update: bytes) -> None:
        if len(update) > PRESENCE_BYTES:
            raise InvalidUpdateError(f"a presence update of {len(update)} bytes")
        words = self._words.decode(update)
        words = self._attendance.claim(connection, words, first=not connection.answered)
        stale = self._attendance.select_stale(words)
        if stale:
            connection.post(messages.build_presence(self._words.encode(stale)))
        news = self._attendance.select_news(words)
        if news:
            await self._document.say(self._encode(news))

    def _encode(self, words: Sequence[Word]) -> bytes:
        try:
            return self._words.encode(words)
        except ValueError as error:  # "NaN" and half a character are read, and are nothing that could be passed on
            raise InvalidUpdateError(f"a presence state that is no JSON: {error}") from error

    async def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Work until the room is closed; a failure is the end of the room."""
        try:
            await work
        except (NotFoundError, GoneError) as error:
            log.info("%s: %s", self.path, error)
            if error.code == TRIMMED:  # we have fallen behind, and begin again from the snapshot when somebody comes
                self.end(COME_BACK, "what follows is not kept any more: come back")
            else:
                self.end(CLOSE_CODES + 404, "the document is gone")
        except DsSyncError as error:
            log.warning("%s: %s", self.path, error)
            self.end(COME_BACK, "the server can't serve this document now")
        except Exception:
            log.exception("%s: the room failed", self.path)
            self.end(FAILED, "the server failed")

    async def _work(self) -> None:
        mark = await self._load()
        self._loaded.set_result(None)
        while True:
            await self._bell.wait()
            self._bell.clear()
            await asyncio.sleep(0)  # what else arrives in this turn of the loop is stored and sent together with it
            while self._waiting:
                mark = await self._store(mark)
            mark = await self._catch_up(mark)

    async def _load(self) -> Mark:
        for _ in range(LOADS):
            try:
                return await self._read_all()
            except GoneError as error:
                if error.code != TRIMMED:
                    raise  # else there is a newer snapshot
        return await self._read_all()

    async def _read_all(self) -> Mark:
        part = await self._document.begin()
        self._copy.take(await self._select_updates(part.updates))
        while not part.up_to_date:
            part = await self._document.read(part.mark)
            self._copy.take(await self._select_updates(part.updates))
        return part.mark

    async def _store(self, mark: Mark) -> Mark:
        """Append what waits, about a page at a time."""
        updates: list[bytes] = []
        senders: dict[Connection, None] = {}
        size = 0
        while self._waiting and (not updates or size + len(self._waiting[0][1]) <= self._doorway.page_bytes):
            sender, update = self._waiting.popleft()
            senders[sender] = None
            updates.append(update)
            size += len(update)
        self._waiting_bytes -= size
        try:
            after = await self._document.append(updates, mark)
        except (NotFoundError, GoneError):
            raise
        except (ConflictError, StoreError, ServerError) as error:  # ServerError: there are as many streams as there may be
            # Nothing is stored, and nobody else is concerned. Who wrote it still has it, and brings it along when it comes back.
            log.warning("%s: %d updates could not be stored: %s", self.path, len(updates), error)
            code = CLOSE_CODES + error.status if isinstance(error, ConflictError) else COME_BACK
            for sender in senders:
                sender.close(code, "this can't be stored")
            return mark
        finally:
            self._room_to_wait.set()
        if after is None:
            self._unread = True
            return mark if mark.incarnation is not None else await self._catch_up(mark)
        self._pass_on(updates)
        return after

    async def _catch_up(self, mark: Mark) -> Mark:
        """Pass on what others have stored."""
        while self._unread:
            self._unread = False
            part = await self._document.read(mark)
            self._pass_on(await self._select_updates(part.updates))
            mark = part.mark
            self._unread |= not part.up_to_date
        return mark

    async def _select_updates(self, updates: Sequence[bytes]) -> list[bytes]:
        """Leave out what clients on HTTP have stored that is no update: ours would fail on it."""
        good = []
        for update in updates:
            try:
                if len(update) > OFF_LOOP_BYTES:
                    await self._environment.run_in_thread(require_update, update)
                else:
                    require_update(update)
            except InvalidUpdateError as error:
                log.warning("%s: an update of %d bytes is not passed on: %s", self.path, len(update), error)
                continue
            good.append(update)
        return good

    def _pass_on(self, updates: Sequence[bytes]) -> None:
        """Send everybody what is stored now, as one update."""
        if not updates:
            return
        self._copy.take(updates)
        try:
            merged: Sequence[bytes] = updates if len(updates) == 1 else (join_updates(updates),)
        except InvalidUpdateError:  # each can be read, and they contradict each other
            merged = updates
        for update in merged:
            self._post(messages.build_sync(messages.UPDATE, update))

    async def _hear(self) -> None:
        after = None
        while True:
            self._presence_bell.clear()
            said, after = self._document.hear(after)
            news: list[Word] = []
            for word in said:  # at first, what was said before there was this room
                try:
                    news += self._attendance.hear(self._words.decode(word.presence), word.at)
                except InvalidUpdateError as error:
                    log.debug("%s: presence that is none: %s", self.path, error)
            self._tell(news)
            await self._presence_bell.wait()

    def _tell(self, words: Sequence[Word]) -> None:
        if words:
            self._post(messages.build_presence(self._words.encode(words)))

    def _post(self, message: bytes) -> None:
        for connection in tuple(self._connections):
            if connection.entered:
                connection.post(message)
