"""What subscribers may ask for: make, look at and end subscriptions; claim, acknowledge and release their wakes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from ds_sync.environment import Environment
from ds_sync.exceptions import ConflictError, GoneError, InvalidRequestError, NotFoundError, RateLimitedError
from ds_sync.protocol import subscription as machine
from ds_sync.protocol.history import parse_place
from ds_sync.protocol.subscription import MAX_WAKE_STREAMS, Config, Phase, Subscription, Tail
from ds_sync.protocol.subscription_requests import LeaseRequest
from ds_sync.server.subscriptions.index import Entry
from ds_sync.server.subscriptions.shelf import Kept
from ds_sync.server.subscriptions.targets import TargetPolicy
from ds_sync.server.subscriptions.views import describe_work
from ds_sync.server.subscriptions.wakes import Wakes

MAX_SUBSCRIPTIONS: Final = 10_000
MAX_NAMED: Final = 10_000
"""Streams a subscription may name; a pattern may match any number."""

log = logging.getLogger(__name__)


class Subscriptions:
    """The requests of subscribers, over one engine's subscriptions. `wakes` was started."""

    def __init__(self, wakes: Wakes, environment: Environment, policy: TargetPolicy) -> None:
        self._wakes = wakes
        self._environment = environment
        self._policy = policy

    def get(self, name: str) -> Entry:
        """Return the subscription. Raises NotFoundError (SUBSCRIPTION_NOT_FOUND), ConflictError (SUBSCRIPTION_DAMAGED)."""
        entry = self._wakes.entries.get(name)
        if name in self._wakes.damaged:
            raise ConflictError("the server can't read this subscription: DELETE it, or PUT it anew", code="SUBSCRIPTION_DAMAGED")
        if entry is None or entry.gone:
            raise NotFoundError("there is no such subscription", code="SUBSCRIPTION_NOT_FOUND")
        return entry

    async def create(self, name: str, config: Config, base_url: str) -> tuple[Entry, bool]:
        """Return the subscription, and whether it is new: it begins at the tails of the streams there are. A damaged one is replaced.

        Raises ConflictError (SUBSCRIPTION_ALREADY_EXISTS), InvalidRequestError (WEBHOOK_URL_REJECTED), RateLimitedError.
        """
        if (found := self._find(name, config)) is not None:
            return found, False
        if config.webhook_url is not None:
            try:
                await self._policy.check(config.webhook_url)
            except (OSError, TimeoutError, UnicodeError) as error:
                # Names come and go; each delivery looks again.
                log.info("the webhook of %r can't be resolved now: %s", name, error)
        wakes = self._wakes
        async with wakes.creating:
            if (found := self._find(name, config)) is not None:
                return found, False
            if len(wakes.entries) >= MAX_SUBSCRIPTIONS:
                raise RateLimitedError("this server has as many subscriptions as it takes", code="TOO_MANY_SUBSCRIPTIONS")
            await wakes.signer()
            uid, created = self._environment.random.getrandbits(128), datetime.fromtimestamp(self._environment.now(), UTC)
            sub = Subscription(name, f"{uid:032x}", created.isoformat(timespec="milliseconds"), base_url, config, {})
            entry = Entry(Kept(sub, None, 0))
            async with entry.lock:
                # Before the tails are read: what is appended from now on is noticed, or counted in the tail.
                wakes.index.add(entry)
                try:
                    matching = await wakes.tails(await wakes.find_matching(sub))
                    sub = machine.link_streams(sub, matching, explicit=False)
                    sub = machine.link_streams(sub, await wakes.tails(config.streams), explicit=True)
                    entry.kept = await wakes.shelf.create(sub, wakes.damaged.get(name))
                except BaseException:
                    entry.gone = True
                    wakes.index.remove(entry)
                    raise
                wakes.damaged.pop(name, None)
                wakes.add(entry)
        wakes.tend_soon(entry)
        if entry.sub.config != config:
            raise _exists()
        return entry, entry.sub.uid == sub.uid

    async def delete(self, name: str) -> None:
        """End a subscription and what it has under way; none of that name is fine."""
        if name in self._wakes.damaged:
            async with self._wakes.creating:
                if name in self._wakes.damaged:
                    await self._wakes.shelf.delete(name)
                    del self._wakes.damaged[name]
        entry = self._wakes.entries.get(name)
        if entry is None:
            return
        async with entry.lock:
            if not entry.gone:
                await self._wakes.shelf.delete(name)
                self._wakes.forget(entry)

    async def add_streams(self, name: str, paths: Collection[str]) -> None:
        """Link streams by name, at their tails. Raises NotFoundError, InvalidRequestError (its own wake stream, TOO_MANY_STREAMS)."""
        async with self._holding(name) as entry:
            if entry.sub.config.wake_stream in paths:
                raise InvalidRequestError("wake_stream can't be one of the streams: each wake would cause the next")
            named = {path for path, link in entry.sub.links.items() if link.explicit} | set(paths)
            if len(named) > MAX_NAMED:
                raise InvalidRequestError(f"a subscription names at most {MAX_NAMED} streams", code="TOO_MANY_STREAMS")
            tails = await self._wakes.tails(paths)
            await self._wakes.change(entry, lambda sub: machine.link_streams(sub, tails, explicit=True))
            self._wakes.index.add(entry)
            entry.touched.update(paths)

    async def remove_stream(self, name: str, path: str) -> None:
        """Unlink a stream that was named. Raises NotFoundError."""
        async with self._holding(name) as entry:
            await self._wakes.change(entry, lambda sub: machine.unlink_streams(sub, {path: True}))
            self._wakes.index.add(entry)
            entry.touched.add(path)

    async def claim(self, name: str, worker: str) -> dict[str, Any]:
        """Lease the wake to a worker. Raises NotFoundError, AlreadyClaimedError, ConflictError (NO_PENDING_WORK), InvalidRequestError."""
        signer = await self._wakes.signer()
        async with self._holding(name) as entry:
            if entry.sub.is_webhook:
                raise InvalidRequestError("only pull-wake subscriptions are claimed")
            now, wake_id = self._environment.now(), self._wakes.wake_id()
            await self._wakes.refresh(entry, again=True)

            def step(sub: Subscription) -> Subscription:
                if sub.wake is not None and sub.phase is Phase.LEASED and now >= sub.wake.due:
                    sub = machine.expire(sub, now, 0.0)
                if entry.pending or sub.phase is Phase.LEASED:
                    sub = machine.begin_wake(sub, entry.pending, wake_id, now) if sub.wake is None else sub
                    return machine.claim(sub, worker, now)
                return machine.withdraw(sub) if sub.wake is not None else sub

            await self._wakes.change(entry, step)
            sub = entry.sub
            if sub.wake is None:
                raise ConflictError("the subscription has nothing to do", code="NO_PENDING_WORK")
            return {
                "wake_id": sub.wake.id,
                "generation": sub.generation,
                "token": signer.build_token(sub),
                "streams": describe_work(sub, dict(islice(entry.pending.items(), MAX_WAKE_STREAMS))),
                "lease_ttl_ms": sub.config.lease_ttl_ms,
            }

    async def acknowledge(self, name: str, token: str, request: LeaseRequest) -> bool:
        """Store what the holder of the wake says; return whether there is more to do after it is done.

        Raises NotFoundError, UnauthorizedError, ConflictError (FENCED, INVALID_OFFSET).
        """
        signer = await self._wakes.signer()
        async with self._holding(name) as entry:
            signer.require_token(entry.sub, token)
            now, roll = self._environment.now(), self._environment.random.random()
            machine.require_lease(entry.sub, request.wake_id, request.generation, now)
            acks = dict([await self._find_place(entry.sub, path, offset) for path, offset in request.acks])
            await self._wakes.change(
                entry, lambda sub: machine.acknowledge(sub, request.wake_id, request.generation, acks, now, roll, done=request.done)
            )
            entry.touched.update(acks)
            await self._wakes.refresh(entry, again=request.done)
            return request.done and bool(entry.pending)

    async def release(self, name: str, token: str, request: LeaseRequest) -> None:
        """Give the wake back: the next one begins at once. Raises NotFoundError, UnauthorizedError, ConflictError (FENCED)."""
        signer = await self._wakes.signer()
        async with self._holding(name) as entry:
            if entry.sub.is_webhook:
                raise InvalidRequestError("only pull-wake subscriptions are released")
            signer.require_token(entry.sub, token)
            now, roll = self._environment.now(), self._environment.random.random()
            await self._wakes.change(entry, lambda sub: machine.release(sub, request.wake_id, request.generation, now, roll))

    @asynccontextmanager
    async def _holding(self, name: str) -> AsyncIterator[Entry]:
        """Hold the subscription's lock, and see to it afterwards, whatever happened. Raises NotFoundError."""
        entry = self.get(name)
        async with entry.lock:
            self.get(name)
            try:
                yield entry
            finally:
                self._wakes.tend_soon(entry)

    def _find(self, name: str, config: Config) -> Entry | None:
        entry = self._wakes.entries.get(name)
        if entry is not None and entry.sub.config != config:
            raise _exists()
        return entry

    async def _find_place(self, sub: Subscription, spelled: str, offset: str) -> tuple[str, Tail]:
        path = spelled if sub.link(spelled) is not None else spelled.strip("/")
        tail = None
        try:
            if sub.link(path) is not None:
                tail = await self._wakes.tail(path, parse_place(offset))
        except InvalidRequestError:
            tail = None
        except GoneError as error:
            if error.code == "OFFSET_EXPIRED" and error.incarnation is not None:
                tail = Tail(error.incarnation, parse_place(offset))  # read, and dropped since: what is left comes after it
        if tail is None:
            raise ConflictError("the offset is no place in a stream of this subscription", code="INVALID_OFFSET")
        return path, tail


def _exists() -> ConflictError:
    return ConflictError("there is a subscription of that name, with another configuration", code="SUBSCRIPTION_ALREADY_EXISTS")
