import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ds_sync.exceptions import ConflictError, CorruptFileError
from ds_sync.protocol.decisions import Change, CreateRequest, StreamView, append_record, decide_create
from ds_sync.protocol.history import START, Place
from ds_sync.protocol.subscription import Config, Kind, Link, Subscription, Tail, begin_wake
from ds_sync.protocol.subscription_records import build_change
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.server.subscriptions.shelf import FOLDER, SECRETS, Damage, Kept, SubscriptionShelf

pytestmark = pytest.mark.anyio

TAIL = Tail("a" * 32, Place(5, 55))
CONFIG = Config(Kind.PULL_WAKE, "événements/*", ("a", "b"), None, "w", 1000, "said\nso")


def make(name: str) -> Subscription:
    return Subscription(name, "u" * 32, "2026", "http://x", CONFIG, {"a": Link(TAIL, explicit=True), "b": Link(None, explicit=True)})


@pytest.fixture(params=["memory", "sqlite"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StorageEngine]:
    made: StorageEngine = MemoryEngine() if request.param == "memory" else SqliteEngine(tmp_path / "s.db")
    yield made
    await made.aclose()


async def size_of(engine: StorageEngine, name: str) -> int:
    run = await engine.read(FOLDER + name, None, 0)
    assert run.state is not None
    return run.state.position


async def test_what_is_stored_is_what_is_loaded(engine: StorageEngine) -> None:
    shelf = SubscriptionShelf(engine)
    kept = await shelf.create(make("one"))
    await shelf.create(make("two/ü"))
    after = begin_wake(replace(kept.sub, links={"b": Link(TAIL)}, failures=3, failing=True), {"b": TAIL}, "w_1", 12.5)
    await shelf.update(kept, after)
    loaded, damaged = await SubscriptionShelf(engine).load_all()
    assert damaged == {}
    assert [one.sub for one in loaded] == [after, make("two/ü")]
    await shelf.update(loaded[0], replace(after, wake=None))
    assert loaded[0].sub.wake is None
    assert await shelf.load("three") is None


async def test_who_has_an_old_state_changes_nothing(engine: StorageEngine) -> None:
    shelf = SubscriptionShelf(engine)
    kept = await shelf.create(make("s"))
    late = Kept(kept.sub, kept.state, kept.first)
    await shelf.update(kept, replace(kept.sub, generation=1))
    with pytest.raises(ConflictError) as refused:
        await shelf.update(late, replace(late.sub, generation=9))
    assert refused.value.code == "MOVED"
    [found], _ = await shelf.load_all()
    assert found.sub.generation == 1


async def test_the_second_of_a_name_finds_the_first(engine: StorageEngine) -> None:
    shelf = SubscriptionShelf(engine)
    await shelf.create(make("s"))
    assert (await shelf.create(replace(make("s"), uid="v" * 32))).sub == make("s")


async def test_a_history_stays_short(engine: StorageEngine) -> None:
    shelf = SubscriptionShelf(engine)
    kept = await shelf.create(make("s"))
    for number in range(1, 250):
        await shelf.update(kept, begin_wake(replace(kept.sub, wake=None), {"a": TAIL}, f"w_{number}", 0.0))
        assert await size_of(engine, "s") <= 16 * 1024
    loaded = await shelf.load("s")
    assert loaded is not None
    assert loaded.sub == kept.sub
    assert loaded.sub.generation == 249


async def test_a_deleted_one_is_gone_and_its_name_is_free(engine: StorageEngine) -> None:
    shelf = SubscriptionShelf(engine)
    kept = await shelf.create(make("s"))
    for _ in range(2):
        await shelf.delete("s")
    assert await shelf.load_all() == ([], {})
    with pytest.raises(ConflictError):
        await shelf.update(kept, replace(kept.sub, generation=1))
    assert (await shelf.create(replace(make("s"), uid="v" * 32))).sub.uid == "v" * 32


async def test_a_change_is_stored_with_its_event_or_not_at_all(engine: StorageEngine) -> None:
    shelf = SubscriptionShelf(engine)
    await engine.transact(("w",), lambda views: decide_create(views[0], CreateRequest("w", "text/plain", "c" * 32), 0.0))
    kept = await shelf.create(make("s"))

    def tell(view: StreamView) -> Change:
        assert view.state is not None
        return Change(append_record(view.state, b"event"), b"event")

    await shelf.update(kept, replace(kept.sub, generation=1), beside=("w", tell))
    with pytest.raises(ConflictError):
        await shelf.update(
            Kept(make("s"), None if kept.state is None else replace(kept.state, position=0, running=b""), 0), kept.sub, beside=("w", tell)
        )
    assert (await engine.read("w", START, 100)).records == (b"event",)


async def test_secrets_are_made_once(engine: StorageEngine) -> None:
    made = await SubscriptionShelf(engine).load_secrets()
    assert await SubscriptionShelf(engine).load_secrets() == made
    assert len({made.signing, made.tokens, bytes(32)}) == 3
    assert await engine.list("**") == []


async def put(engine: StorageEngine, path: str, record: bytes) -> None:
    request = CreateRequest(path, "text/plain", "c" * 32, body=record)
    await engine.transact((path,), lambda views: decide_create(views[0], request, 0.0))


def spoil(**fields: object) -> bytes:
    return json.dumps({**json.loads(build_change(None, make("s"))), **fields}).encode()


@pytest.mark.parametrize(
    "record",
    [
        b"nonsense",
        b"{}",
        b'{"id": "s"}',
        b"[]",
        b"",
        spoil(id="another"),
        spoil(generation="1"),
        spoil(links={"a": {"acked": [1, "0000000000000001_0000000000000001"], "explicit": False}}),
        spoil(config={**json.loads(build_change(None, make("s")))["config"], "pattern": 1}),
        spoil(config={**json.loads(build_change(None, make("s")))["config"], "wake_stream": None}),
    ],
)
async def test_damaged_ones_are_told_apart_and_can_be_replaced(engine: StorageEngine, record: bytes) -> None:
    shelf = SubscriptionShelf(engine)
    await shelf.create(make("good"))
    await put(engine, FOLDER + "s", record)
    kept, damaged = await shelf.load_all()
    assert [one.sub.id for one in kept] == ["good"]
    assert damaged["s"].incarnation == "c" * 32
    assert "'s'" in damaged["s"].reason
    with pytest.raises(CorruptFileError):
        await shelf.create(make("s"))
    with pytest.raises(CorruptFileError):  # that is another one, which may be whole by now
        await shelf.create(make("s"), Damage("", "d" * 32))
    await shelf.create(make("s"), damaged["s"])
    kept, damaged = await SubscriptionShelf(engine).load_all()
    assert ([one.sub for one in kept], damaged) == ([make("good"), make("s")], {})


@pytest.mark.parametrize("record", [b"nonsense", b"{}", b"[]"])
async def test_damaged_secrets_are_an_error(engine: StorageEngine, record: bytes) -> None:
    await put(engine, SECRETS, record)
    with pytest.raises(CorruptFileError):
        await SubscriptionShelf(engine).load_secrets()
