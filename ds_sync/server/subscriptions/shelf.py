"""Where subscriptions are kept: each is a stream of its own in the engine, whose records fold to its state.

Engines need nothing for it, and what they promise of streams holds for subscriptions: a change that returned is durable, and it can be
committed together with an append to another stream. The paths begin with a control character, which no URL can spell and no pattern of
`StorageEngine.list` matches by chance. A history that has grown long is begun anew with one record.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ds_sync.exceptions import ConflictError, CorruptFileError, StoreError
from ds_sync.protocol.decisions import Change, Decision, StreamState, StreamView, append_record
from ds_sync.protocol.history import START, begin_history
from ds_sync.protocol.subscription import Subscription
from ds_sync.protocol.subscription_records import apply_change, build_change
from ds_sync.server.engines.base import INTERNAL, StorageEngine
from ds_sync.server.subscriptions.signing import Secrets, parse_secrets, spell_secrets

FOLDER: Final = f"{INTERNAL}subscriptions/"
SECRETS: Final = f"{INTERNAL}secrets"

_JSON: Final = "application/json"
_REWRITE_BYTES: Final = 16 * 1024
_REWRITE_FACTOR: Final = 4
"""A history is begun anew when it has more than this many times the bytes of its first record, and more than `_REWRITE_BYTES`."""
_PAGE: Final = 1024 * 1024

Update = Callable[[Subscription], Subscription]
Beside = Callable[[StreamView], Change | None]
"""Decides what happens to another stream in the same commit."""


@dataclass(slots=True)
class Kept:
    """A subscription as it is stored."""

    sub: Subscription
    state: StreamState | None
    """None: nothing is stored yet."""
    first: int
    """Bytes of the history's first record."""


class Damage(NamedTuple):
    """What is wrong with a subscription that can't be read."""

    reason: str
    incarnation: str | None
    """Of the stream that holds it: what may be written over."""


class SubscriptionShelf:
    """The subscriptions and secrets of one engine."""

    def __init__(self, engine: StorageEngine) -> None:
        self._engine = engine

    async def load_all(self) -> tuple[list[Kept], dict[str, Damage]]:
        """Return all of them, and by name what is wrong with those that can't be read. Raises StoreError."""
        found: list[Kept] = []
        damaged: dict[str, Damage] = {}
        for path in await self._engine.list(f"{FOLDER}**"):
            name = path.removeprefix(FOLDER)
            try:
                kept = await self.load(name)
            except CorruptFileError as error:
                state = (await self._engine.read(path, None, 0)).state
                damaged[name] = Damage(str(error), None if state is None else state.incarnation)
            else:
                found += [] if kept is None else [kept]
        return found, damaged

    async def load(self, name: str) -> Kept | None:
        """Return one of them, or None. Raises CorruptFileError."""
        after, sub, first = START, None, 0
        while True:
            run = await self._engine.read(FOLDER + name, after, _PAGE)
            if run.state is None or run.state.deleted:
                return None
            for record in run.records:
                try:
                    sub = apply_change(sub, record)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise CorruptFileError(f"the subscription {name!r} is damaged: {error!r}") from error
                first = first or len(record)
            after = run.end
            if run.up_to_date:
                if sub is None or sub.id != name:
                    found = "empty" if sub is None else f"that of {sub.id!r}"
                    raise CorruptFileError(f"the record of the subscription {name!r} is {found}")
                return Kept(sub, run.state, first)

    async def create(self, sub: Subscription, damage: Damage | None = None) -> Kept:
        """Store a new one, and return it; or the one of that name, if there is one. What has the `damage` is written over."""
        record = build_change(None, sub)
        made = _begin(record)

        def decide(views: Sequence[StreamView]) -> Decision[bool]:
            state = views[0].state
            free = state is None or state.deleted or (damage is not None and state.incarnation == damage.incarnation)
            return Decision(free, (Change(made, record, fresh=True) if free else None,))

        if await self._engine.transact((FOLDER + sub.id,), decide):
            return Kept(sub, made, len(record))
        # Its creator was told nothing, or hung up meanwhile.
        found = await self.load(sub.id)
        if found is None:
            raise StoreError("the subscription was made and deleted meanwhile")
        return found

    async def update(self, kept: Kept, after: Subscription, *, beside: tuple[str, Beside] | None = None) -> None:
        """Store `after` in place of what is kept, and what `beside` decides for another path, in one durable commit.

        Raises ConflictError (MOVED) if it was changed by somebody else: load it again.
        """
        if after == kept.sub:
            return
        known, record, fresh = kept.state, build_change(kept.sub, after), False
        if known is None:
            raise AssertionError("only what is stored is updated")
        if known.position + len(record) > max(_REWRITE_BYTES, _REWRITE_FACTOR * kept.first):
            record, fresh = build_change(None, after), True
        made = _begin(record) if fresh else append_record(known, record)

        def decide(views: Sequence[StreamView]) -> Decision[None]:
            state = views[0].state
            if state is None or state.deleted or state.incarnation != known.incarnation or state.running != known.running:
                raise _moved()
            change = Change(made, record, fresh=fresh)
            return Decision(None, (change,) if beside is None else (change, beside[1](views[1])))

        paths = (FOLDER + after.id,) if beside is None else (FOLDER + after.id, beside[0])
        await self._engine.transact(paths, decide)
        kept.sub, kept.state = after, made
        if fresh:
            kept.first = len(record)

    async def delete(self, name: str) -> None:
        """Remove it; a tombstone stays, as of every stream."""

        def decide(views: Sequence[StreamView]) -> Decision[None]:
            state = views[0].state
            if state is None or state.deleted:
                return Decision(None)
            buried = StreamState(state.incarnation, _JSON, 0, begin_history(state.incarnation), deleted=True)
            return Decision(None, (Change(buried, fresh=True),))

        await self._engine.transact((FOLDER + name,), decide)

    async def load_secrets(self) -> Secrets:
        """Return the server's secrets; the first call ever makes them. Raises CorruptFileError."""
        record = spell_secrets(Secrets(secrets.token_bytes(32), secrets.token_bytes(32)))
        made = _begin(record)

        def decide(views: Sequence[StreamView]) -> Decision[None]:
            return Decision(None, (Change(made, record, fresh=True) if views[0].state is None else None,))

        await self._engine.transact((SECRETS,), decide)
        run = await self._engine.read(SECRETS, START, _PAGE)
        try:
            return parse_secrets(b"".join(run.records))
        except ValueError as error:
            raise CorruptFileError(str(error)) from error


def _begin(record: bytes) -> StreamState:
    incarnation = secrets.token_hex(16)
    return append_record(StreamState(incarnation, _JSON, 0, begin_history(incarnation)), record)


def _moved() -> ConflictError:
    return ConflictError("the subscription was changed meanwhile", code="MOVED")
