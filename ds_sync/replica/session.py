"""One document, online: the asyncio shell that carries the plan out. Two tasks: the tail reads, the push sends."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from ds_sync.client.follower import Follower, Interruption
from ds_sync.client.retry import Backoff, RetryPolicy
from ds_sync.client.stream import StreamClient
from ds_sync.exceptions import (
    DocumentBusyError,
    DsSyncError,
    GoneError,
    NotFoundError,
    ProtocolError,
    ResponseError,
    ServerError,
    StoreError,
    TransportError,
    UnauthorizedError,
)
from ds_sync.protocol.messages import Page
from ds_sync.protocol.offsets import BEGINNING, Offset
from ds_sync.replica import plan
from ds_sync.replica.local import LocalDocument
from ds_sync.replica.plan import Answer, Doubt, Push, Tail
from ds_sync.replica.records import Batch, Phase
from ds_sync.replica.snapshots import SnapshotSource

_log = logging.getLogger("ds_sync.replica")

RETRY = RetryPolicy(max_attempts=1, first_delay=0.2, max_delay=10.0)
"""The session plans its own attempts; the client makes one."""

BUSY_WAIT = 0.005
"""Seconds to wait for the application to end its transaction."""

ECHO_PATIENCE = 5.0
"""Seconds in which a batch that the server said it has should come back from the stream; then the stream is read to its end to see."""

_UNREADABLE = frozenset({"unauthorized", "forbidden", "blocked"})
"""States of the tail in which nothing goes on until somebody acts."""


@dataclass(slots=True)
class Counters:
    """What a session did, since the document was opened."""

    batches: int = 0
    bytes_sent: int = 0
    retries: int = 0
    duplicates: int = 0


class Session:
    """Keeps a document in step with its stream, from `run` until that is cancelled."""

    def __init__(self, local: LocalDocument, client: StreamClient, server: str, counters: Counters, snapshots: SnapshotSource) -> None:
        self.local = local
        self.counters = counters
        self.arrived = False
        """Whether the phase in the file speaks of this connection: one that somebody has to end is taken up anew at each connect."""
        self._tail: tuple[str, DsSyncError | None] = ("connecting", None)
        self._push: tuple[str, DsSyncError | None] | None = None
        self.proven = 0
        """The newest request for proof that was answered: what stood in the stream when it was made has been received."""
        self._client, self._server, self._snapshots = client, server, snapshots
        self._snapshot_end: Offset | None = None
        """Where the snapshot that was read last sends us."""
        self._environment = local.environment
        self._tail_backoff = Backoff(RETRY, self._environment.random)
        self._push_backoff = Backoff(RETRY, self._environment.random)
        pause = local.tuning.pause
        self._turn_backoff = Backoff(RetryPolicy(first_delay=min(0.2, pause), max_delay=pause), self._environment.random)
        self._follower: Follower | None = None
        self._asked = 0
        self._marks: list[tuple[int, int]] = []  # (the follower's generation, the request for proof that it answers)
        self._contact = False
        self._doubt: Doubt | None = None
        self._by_sight = False  # how the last batch of this session was settled
        self._turns, self._turned = 0, False
        self._max_batch = local.tuning.max_batch
        self._echoes: dict[bytes, int] = {}
        """By digest: the request for proof whose answer must have brought back what the server said it has."""
        self._scratch: Any = None
        self._heal_proof, self._heal_wanted = 0, False

    @property
    def state(self) -> str:
        """How syncing stands: see `ds_sync.replica.document.Status`."""
        return self._told[0]

    @property
    def error(self) -> DsSyncError | None:
        """What went wrong last; None once it went right again."""
        return self._told[1]

    @property
    def _told(self) -> tuple[str, DsSyncError | None]:
        # Nothing is sent while nothing can be read: that is what somebody has to know then, not how the last attempt to send ended.
        return self._push if self._push is not None and self._tail[0] not in _UNREADABLE else self._tail

    def request_proof(self) -> int:
        """Ask the tail to read up to its end afresh; `proven` reaches the number returned when it has."""
        self._asked += 1
        if self._follower is not None:
            self._marks.append((self._follower.refresh(), self._asked))
        return self._asked

    async def run(self) -> None:
        """Sync until cancelled. Whatever happens is in `state` and `error`, and is tried again."""
        while True:
            try:
                await self._arrive()
                self.arrived = True
                self.local.changed.notify()
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._run_tail())
                    group.create_task(self._run_push())
            except* StoreError as errors:
                await self._rest(_first(errors), self.local.tuning.store_retry)
            except* Exception as errors:
                # A defect of ours must not end the syncing of this document in silence: the file is whole, so begin again from it.
                _log.exception("%s: the session failed and begins again", self.local.record.key.path)
                await self._rest(_first(errors), self.local.tuning.store_retry)
            self._contact = False

    async def _rest(self, error: BaseException, seconds: float) -> None:
        self._show("retrying", error if isinstance(error, DsSyncError) else DsSyncError(f"{type(error).__name__}: {error}"))
        await self._environment.sleep(seconds)

    def _show(self, state: str, error: DsSyncError | None = None) -> None:
        if (state, error) != self._tail:
            self._tail = (state, error)
            self.local.changed.notify()

    def _show_push(self, state: str, error: DsSyncError | None) -> None:
        self._push = (state, error)
        self.local.changed.notify()

    # Going online

    async def _arrive(self) -> None:
        local = self.local
        if local.record.phase is Phase.BLOCKED:
            local.set_phase(Phase.FOLLOW)
        if local.record.server is None:
            local.set_server(self._server)
        while local.record.server != self._server:
            # Another server, or another name of the same one: the incarnation tells. What differs is merged, as the user asked for it.
            try:
                found = (await self._client.head()).incarnation
            except NotFoundError:
                found = None
            except DsSyncError as error:
                await self._fail(error, plan.judge_other_failure(error))
                continue
            if found is None or found != local.record.incarnation:
                local.begin_heal(found or local.record.incarnation)
            local.set_server(self._server)
        self._scratch = None
        if local.record.expected:  # of another session, or another process, too
            self._echoes = dict.fromkeys(local.record.expected, self.request_proof())

    # The tail

    async def _run_tail(self) -> None:
        local = self.local
        while True:
            if local.record.phase in (Phase.DIVERGED, Phase.DELETED):
                self._contact = False
                await local.changed.wait()
                continue
            if local.record.phase is Phase.HEAL and self._scratch is None:
                local.begin_heal(local.record.incarnation)
                self._scratch, self._heal_proof = local.adapter.new(), 0
            try:
                if local.record.checkpoint != BEGINNING or await self._begin():
                    await self._follow()
            except StoreError:
                raise
            except DsSyncError as error:
                await self._fail(error, plan.judge_tail_failure(error, local.record))

    async def _begin(self) -> bool:
        """Take the newest snapshot, if there is one, so that the stream need not be read from its beginning; return whether to go on.

        A sealed batch may be inside it, where it can't be seen. That does not matter: before the first page none is sealed, and healing
        settles by content.
        """
        local = self.local
        page = await self._snapshots.find()
        if page is None:
            return True
        verdict = plan.judge_page(page, local.record)
        if verdict is not Tail.GO_ON:
            await self._turn(verdict, page.incarnation)
            return False
        self._show("catching-up")
        await self._take(page, whole=True)
        if local.record.checkpoint == BEGINNING:
            self._snapshots.refuse()
        else:
            self._snapshot_end = page.next_offset
        return True

    async def _follow(self) -> None:
        local = self.local
        async with self._client.follow(local.record.checkpoint) as follower:
            self._follower = follower
            # What was asked before this follower is answered by its first proof past every cache.
            self._marks = [(follower.refresh(), self._asked)] if self._asked > self.proven else []
            try:
                async for event in follower:
                    if isinstance(event, Interruption):
                        self._show("unauthorized" if isinstance(event.error, UnauthorizedError) else "retrying", event.error)
                    elif not await self._receive(event, follower.generation):
                        return
            finally:
                self._follower = None
        self._show("closed")
        await self._environment.sleep(local.tuning.pause)

    async def _receive(self, page: Page, generation: int) -> bool:
        """Take a page in; return whether the follower may go on."""
        local = self.local
        verdict = plan.judge_page(page, local.record)
        if verdict is Tail.GO_ON and self._heal_wanted:  # meanwhile the stream may have been made anew: that is not healed
            verdict = Tail.HEAL
        if verdict is not Tail.GO_ON:
            await self._turn(verdict, page.incarnation)
            return False
        await self._take(page)
        self._contact = True
        if page.up_to_date:
            self._tail_backoff.reset()
            done = [asked for mark, asked in self._marks if mark <= generation]
            if done:
                proven = max(self.proven, *done)
                self._marks = [(mark, asked) for mark, asked in self._marks if mark > generation]
                if self._is_echo_lost(proven):
                    await self._turn(Tail.HEAL, page.incarnation)  # nothing is proven but that: who waits for a proof waits on
                    return False
                self.proven = proven
            if local.record.phase is Phase.HEAL:
                await self._heal()
        self._show("live" if page.up_to_date else "catching-up")
        local.changed.notify()
        return True

    async def _take(self, page: Page, *, whole: bool = False) -> None:
        """Apply and store the page, as soon as the application has no transaction open and the file has space."""
        while True:
            try:
                seen = self.local.receive(page, scratch=self._scratch, whole=whole)
            except DocumentBusyError:
                await self._environment.sleep(BUSY_WAIT)
            except StoreError as error:
                self._show("retrying", error)
                await self._environment.sleep(self.local.tuning.store_retry)
            else:
                if seen is not None:
                    self._settled(by_sight=True)
                return

    async def _heal(self) -> None:
        local = self.local
        if not self._heal_proof:
            # Other replicas have noticed, too: the first gives everything back, and the rest find it there when they look again.
            await self._environment.sleep(self._environment.random.uniform(0.0, local.tuning.heal_jitter))
            self._heal_proof = self.request_proof()
        elif self.proven >= self._heal_proof:
            while not self._end_heal():
                await self._environment.sleep(BUSY_WAIT)
            self._scratch, self._heal_proof, self._doubt, self._turns, self._push = None, 0, None, 0, None

    def _end_heal(self) -> bool:
        if self.local.unsaved:  # a batch must not carry what the file does not have
            return False
        try:
            self.local.end_heal(self._scratch)
        except DocumentBusyError:
            return False
        except StoreError:
            self._scratch = None  # it may hold already what the stream lacks: read the stream again
            raise
        return True

    async def _fail(self, error: DsSyncError, verdict: Tail) -> None:
        """Do what a failed request demands, and wait as long as it demands."""
        if verdict is Tail.BLOCK and isinstance(error, GoneError) and self._snapshots.reconsider():
            verdict = Tail.RETRY
        if verdict in (Tail.RETRY, Tail.PAUSE, Tail.BLOCK):
            state = "unauthorized" if isinstance(error, UnauthorizedError) else "forbidden" if verdict is Tail.PAUSE else "retrying"
            self._show("blocked" if verdict is Tail.BLOCK else state, error)
            await self._environment.sleep(_delay(error, self._tail_backoff) if verdict is Tail.RETRY else self.local.tuning.pause)
            return
        if verdict is Tail.HEAL and self.local.record.checkpoint == self._snapshot_end:
            self._snapshots.refuse()  # it leads to no place in this stream
        if verdict in (Tail.CREATE, Tail.HEAL):
            self._show(verdict.name.lower(), error)
        await self._turn(verdict, getattr(error, "incarnation", None))
        if verdict in (Tail.DIVERGED, Tail.DELETED):
            self._show(verdict.name.lower(), error)  # not before it stands in the file, where it can be resolved

    async def _turn(self, verdict: Tail, incarnation: str | None) -> None:
        """The stream is not the one we knew: change phase accordingly."""
        local = self.local
        self._contact = False
        if self._turned:  # a server that contradicts itself must not be read from its beginning again and again
            await self._environment.sleep(self._turn_backoff.next_delay())
        self._turned = True
        if verdict is Tail.CREATE:
            await self._create()
        elif verdict is Tail.HEAL:
            self._scratch, self._heal_wanted = None, False
            local.begin_heal(incarnation or local.record.incarnation)
        elif verdict is Tail.DIVERGED:
            local.set_phase(Phase.DIVERGED)
        elif verdict is Tail.DELETED:
            local.set_phase(Phase.DELETED)
        else:
            raise AssertionError(f"{verdict} changes no phase")

    async def _create(self) -> None:
        local = self.local
        lost = local.record.checkpoint != BEGINNING or local.record.incarnation is not None
        try:
            info = await self._client.create(content_type=local.adapter.content_type, incarnation=local.record.incarnation)
        except DsSyncError as error:
            if lost and isinstance(error, (TransportError, ServerError, ProtocolError)):
                # It may have been made all the same. At the checkpoint of an empty stream nobody would notice what it lacks.
                self._scratch = None
                local.begin_heal(local.record.incarnation)
            await self._fail(error, plan.judge_other_failure(error))
            return
        if plan.is_another_life(info.incarnation, local.record):
            local.set_phase(Phase.DIVERGED)  # somebody was faster, and made another document
        elif lost:
            # We knew a stream here, and the server does not: it lost it. What we have goes back.
            self._scratch = None
            local.begin_heal(info.incarnation or local.record.incarnation)

    # The push

    async def _run_push(self) -> None:
        while True:
            # Planned anew after every wait: meanwhile the tail may have changed the phase, or settled the batch.
            try:
                await self._push_on()
            except DocumentBusyError:
                await self._environment.sleep(BUSY_WAIT)
            except StoreError as error:
                self._show_push("retrying", error)
                await self._environment.sleep(self.local.tuning.store_retry)

    async def _push_on(self) -> None:
        local, batch = self.local, self.local.record.batch
        step = plan.next_push(
            phase=local.record.phase,
            contact=self._contact,
            batch=batch,
            outbox=local.outbox,
            unsaved=len(local.unsaved),
            doubt=self._doubt,
            proven=self.proven,
        )
        if step in (Push.IDLE, Push.AWAIT_PROOF):
            await local.changed.wait()
        elif step is Push.SEAL:
            local.seal(max_bytes=self._max_batch)
            self._push = None
        elif batch is None:
            raise AssertionError(f"{step} without a batch")
        elif step is Push.SEND:
            await self._send(batch)
        elif step is Push.BLOCK:
            said = self._push[1] if self._push else None
            self._block(said or ProtocolError("the server says that it has a batch which it does not have"))
        elif step is Push.RESEAL:
            local.reseal(batch)
            self._turns, self._doubt = self._turns + 1, None
        else:
            half = max(1, len(batch.payload) // 2)
            local.seal_smaller(batch, max_bytes=half)
            self._max_batch, self._turns, self._doubt = half, 0, None

    def _is_due(self, batch: Batch) -> bool:
        """Whether the batch is still to be sent: not seen by the tail, and no healing begun."""
        return self.local.record.batch is batch and self.local.record.phase is Phase.FOLLOW

    async def _until_not_due(self, batch: Batch) -> None:
        while self._is_due(batch):
            await self.local.changed.wait()

    async def _send(self, batch: Batch) -> None:
        local, body = self.local, batch.body
        self.counters.bytes_sent += len(body)
        append = asyncio.ensure_future(
            self._client.append(body, content_type=local.adapter.content_type, producer=batch.stamp, incarnation=local.record.incarnation)
        )
        moot = asyncio.ensure_future(self._until_not_due(batch))
        try:
            await asyncio.wait((append, moot), return_when=asyncio.FIRST_COMPLETED)
        finally:
            append.cancel()
            moot.cancel()
            await asyncio.gather(append, moot, return_exceptions=True)
        if not self._is_due(batch):
            return
        try:
            result = append.result()
        except DsSyncError as error:
            await self._judge(error)
            return
        if result.duplicate:
            self.counters.duplicates += 1
            self._show_push("verifying", None)
            self._question(smaller=False)
        else:
            local.settle(batch)
            self._settled(by_sight=False)
            self._expect_echo()

    def _settled(self, *, by_sight: bool) -> None:
        self._by_sight = by_sight
        self.counters.batches += 1
        self._doubt, self._turns, self._push = None, 0, None
        self._push_backoff.reset()
        self._turn_backoff.reset()
        self.local.changed.notify()

    def _expect_echo(self) -> None:
        """The server may be set back to an older copy after its answer and before we read: our checkpoint would not show that."""
        for digest in self.local.record.expected:
            self._echoes.setdefault(digest, self._asked + 1)
        self.local.changed.call_later(ECHO_PATIENCE, self._ask_for_echoes)

    def _ask_for_echoes(self) -> None:
        if any(due > self._asked and digest in self.local.record.expected for digest, due in self._echoes.items()):
            self.request_proof()

    def _is_echo_lost(self, proven: int) -> bool:
        self._echoes = {digest: due for digest, due in self._echoes.items() if digest in self.local.record.expected}
        return any(due <= proven for due in self._echoes.values())

    def _question(self, *, smaller: bool) -> None:
        self._doubt = Doubt(self.request_proof(), self._turns + 1, smaller)

    def _block(self, error: DsSyncError) -> None:
        self.local.set_phase(Phase.BLOCKED)
        self._show_push("blocked", error)

    async def _judge(self, error: DsSyncError) -> None:
        """Do what a failed append demands, and wait as long as it demands."""
        answer = plan.judge_append_failure(error, by_sight=self._by_sight)
        if answer in (Answer.DOUBT, Answer.DOUBT_SIZE):
            self._show_push("verifying", error)
            self._question(smaller=answer is Answer.DOUBT_SIZE)
        elif answer is Answer.BLOCK:
            self._block(error)
        elif answer is Answer.PAUSE:
            self._show_push("unauthorized" if isinstance(error, UnauthorizedError) else "forbidden", error)
            await self._environment.sleep(self.local.tuning.pause)
        else:
            self.counters.retries += 1
            self._show_push("retrying", error)
            if answer is not Answer.RETRY:
                # The tail finds out what is the matter, and only it changes the phase.
                self._heal_wanted = answer is Answer.HEAL
                self._contact = False
                self.request_proof()
            await self._environment.sleep(_delay(error, self._push_backoff))


def _delay(error: DsSyncError, backoff: Backoff) -> float:
    return backoff.next_delay(error.retry_after if isinstance(error, ResponseError) else None)


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
