"""How streams begin and end: what may touch more streams than the request names (PROTOCOL.md sections 4.2, 5.1 and 5.4).

The decisions say by an exception what they are missing; it is fetched here, and they are asked again, until they have all they need.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

from ds_sync.environment import Environment
from ds_sync.exceptions import GoneError, ServerError
from ds_sync.protocol.decisions import (
    AppendOutcome,
    AppendRequest,
    CreateOutcome,
    CreateRequest,
    UnburiedError,
    decide_create,
    decide_first_append,
)
from ds_sync.protocol.endings import SourcesNeededError, decide_delete, decide_expire
from ds_sync.protocol.forks import ForkPoint, ForkRequest, PointNeededError, decide_fork
from ds_sync.protocol.history import Place
from ds_sync.protocol.state import Decision, StreamState, StreamView
from ds_sync.server.engines.base import StorageEngine

R = TypeVar("R")

DecideEnd: TypeAlias = Callable[[StreamView, float, Mapping[str, StreamView]], Decision[R]]


class Lives:
    """The beginnings and ends of streams, over one engine: no beginning while there are `most` living streams."""

    def __init__(self, engine: StorageEngine, environment: Environment, most: int | None = None) -> None:
        self._engine = engine
        self._environment = environment
        self._most = most

    async def create(self, request: CreateRequest) -> CreateOutcome:
        """Make a stream, or find it there. Raises what `decide_create` does, and ServerError (507) if there are too many."""

        async def attempt() -> CreateOutcome:
            now = self._environment.now()
            return await self._engine.transact((request.path,), lambda views: self._limit(decide_create(views[0], request, now)))

        return await self._in_a_free_place(request.path, attempt)

    async def append_first(self, request: AppendRequest, fresh: str) -> AppendOutcome:
        """Append, and make the stream `fresh` if none was ever there. Raises what `decide_append` does, and ServerError (507)."""
        now = self._environment.now()

        def decide(views: Sequence[StreamView]) -> Decision[AppendOutcome]:
            decision = decide_first_append(views[0], request, fresh, now)
            if any(change is not None and change.fresh for change in decision.changes):
                self._require_room()
            return decision

        producer = None if request.producer is None else request.producer.id
        return await self._engine.transact((request.path,), decide, producer=producer)

    async def fork(self, request: ForkRequest) -> CreateOutcome:
        """Make a fork, or find it there. Raises what `decide_fork` does, and ServerError (507) if there are too many streams."""
        point: ForkPoint | None = None
        while True:
            try:
                return await self._fork_at(request, point)
            except PointNeededError:
                if request.place is None:
                    raise AssertionError("the tail is no question of what stands in the source") from None
                # Of the life that is there now. If the source is remade meanwhile, the decision says so again.
                point = await self._find_point(request.source, request.place)

    async def delete(self, path: str) -> StreamState:
        """End a stream; return the life that ended. Raises what `decide_delete` does."""
        return await self._end(path, decide_delete)

    async def expire(self, path: str) -> None:
        """End a stream whose time is over."""
        await self._end(path, decide_expire)

    async def _fork_at(self, request: ForkRequest, point: ForkPoint | None) -> CreateOutcome:
        paths = (request.path, request.source)

        async def attempt() -> CreateOutcome:
            now = self._environment.now()
            return await self._engine.transact(paths, lambda views: self._limit(decide_fork(views[0], views[1], request, point, now)))

        return await self._in_a_free_place(request.path, attempt)

    def _limit(self, decision: Decision[CreateOutcome]) -> Decision[CreateOutcome]:
        if decision.result.created:
            self._require_room()
        return decision

    def _require_room(self) -> None:
        if self._most is not None and self._engine.count() >= self._most:
            raise ServerError(f"there are {self._most} streams, as many as there may be", status=507, code="STREAM_LIMIT_REACHED")

    async def _in_a_free_place(self, path: str, attempt: Callable[[], Awaitable[CreateOutcome]]) -> CreateOutcome:
        while True:
            try:
                return await attempt()
            except UnburiedError:
                await self.expire(path)

    async def _find_point(self, path: str, place: Place) -> ForkPoint:
        try:
            run = await self._engine.read(path, place, 1)
        except GoneError as error:
            return ForkPoint(error.incarnation or "", None, None)
        try:
            # Engines take check + 1 for the same place; a fork has to know which of the two is stored.
            below = replace(place, check=place.check - 1)
            await self._engine.read(path, below, 1)
        except GoneError:
            below = place
        incarnation = "" if run.state is None else run.state.incarnation
        return ForkPoint(incarnation, below, run.records[0] if run.records else None)

    async def _end(self, path: str, decide: DecideEnd[R]) -> R:
        paths: tuple[str, ...] = ()
        now = self._environment.now()
        while True:
            try:
                return await self._transact_end((path, *paths), decide, now)
            except SourcesNeededError as missing:
                paths = (*missing.paths, *await self._trace(missing.paths[-1]))

    async def _trace(self, path: str) -> list[str]:
        """Return the sources that end with the source `path`, as things stand: to be asked for them one by one would be quadratic."""
        found: list[str] = []
        state = (await self._engine.read(path, None, 0)).state
        while state is not None and state.kept and state.forks == 1 and state.origin is not None:
            found.append(state.origin.path)
            state = (await self._engine.read(state.origin.path, None, 0)).state
        return found

    async def _transact_end(self, paths: tuple[str, ...], decide: DecideEnd[R], now: float) -> R:
        return await self._engine.transact(paths, lambda views: decide(views[0], now, dict(zip(paths[1:], views[1:], strict=True))))
