"""YWebsocketProvider: a document kept in step with a room of a y-websocket server, which need not know anything of ds-sync.

Nothing is remembered between connections. What the server lacks is found at each connection from its own state vector; what comes in is
merged, and is no news the second time. So neither side grows by reconnecting, and a server that lost its memory gets everything back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from ds_sync_yjs.updates import join_updates, require_update, require_version
from ds_sync_yjs.wire import is_within, read_ranges
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException

from ds_sync.environment import Environment
from ds_sync.exceptions import (
    DocumentBusyError,
    DsSyncError,
    ForbiddenError,
    FramingError,
    InvalidUpdateError,
    ProtocolError,
    StoreError,
    TransportError,
)
from ds_sync.peers import PeerDocument, PeerStatus
from ds_sync.protocol.urls import redact_url, split_url
from ds_sync_ywebsocket import messages
from ds_sync_ywebsocket.proof import Proof, Question

MAX_MESSAGE: Final = 256 * 1024 * 1024
"""Bytes of one message of the server: the first answer holds the whole document."""

BUSY_WAIT: Final = 0.005
"""Seconds to wait for the application to end its transaction."""

PROOF_BYTES: Final = 1024 * 1024
"""A question for proof about more than this is asked less often, in proportion."""

REFUSALS: Final = 3
"""Answers in a row that lack what we sent, after which the server counts as one that does not take our edits."""

log = logging.getLogger(__name__)

_wire_log = logging.getLogger(f"{__name__}.wire")
_wire_log.setLevel(logging.INFO)  # below, `websockets` logs what it sends: the URL and the headers, with what is secret

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds."""

    first_delay: float = 0.5
    """Before the second attempt to connect, at most; it doubles."""
    max_delay: float = 30.0
    pause: float = 30.0
    """Before the next attempt after the server refused us; at most, and without jitter."""
    proof: float = 1.0
    """Between two questions for proof, at least: each is answered with all deletions of the document."""
    ping: float = 15.0
    silence: float = 30.0
    """After a ping without an answer the connection is given up: so after 45 s in which nothing came."""


class YWebsocketProvider:
    """Keeps `document` in step with the room that `url` names, while the context is open (`ds_sync.peers.Peer`).

    `url`: `ws://host:port/room`; tokens belong into its query or into `headers`. `status.confirmed` says that the server *has shown* all
    that the document holds. With most servers that means: in their memory. Only our own gateway shows what it has fsynced.
    Errors and logs leave out of the URL what may be secret. Raises ValueError for another URL.
    """

    def __init__(
        self,
        document: PeerDocument,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        environment: Environment | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._document = document
        self._url = url
        self._place = redact_url(url)
        """What is said of it: tokens stand in URLs."""
        parts = split_url(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.fragment:
            raise ValueError(f"a room is ws://server/room or wss://server/room, not {self._place!r}")
        self._headers = dict(headers or {})
        self._environment = environment or Environment()
        self._patience = patience or Patience()
        self._status = PeerStatus("offline", confirmed=False, last_error=None)
        self._changed: asyncio.Future[None] | None = None
        self._proof = Proof()
        self._pending: list[bytes] = []
        """Changes of the document that the server has not been sent."""
        self._heard: list[bytes] | None = None
        """Changes that the server's update makes, while it is merged."""
        self._bell = asyncio.Event()
        self._proof_due = False
        self._next_proof = 0.0
        self._refusals = 0
        self._asked = 0
        self._proven = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def status(self) -> PeerStatus:
        """How it stands now."""
        return self._status

    async def changed(self) -> None:
        """Wait until the status may have changed."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    async def synced(self) -> None:
        """Wait until what the document holds now was shown to be on the server, and what the server had is here."""
        self._asked += 1
        wanted = self._asked
        self._request_proof()
        while self._proven < wanted:
            await self.changed()

    async def __aenter__(self) -> Self:
        subscription = self._document.doc.observe(self._receive_change)
        self._task = asyncio.create_task(self._run(subscription), name=f"y-websocket {self._document.path}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
            self._show(state="offline")

    # Connections

    async def _run(self, subscription: Any) -> None:
        patience = self._patience
        bound = patience.first_delay
        try:
            while True:
                self._show(state="connecting")
                try:
                    await self._connect()
                    error: DsSyncError = TransportError(f"{self._place}: the server hung up")
                except (OSError, WebSocketException) as failure:
                    error = _translate(failure, self._place)
                except DsSyncError as failure:
                    error = failure
                except Exception as failure:
                    # A defect of ours must not end the syncing in silence: both sides are whole, so begin again.
                    log.exception("%s: the conversation failed and begins again", self._place)
                    error = DsSyncError(f"{type(failure).__name__}: {failure}")
                if self._status.state == "live":
                    bound = patience.first_delay
                delay = self._environment.random.uniform(0.0, bound)
                if isinstance(error, ForbiddenError):
                    self._show(state="forbidden", confirmed=False, last_error=error)
                    delay = patience.pause
                else:
                    self._show(state="retrying", confirmed=False, last_error=error)
                bound = min(bound * 2, patience.max_delay)
                await self._environment.sleep(delay)
        finally:
            self._document.doc.unobserve(subscription)

    async def _connect(self) -> None:
        patience = self._patience
        async with connect(
            self._url,
            additional_headers=self._headers,
            max_size=MAX_MESSAGE,
            compression=None,
            logger=_wire_log,
            ping_interval=patience.ping,
            ping_timeout=patience.silence,
            close_timeout=min(2.0, patience.silence),
        ) as socket:
            self._proof = Proof()
            self._pending.clear()  # found anew from the server's state vector
            self._proof_due, self._next_proof, self._refusals = False, 0.0, 0
            self._show(state="catching-up", connections=self._status.connections + 1, last_error=None)
            version = await self._patiently(self._document.version)
            self._proof.ask(Question(None, version, 0, 0))
            await socket.send(messages.build_sync(messages.STEP_1, version))
            tasks = (asyncio.create_task(self._listen(socket)), asyncio.create_task(self._send(socket)))
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome

    async def _patiently(self, read: Callable[[], T]) -> T:
        while True:
            try:
                return read()
            except DocumentBusyError:
                await self._environment.sleep(BUSY_WAIT)

    # What the document says

    def _receive_change(self, event: Any) -> None:
        update = bytes(event.update)
        if self._heard is not None:
            self._heard.append(update)
        else:
            self._put(update)

    def _put(self, update: bytes) -> None:
        self._pending.append(update)
        self._show(confirmed=False)
        self._request_proof()

    def _request_proof(self) -> None:
        self._proof_due = True
        self._bell.set()

    async def _send(self, socket: ClientConnection) -> None:
        while True:
            wait = self._next_proof - self._environment.monotonic()
            if self._pending:
                pending, self._pending = self._pending, []
                update = pending[0] if len(pending) == 1 else join_updates(pending)
                await socket.send(messages.build_sync(messages.UPDATE, update))
                self._show(sent=self._status.sent + 1)
            elif self._proof_due and not self._proof.waiting and wait <= 0:
                await self._ask(socket)
            else:
                self._bell.clear()
                timeout = wait if self._proof_due and not self._proof.waiting else None
                try:
                    async with asyncio.timeout(timeout):
                        await self._bell.wait()
                except TimeoutError:
                    continue

    async def _ask(self, socket: ClientConnection) -> None:
        # All in one turn: what the document holds now was sent before, so the answer must bring it back.
        base = self._proof.base
        document = self._document
        expected, reached, edit = await self._patiently(lambda: (document.missing(base), document.version(), document.newest_edit()))
        if self._pending:
            return
        self._proof_due = False
        self._next_proof = self._environment.monotonic() + self._patience.proof * max(1.0, len(expected) / PROOF_BYTES)
        self._proof.ask(Question(expected, reached, self._asked, edit))
        await socket.send(messages.build_sync(messages.STEP_1, base))

    # What the server says

    async def _listen(self, socket: ClientConnection) -> None:
        async for data in socket:
            if isinstance(data, bytes):  # text means nothing here
                await self._receive(socket, data)

    async def _receive(self, socket: ClientConnection, data: bytes) -> None:
        if data[:2] == bytes((messages.AUTH, 0)):
            raise ForbiddenError(f"{self._place}: permission denied: {data[3:200].decode('utf-8', 'replace')}")
        try:
            message = messages.parse_message(data)
        except FramingError as error:
            self._refuse(error)
            return
        if message is None or message.kind != messages.SYNC:
            return
        if message.step == messages.STEP_1:
            await self._answer(socket, message.body)
            return
        try:
            require_update(message.body)
        except InvalidUpdateError as error:
            self._refuse(error)
            return
        await self._merge(message.body)
        if message.step == messages.STEP_2:
            self._judge(message.body)

    async def _answer(self, socket: ClientConnection, version: bytes) -> None:
        try:
            require_version(version)
            update = await self._patiently(lambda: self._document.missing(version))
        except InvalidUpdateError as error:
            self._refuse(error)
            return
        self._proof.hear_version(version)
        await socket.send(messages.build_sync(messages.STEP_2, update))

    async def _merge(self, update: bytes) -> None:
        while True:
            self._heard = []
            try:
                news = self._document.merge(update)
            except DocumentBusyError:
                await self._environment.sleep(BUSY_WAIT)
                continue
            except InvalidUpdateError as error:
                self._refuse(error)
                return
            except StoreError as error:  # it is in the document, and the file gets it as soon as it can
                self._show(last_error=error)
                news = True
            finally:
                heard, self._heard = self._heard, None
            # What waited here for this update is news to the server.
            held = read_ranges(update) if heard else {}
            for change in heard:
                if not is_within(read_ranges(change), held, {}):
                    self._put(change)
            if news:
                self._show(received=self._status.received + 1)
            return

    def _judge(self, update: bytes) -> None:
        question, shown = self._proof.hear_answer(update)
        if question is None:
            return
        if question.expected is None:  # the first: now both have what the other had
            self._show(state="live")
            self._request_proof()
        elif shown:
            self._refusals = 0
            error = self._settle(question.edit)
            self._proven = max(self._proven, question.mark)
            confirmed = not self._pending and not self._proof_due
            self._show(state="live", confirmed=confirmed or self._status.confirmed, last_error=error)
            self._bell.set()
        else:
            self._refusals += 1
            self._proof_due = True
            self._next_proof = self._environment.monotonic() + min(self._patience.proof * 2**self._refusals, self._patience.pause)
            self._pending.append(question.expected)
            if self._refusals >= REFUSALS:
                refusal = ProtocolError(f"{self._place}: the server does not keep what it is sent: it may be read-only")
                self._show(state="refusing", confirmed=False, last_error=refusal)
            self._bell.set()

    def _settle(self, edit: int) -> DsSyncError | None:
        try:
            self._document.settle(edit, redact_url(self._url.partition("?")[0]))
        except DocumentBusyError:
            self._request_proof()
        except StoreError as error:
            return error
        return None

    def _refuse(self, error: DsSyncError) -> None:
        log.warning("%s: the server sent what can't be used: %s", self._place, error)
        self._show(refused=self._status.refused + 1, last_error=error)

    def _show(self, **news: Any) -> None:
        self._status = replace(self._status, **news)
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


def _translate(failure: Exception, place: str) -> DsSyncError:
    if isinstance(failure, InvalidURI):  # its text has the URL as it is
        return ProtocolError(f"no WebSocket can be at {place}")
    if isinstance(failure, InvalidStatus) and failure.response.status_code in (401, 403):
        return ForbiddenError(f"the server refused us: {failure}")
    if isinstance(failure, InvalidHandshake):
        return ProtocolError(f"no WebSocket there: {failure}")
    return TransportError(f"no connection: {failure}")
