"""The StorageEngine port: where a server keeps its streams. Knows bytes and atomicity; knows no HTTP, JSON or clocks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, TypeVar, runtime_checkable

from ds_sync.exceptions import GoneError
from ds_sync.protocol.decisions import Change, Decision, StreamState, StreamView
from ds_sync.protocol.history import Place, spell_place
from ds_sync.protocol.offsets import Offset

R = TypeVar("R")

INTERNAL: Final = "\x1f"
"""What the paths of the server's own streams begin with: a control character, which no URL can spell. `list` hides them."""

Decide: TypeAlias = Callable[[Sequence[StreamView]], Decision[R]]
"""A pure function: one view for each path of the transaction, in order, to one decision with as many changes."""

Done: TypeAlias = Callable[[R | None, Exception | None], None]
"""Called once on the event loop: with a result, or with None and what was raised instead."""

Watcher: TypeAlias = Callable[[Collection[str]], None]
"""Called on the event loop with the paths that changed: once for a whole batch of commits."""


Records: TypeAlias = tuple[tuple[bytes, ...], Place]
"""Consecutive records and the place after them."""


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive records of a stream, and what the stream was when they were read."""

    state: StreamState | None
    """Durable. None: nothing was ever at this path; `deleted`: a tombstone; `kept`: ended. None of them has records."""
    records: tuple[bytes, ...]
    end: Place
    """After the last of the records; where reading began if there are none."""

    @property
    def next_offset(self) -> Offset:
        """The offset to read on from."""
        return spell_place(self.end)

    @property
    def up_to_date(self) -> bool:
        """Whether nothing was left to read."""
        return self.state is None or self.end.position == self.state.position


class StorageEngine(Protocol):
    """Streams of records, each with its state and producers.

    Order: the transactions on one path happen one after the other, and readers see them in that order. Durability: what
    `transact` returned, and what `read` showed, survives the death of the process if `durable`. A state and its records
    are never seen apart. Paths are plain strings: "a" has nothing to do with "a/b" or "ab". All methods are called on one
    event loop; `decide` and watchers must not call back into the engine. Methods raise ClosedError after `aclose`.
    """

    durable: bool
    """Whether what was acknowledged survives the death of the process, and loss of power."""

    async def transact(self, paths: Sequence[str], decide: Decide[R], *, producer: str | None = None) -> R:
        """Run `decide` under the exclusive right to `paths`, make its changes durable in one commit, return its result.

        `decide` may run again with newer views. What it raises is raised here, and nothing is stored. `producer` names the
        one producer whose state the views must hold. Raises StorageFullError if there is no space: then nothing has
        changed, and it may be tried again. A transaction that is cancelled while it is being stored may still be stored.
        """
        ...

    async def read(self, path: str, after: Place | None, limit: int) -> Run:
        """Return whole records from `after` on: about `limit` bytes of them, at least one if there is one and limit > 0.

        `after` None means the tail: no records, just the state. Raises GoneError (HISTORY_DIVERGED) if `after` is not a
        place between two records of this very history; its check plus one is the same place. Raises GoneError (OFFSET_EXPIRED) if
        it stands before `state.earliest`: once a change with that is durable, what stood there may be dropped for good. A fork's
        history is that of its source up to `state.origin`, whether the source still answers or is `kept`, and its own from there
        on; a page may hold both.
        """
        ...

    async def list(self, glob: str) -> list[str]:
        """Return the paths of living streams that match, sorted. `*` is any run of characters but "/", `**` any run.

        Paths that begin with INTERNAL are only listed if `glob` does, too.
        """
        ...

    def count(self) -> int:
        """Return how many living streams there are, without counting them: those that `list("**")` lists."""
        ...

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Have `watcher` called after every commit, by any node. Returns what ends it. A hint: who hears it reads again."""
        ...

    async def aclose(self) -> None:
        """Finish the commits under way and let go of everything."""
        ...


@runtime_checkable
class PromptEngine(StorageEngine, Protocol):
    """An engine that can also be asked without a task: what the HTTP server needs to answer plain requests at once."""

    def submit(self, path: str, decide: Decide[R], done: Done[R]) -> None:
        """As `transact` on one path, by callback: `done` is called now or later, with what `transact` returns or raises."""
        ...

    def read_now(self, path: str, after: Place | None, limit: int) -> Run | None:
        """As `read`, of what is in memory; None if that is not enough."""
        ...

    def state_of(self, path: str) -> StreamState | None:
        """Return the durable state; the very same object until it changes."""
        ...


def find_owners(state: StreamState, path: str, after: Place, state_of: Callable[[str], StreamState]) -> list[tuple[str, int]]:
    """Return whose own records follow `after` in the history of the stream `state` at `path`: paths, each with the position it counts to.

    Down a chain of forks: what stands before a fork's origin is its source's. `state_of` gives the states of sources. Where a position is
    not beyond the one before it, or `after`, nothing is that stream's.
    """
    owners = [(path, state.position)]
    while state.origin is not None and after.position < state.origin.position:
        owners.append((state.origin.path, min(owners[-1][1], state.origin.position)))
        state = state_of(state.origin.path)
    return owners[::-1]


def require_kept(state: StreamState, after: Place) -> None:
    """Raise GoneError (OFFSET_EXPIRED) if retention has dropped what followed `after`."""
    if state.earliest is not None and after.position < state.earliest.position:
        raise GoneError(
            "what stood here was dropped: read from the beginning of what is left", code="OFFSET_EXPIRED", incarnation=state.incarnation
        )


def decide_at_once(
    paths: Sequence[str],
    views: Sequence[StreamView],
    decide: Decide[R],
    apply: Callable[[str, Change], None],
    watchers: Sequence[Watcher],
) -> R:
    """Decide, apply and tell the watchers in one turn of the event loop: nothing comes between, and an engine in memory needs no more."""
    decision = decide(views)
    changed: list[str] = []
    for path, change in zip(paths, decision.changes, strict=True):
        if change is not None:
            apply(path, change)
            changed.append(path)
    if changed:
        for watcher in tuple(watchers):
            watcher(changed)
    return decision.result


def diverged(state: StreamState) -> GoneError:
    """Return the error for an offset that is no place in this history."""
    return GoneError(
        "the offset is not a place in this stream's history: read it again from its beginning",
        code="HISTORY_DIVERGED",
        incarnation=state.incarnation,
    )
