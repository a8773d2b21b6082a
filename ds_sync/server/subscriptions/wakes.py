"""Subscriptions at work: what has to be done, and when. The rules are in ds_sync.protocol.subscription.

Nothing here has to survive: after a start every subscription looks at its streams again. One task at a time tends a subscription, so a slow
receiver holds up nobody but itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Final

from ds_sync.environment import Environment
from ds_sync.exceptions import ConflictError, NotFoundError, ResponseError, StoreError
from ds_sync.protocol import subscription as machine
from ds_sync.protocol.decisions import AppendRequest, Change, StreamView, decide_append, require_stream
from ds_sync.protocol.history import Place
from ds_sync.protocol.subscription import MAX_WAKE_STREAMS, Event, Phase, Step, Subscription, Tail, Wake
from ds_sync.protocol.subscription_records import build_event
from ds_sync.server.engines.base import INTERNAL, StorageEngine
from ds_sync.server.subscriptions.index import Entry, SubscriptionIndex
from ds_sync.server.subscriptions.shelf import Damage, SubscriptionShelf
from ds_sync.server.subscriptions.signing import Signer
from ds_sync.server.subscriptions.views import build_delivery
from ds_sync.server.subscriptions.webhooks import Webhooks

STORE_RETRY_SECONDS: Final = 1.0
_BREATH: Final = 500
"""Streams looked at before others get their turn."""
_TRIES: Final = 5

log = logging.getLogger(__name__)


class Wakes:
    """The subscriptions of one engine."""

    def __init__(self, engine: StorageEngine, environment: Environment, webhooks: Webhooks) -> None:
        self._engine = engine
        self._environment = environment
        self._webhooks = webhooks
        self.shelf = SubscriptionShelf(engine)
        self.entries: dict[str, Entry] = {}
        """By name."""
        self.damaged: dict[str, Damage] = {}
        """By name: what was set aside because it can't be read, and is at rest."""
        self.deliveries: Counter[Event] = Counter()
        """Of webhooks, since the start, by what came of them."""
        self.index = SubscriptionIndex()
        self.creating = asyncio.Lock()
        """Held while subscriptions are loaded, or a new one is made."""
        self._loaded = self._started = False
        self._closed = False
        self._signer: Signer | None = None

    async def start(self) -> None:
        """Load all subscriptions, and wake those with something to do. Further calls do nothing. Raises StoreError.

        What can't be read is set aside, and an error in the log names it.
        """
        if self._started:
            return
        async with self.creating:
            if self._started or self._closed:
                return
            if not self._loaded:
                found, self.damaged = await self.shelf.load_all()
                self._loaded = True
                for damage in self.damaged.values():
                    log.error("%s. It is set aside: DELETE or PUT it", damage.reason)
                for entry in map(Entry, found):
                    self.add(entry)
                    entry.touched.update(entry.sub.links)
            for number, path in enumerate(await self._engine.list("**") if self.entries else (), 1):
                for entry in self.index.find(path):
                    entry.touched.add(path)
                if number % _BREATH == 0:
                    await asyncio.sleep(0)
            for entry in self.entries.values():
                self.tend_soon(entry)
            self._started = True

    async def aclose(self) -> None:
        """Stop. What was under way is found again at the next start."""
        self._closed = True
        tasks = []
        for entry in self.entries.values():
            if entry.timer is not None:
                entry.timer.cancel()
            tasks += [task for task in (entry.task, entry.delivery) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def notice(self, paths: Collection[str]) -> None:
        """These streams have changed."""
        if not self.index:
            return
        for path in paths:
            if path.startswith(INTERNAL):
                continue
            for entry in self.index.find(path):
                # What is behind stays behind until it is looked at again, before anybody is told.
                if path in entry.pending or (path == entry.sub.config.wake_stream and not entry.unannounced):
                    continue
                self.tend_soon(entry, (path,))

    async def signer(self) -> Signer:
        """Return what signs and checks. Raises StoreError."""
        if self._signer is None:
            self._signer = Signer(await self.shelf.load_secrets())
        return self._signer

    def add(self, entry: Entry) -> None:
        """Take up a subscription that is stored."""
        self.entries[entry.sub.id] = entry
        self.index.add(entry)

    def forget(self, entry: Entry) -> None:
        """End what a subscription has under way: it is deleted."""
        entry.gone = True
        self.entries.pop(entry.sub.id, None)
        self.index.remove(entry)
        if entry.timer is not None:
            entry.timer.cancel()
        if entry.delivery is not None:
            entry.delivery.cancel()

    def tend_soon(self, entry: Entry, touched: Iterable[str] = ()) -> None:
        """See to a subscription, because these streams may have changed, or it has itself."""
        entry.touched.update(touched)
        entry.again = True
        if entry.task is None and not entry.gone and not self._closed:
            entry.task = asyncio.ensure_future(self._tend(entry))

    async def _tend(self, entry: Entry) -> None:
        try:
            while entry.again and not entry.gone:
                entry.again = False
                try:
                    async with entry.lock:
                        wait = None if entry.gone else await self._advance(entry)
                except StoreError as error:
                    log.warning("the subscription %r can't be stored: %s", entry.sub.id, error)
                    wait = STORE_RETRY_SECONDS
                except Exception:
                    # Nobody waits for this task; the next try may go well.
                    log.exception("the subscription %r could not be tended", entry.sub.id)
                    wait = STORE_RETRY_SECONDS
                if entry.timer is not None:
                    entry.timer.cancel()
                    entry.timer = None
                if wait is not None and not entry.gone:
                    entry.timer = asyncio.get_running_loop().call_later(wait, self.tend_soon, entry)
        finally:
            entry.task = None

    async def _advance(self, entry: Entry) -> float | None:
        """Do what is to be done now; return the seconds until there may be more."""
        now, roll = self._environment.now(), self._environment.random.random()
        if entry.unannounced and entry.sub.config.wake_stream in entry.touched and entry.sub.phase is Phase.OFFERED:
            await self.change(entry, lambda sub: machine.repeat(sub, now))
        await self.refresh(entry)
        while True:
            if entry.sub.phase is Phase.SENT and entry.delivery is None:
                await self.change(entry, machine.restart)
            step = machine.next_step(entry.sub, now, pending=bool(entry.pending))
            if step is None:
                return None
            if isinstance(step, float):
                return max(step - now, 0.0)
            if step in (Step.BEGIN, Step.SEND):
                await self.refresh(entry, again=True)
                if not entry.pending:
                    continue
            await self._take(entry, step, now, roll)

    async def _take(self, entry: Entry, step: Step, now: float, roll: float) -> None:
        wake_id = self.wake_id()
        if step is Step.BEGIN:
            await self.change(entry, lambda sub: machine.begin_wake(sub, entry.pending, wake_id, now))
        elif step is Step.REPEAT:
            await self.change(entry, lambda sub: machine.repeat(sub, now))
        elif step is Step.EXPIRE:
            await self.change(entry, lambda sub: machine.expire(sub, now, roll))
        elif step is Step.WITHDRAW:
            await self.change(entry, machine.withdraw)
        else:
            await self.change(entry, lambda sub: machine.send(sub, now))
            if entry.delivery is not None:
                entry.delivery.cancel()
            entry.delivery = asyncio.ensure_future(self._deliver(entry, entry.sub))

    async def _deliver(self, entry: Entry, sub: Subscription) -> None:
        wake, url = sub.wake, sub.config.webhook_url
        if wake is None or url is None:
            raise AssertionError("only wakes of webhooks are delivered")
        try:
            outcome = await self._post(sub, wake, url)
            self.deliveries[outcome] += 1
            async with entry.lock:
                if not entry.gone:
                    if outcome not in (Event.ACCEPTED, Event.FINISHED) and not entry.sub.failing:
                        log.warning("the webhook of %r failed: %s", sub.id, outcome.value)
                    now, roll = self._environment.now(), self._environment.random.random()
                    await self.change(entry, lambda known: machine.receive_delivery(known, wake.id, outcome, now, roll))
        except (StoreError, NotFoundError) as error:
            log.warning("what came of the webhook of %r can't be stored: %s", sub.id, error)
        finally:
            if entry.delivery is asyncio.current_task():
                entry.delivery = None
                self.tend_soon(entry, wake.snapshot)

    async def _post(self, sub: Subscription, wake: Wake, url: str) -> Event:
        try:
            signer = await self.signer()
            body = build_delivery(sub, wake, signer)
            headers = {"webhook-signature": signer.sign(body, self._environment.now())}
            return await self._webhooks.deliver(url, headers, body, sub.lease)
        except Exception:
            # Whatever it was, it may happen again at once; a failed delivery waits before the next.
            log.exception("the webhook of %r could not be sent", sub.id)
            return Event.CUT

    async def change(self, entry: Entry, step: Callable[[Subscription], Subscription]) -> None:
        """Store what `step` makes of the subscription; an event goes with a new pull-wake. Raises what `step` does, StoreError."""
        for _ in range(_TRIES):
            before, after = entry.sub, step(entry.sub)
            told = after.config.wake_stream is not None and after.wake is not None and after.wake.phase is Phase.OFFERED
            fresh = told and (before.wake is None or after.wake is None or before.wake.attempts != after.wake.attempts)
            beside = self._build_announcement(entry, after) if fresh else None
            try:
                await self.shelf.update(entry.kept, after, beside=beside)
                return
            except ConflictError:
                found = await self.shelf.load(entry.sub.id)
                if found is None:
                    self.forget(entry)
                    raise NotFoundError("the subscription was deleted", code="SUBSCRIPTION_NOT_FOUND") from None
                entry.kept = found
        raise StoreError("the subscription changes all the time")

    def _build_announcement(self, entry: Entry, sub: Subscription) -> tuple[str, Callable[[StreamView], Change | None]]:
        path, now = sub.config.wake_stream, self._environment.now()
        if path is None or sub.wake is None:
            raise AssertionError("only pull-wakes are announced")
        event = json.dumps(build_event(sub, next(iter(sub.wake.snapshot)), now)).encode()

        def decide(view: StreamView) -> Change | None:
            entry.unannounced = True
            try:
                state = require_stream(view.state, now)
                [change] = decide_append(view, AppendRequest(path, event, state.content_type), now).changes
            except ResponseError:
                # There is none, or it is closed: the wake stands, and can be claimed without having been read of.
                return None
            entry.unannounced = False
            return change

        return path, decide

    async def refresh(self, entry: Entry, *, again: bool = False) -> None:
        """Look at the streams that were touched; `again`: also at those the next wake would be about."""
        if again:
            entry.touched.update(islice(entry.pending, MAX_WAKE_STREAMS))
        ended: dict[str, bool] = {}
        looked = 0
        while entry.touched:
            path = entry.touched.pop()
            link, tail = entry.sub.link(path), await self.tail(path)
            if link is not None and tail is not None and link.is_behind(tail):
                entry.pending[path] = tail
            else:
                entry.pending.pop(path, None)
                if tail is None and link is not None and not link.explicit and path in entry.sub.links:
                    ended[path] = False
            looked += 1
            if looked % _BREATH == 0:
                await asyncio.sleep(0)
        if ended:
            await self.change(entry, lambda sub: machine.unlink_streams(sub, ended))

    async def find_matching(self, sub: Subscription) -> list[str]:
        """Return the living streams that the subscription's pattern matches."""
        if sub.config.pattern is None:
            return []
        return [path for path in await self._engine.list("**") if sub.matches(path)]

    async def tails(self, paths: Iterable[str]) -> dict[str, Tail | None]:
        """Return where streams end; None for those that are not there."""
        return {path: await self.tail(path) for path in paths}

    async def tail(self, path: str, at: Place | None = None) -> Tail | None:
        """Return where a stream ends, or `at` in its present life; None if it is not there. Raises GoneError if `at` is no place in it."""
        run = await self._engine.read(path, at, 0)
        try:
            state = require_stream(run.state, self._environment.now())
        except ResponseError:
            return None
        return Tail(state.incarnation, state.place if at is None else at)

    def wake_id(self) -> str:
        """Return a new name for a wake."""
        return f"w_{self._environment.random.getrandbits(96):024x}"
