"""The laws of forks for a StorageEngine: a second kit beside `StorageEngineContract`, used the same way."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ds_sync.environment import Environment
from ds_sync.exceptions import ConflictError, InvalidRequestError
from ds_sync.protocol.forks import ForkRequest
from ds_sync.protocol.history import HASH_SIZE, START, Place, build_place, extend_history
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.state import StreamState
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.lives import Lives
from ds_sync.testing.engine_contract import LIFE, OTHER_LIFE, OpenEngine, append, create, places_of, read_all, require_diverged

THIRD_LIFE = "00112233445566778899aabbccddeeff"


async def fork(
    engine: StorageEngine,
    path: str,
    source: str,
    incarnation: str = OTHER_LIFE,
    *,
    place: Place | None = None,
    sub_offset: int = 0,
    body: bytes = b"",
) -> StreamState:
    """Make a fork, and return its state."""
    request = ForkRequest(path, source, incarnation, place, sub_offset, body=body)
    return (await Lives(engine, Environment()).fork(request)).state


async def end(engine: StorageEngine, path: str) -> StreamState:
    """Delete a stream that may have a part in forks."""
    return await Lives(engine, Environment()).delete(path)


def places_of_fork(base: Place, records: Sequence[bytes], incarnation: str = OTHER_LIFE) -> list[Place]:
    """Return the places after each of a fork's own records."""
    running, position, places = base.check.to_bytes(HASH_SIZE, "big"), base.position, []
    for number, record in enumerate(records):
        running = extend_history(running, record if number else bytes.fromhex(incarnation) + record)
        position += len(record)
        places.append(build_place(position, running))
    return places


async def require_history(engine: StorageEngine, path: str, places: Sequence[Place], records: Sequence[bytes]) -> None:
    """Require that the stream is `records`, read from each of `places` on, by pages of any size."""
    for number, place in enumerate(places):
        for limit in (1, 3, 7, 1 << 20):
            assert await read_all(engine, path, place, limit) == list(records[number:])


class EngineForkContract:
    """The laws of forks, one test each."""

    pytestmark = pytest.mark.anyio

    async def test_a_fork_is_its_source_up_to_where_they_part_and_its_own_from_there(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        shared = [b"a", b"bcd", b"ef"]
        for record in shared:
            await append(engine, "s", record)
        base = places_of(shared)[2]
        state = await fork(engine, "f", "s", place=base)
        assert (state.place, state.incarnation) == (base, OTHER_LIFE)
        await append(engine, "s", b"only the source's")
        for record in (b"x", b"yz"):
            await append(engine, "f", record)
        places = [*places_of(shared)[:3], *places_of_fork(base, [b"x", b"yz"])]
        await require_history(engine, "f", places, [b"a", b"bcd", b"x", b"yz"])
        await require_history(engine, "s", places_of(shared), [*shared, b"only the source's"])
        if engine.durable:
            await engine.aclose()
            engine = open_engine()
            await require_history(engine, "f", places, [b"a", b"bcd", b"x", b"yz"])
        await engine.aclose()

    async def test_a_page_of_a_fork_goes_on_over_the_seam(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        await append(engine, "s", b"source")
        await fork(engine, "f", "s")
        await append(engine, "f", b"fork")
        assert (await engine.read("f", START, 10)).records == (b"source", b"fork")
        assert (await engine.read("f", START, 9)).records == (b"source",)
        await engine.aclose()

    async def test_histories_that_parted_know_each_other_no_more(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        await append(engine, "s", b"shared")
        base = places_of([b"shared"])[-1]
        await fork(engine, "f", "s")
        await fork(engine, "g", "s", THIRD_LIFE)
        places = {path: (await append(engine, path, b"same")).state.place for path in ("s", "f", "g")}
        for path, life in (("s", LIFE), ("f", OTHER_LIFE), ("g", THIRD_LIFE)):
            for other, place in places.items():
                if other != path:
                    assert await require_diverged(engine, path, place) == life
            assert await require_diverged(engine, path, Place(base.position, base.check + 2)) == life
            assert await require_diverged(engine, path, Place(2, base.check)) == life
            assert (await engine.read(path, Place(base.position, base.check + 1), 100)).records == (b"same",)
        await engine.aclose()

    async def test_forks_of_forks_read_through_all_of_them(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        places, records = [START], []
        for number in range(5):
            record = b"%d" % number * (number + 1)
            path = f"f{number}" if number else "s"
            if number:
                await fork(engine, path, f"f{number - 1}" if number > 1 else "s", f"{number:032x}")
            for part in (record, record[::-1] + b"."):
                places.append((await append(engine, path, part)).state.place)
                records.append(part)
        for number in (1, 4):
            await fork(engine, f"low{number}", "f4", f"{number:x}" * 32, place=places[number])
        for source in ("s", "f1", "f2", "f3"):
            await end(engine, source)
        if engine.durable:
            await engine.aclose()
            engine = open_engine()
        await require_history(engine, "f4", places, records)
        for number in (1, 4):
            await require_history(engine, f"low{number}", places[: number + 1], records[:number])
        await engine.aclose()

    async def test_what_a_sub_offset_takes_is_a_record_of_the_fork(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        for record in (b"abc", b"defgh"):
            await append(engine, "s", record)
        base = places_of([b"abc"])[-1]
        state = await fork(engine, "f", "s", place=base, sub_offset=2, body=b"!")
        assert state.place == places_of_fork(base, [b"de!"])[-1]
        await append(engine, "f", b"more")
        await require_history(engine, "f", [*places_of([b"abc"]), *places_of_fork(base, [b"de!", b"more"])], [b"abc", b"de!", b"more"])
        with pytest.raises(InvalidRequestError):
            await fork(engine, "g", "s", place=base, sub_offset=6)
        assert (await engine.read("g", None, 0)).state is None
        await engine.aclose()

    async def test_producers_stay_with_the_source(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        stamp = ProducerStamp("p", 0, 0)
        await append(engine, "s", b"source", producer=stamp)
        await fork(engine, "f", "s")
        assert not (await append(engine, "f", b"fork", producer=stamp)).duplicate
        assert (await append(engine, "s", b"source", producer=stamp)).duplicate
        await engine.aclose()

    async def test_a_source_that_ended_is_read_by_its_forks_only_and_gone_with_the_last(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        await append(engine, "s", b"shared")
        await fork(engine, "f", "s")
        await fork(engine, "g", "s", THIRD_LIFE)
        await end(engine, "s")
        if engine.durable:
            await engine.aclose()
            engine = open_engine()
        run = await engine.read("s", START, 100)
        assert run.state is not None
        assert (run.state.kept, run.state.forks, run.records) == (True, 2, ())
        assert await engine.list("*") == ["f", "g"]
        with pytest.raises(ConflictError):
            await create(engine, "s", "b" * 32)
        await end(engine, "f")
        assert await read_all(engine, "g") == [b"shared"]
        await end(engine, "g")
        state = (await engine.read("s", None, 0)).state
        assert state is not None
        assert (state.deleted, state.kept, state.incarnation) == (True, False, LIFE)
        assert (await create(engine, "s", "b" * 32)).created
        assert await read_all(engine, "s") == []
        await engine.aclose()

    async def test_a_refused_fork_leaves_nothing_behind(self, open_engine: OpenEngine) -> None:
        engine = open_engine()
        await create(engine, "s")
        state = (await append(engine, "s", b"shared")).state
        await create(engine, "taken")
        for place in (Place(6, 1), Place(3, state.place.check), Place(99, 0)):
            with pytest.raises(InvalidRequestError):
                await fork(engine, "f", "s", place=place)
        with pytest.raises(ConflictError):
            await fork(engine, "taken", "s")
        assert (await engine.read("f", None, 0)).state is None
        assert (await engine.read("s", None, 0)).state == state
        assert (await end(engine, "s")).deleted
        await engine.aclose()
