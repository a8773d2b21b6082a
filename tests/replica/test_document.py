"""What an application sees of a document: its status, and when it is synced."""

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from ds_sync.client.transport import Response
from ds_sync.environment import Environment
from ds_sync.exceptions import ClosedError, StorageFullError, SyncStoppedError
from ds_sync.replica.document import Status
from ds_sync.testing.faults import Fault, Request, hold, is_append, is_live, is_read, lose_answer, respond

pytestmark = pytest.mark.anyio


class _Full:
    """The store of a document, on a disk that is full until `free`."""

    def __init__(self, store: Any, *names: str) -> None:
        self._store = store
        self._names = names
        self.free = False
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        if name in self._names and not self.free:
            return self._refuse
        return getattr(self._store, name)

    def _refuse(self, *args: Any, **options: Any) -> None:
        self.refused += 1
        raise StorageFullError("no space (injected)")


def fill_disk(document: Any, *names: str) -> _Full:
    full = _Full(document._local.store, *names)
    document._local.store = full
    return full


async def test_the_four_counts_always_add_up_to_all_edits(world: Any, acts: Any) -> None:
    network = world.network()
    network.inject(lose_answer(), when=is_append, times=3)
    network.inject(respond(204), when=is_append, times=1)
    network.inject(respond(503), when=is_append, times=2)
    note = await (await world.replica("a", transport=network)).open("note")
    made = 0
    seen: list[Status] = []

    async def watch() -> None:
        async for status in note.statuses():
            seen.append(status)
            assert acts.edits(status) == made, status
            assert min(status.unsaved, status.unsent, status.sent, status.durable) >= 0

    watching = asyncio.ensure_future(watch())
    for _ in range(30):
        acts.write(note, "x")
        made += 1
        await asyncio.sleep(0.003)
    await acts.synced(note)
    assert (note.status.durable, note.status.unsent, note.status.sent) == (30, 0, 0)
    await note.close()
    await watching
    assert len({(status.unsent, status.sent, status.durable) for status in seen}) > 5


async def test_statuses_yields_changes_the_newest_only_and_ends_at_close(world: Any, acts: Any) -> None:
    note = await (await world.replica("a", online=False)).open("note")
    seen: list[Status] = []

    async def watch() -> None:
        async for status in note.statuses():
            seen.append(status)
            await asyncio.sleep(0)

    watching = asyncio.ensure_future(watch())
    await asyncio.sleep(0.01)
    for _ in range(100):
        acts.write(note, "x")
    await asyncio.sleep(0.01)
    assert [status.unsent for status in seen] == [0, 100]
    await asyncio.sleep(0.05)
    assert len(seen) == 2, "the age alone is no change"
    await note.close()
    async with asyncio.timeout(1):
        await watching


async def test_the_age_of_the_oldest_edit_grows_until_it_is_durable(world: Any, acts: Any) -> None:
    now = 1000.0
    replica = await world.replica("a", online=False, environment=Environment(now=lambda: now))
    note = await replica.open("note")
    assert note.status.oldest_unsent_age is None
    acts.write(note, "x")
    now += 5
    acts.write(note, "y")
    assert note.status.oldest_unsent_age == 5.0
    now -= 60  # somebody set the clock
    assert note.status.oldest_unsent_age == 0.0
    await replica.connect(world.url)
    await acts.synced(note)
    assert note.status.oldest_unsent_age is None


async def test_the_states_on_the_way(world: Any, acts: Any) -> None:
    network = world.network()
    replica = await world.replica("a", online=False, transport=network)
    note = await replica.open("note")
    assert note.status.state == "offline"
    gate = asyncio.Event()
    network.inject(hold(gate), when=is_read, times=None)
    await replica.connect(world.url)
    assert note.status.state == "connecting"
    network.clear()
    gate.set()
    await acts.state(note, "live")
    network.inject(respond(204), when=is_append)
    acts.write(note, "x")
    seen = [status async for status in _take_until(note, "live")]
    assert "verifying" in [status.state for status in seen]
    assert note.status.duplicates == 1
    await acts.synced(note)
    await replica.disconnect()
    assert note.status.state == "offline"


async def _take_until(note: Any, state: str) -> Any:
    async with asyncio.timeout(5):
        async for status in note.statuses():
            yield status
            if status.state == state and status.durable:
                return


async def test_synced_waits_while_offline_and_ends_with_the_document(world: Any, acts: Any) -> None:
    replica = await world.replica("a", online=False)
    note = await replica.open("note")
    waiting = asyncio.ensure_future(note.synced())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await note.close()
    with pytest.raises(ClosedError):
        await waiting
    with pytest.raises(ClosedError):
        await note.synced()
    await note.close()


async def test_synced_means_that_what_others_were_told_is_durable_is_here(world: Any, acts: Any) -> None:
    a, b = await (await world.replica("a")).open("note"), await (await world.replica("b")).open("note")
    for number in range(30):
        acts.write(a, f"{number} ")
        await acts.synced(a)
        await acts.synced(b)
        assert acts.read(b).endswith(f"{number} ")


async def test_synced_gets_past_a_caching_proxy(world: Any, acts: Any) -> None:
    cache: dict[str, Response] = {}

    async def ask(request: Request) -> Response | None:
        return None if "no-cache" in request.headers.get("cache-control", "") else cache.get(request.url)

    async def keep(request: Request, response: Response) -> Response:
        cache.setdefault(request.url, response)
        return response

    a = await (await world.replica("a")).open("note")
    network = world.network()
    network.inject(Fault(before=ask, after=keep), when=lambda request: is_read(request) and "live=" not in request.url, times=None)
    network.inject(hold(asyncio.Event()), when=is_read, times=None)  # nothing comes by itself
    b = await (await world.replica("b", transport=network)).open("note")
    await acts.synced(a, b)
    stale = len(cache)
    for word in ("one ", "two ", "three "):
        acts.write(a, word)
        await acts.synced(a)
        await acts.synced(b)
        assert acts.read(b).endswith(word)
    assert stale > 0


async def test_synced_ends_while_another_writes_all_the_time(world: Any, acts: Any) -> None:
    a, b = await (await world.replica("a")).open("note"), await (await world.replica("b")).open("note")
    stop = False

    async def write() -> None:
        while not stop:
            acts.write(a, "x")
            await asyncio.sleep(0)

    writing = asyncio.ensure_future(write())
    acts.write(b, "mine")
    async with asyncio.timeout(5):
        for _ in range(5):
            await b.synced()
    stop = True
    await writing
    assert b.status.durable == 1


async def test_synced_covers_edits_that_the_disk_did_not_take_yet(world: Any, acts: Any) -> None:
    note = await (await world.replica("a")).open("note")
    await acts.synced(note)
    full = fill_disk(note, "enqueue")
    for word in ("one ", "two"):
        with pytest.raises(ExceptionGroup) as refusal:
            acts.write(note, word)
        assert refusal.group_contains(StorageFullError)
    assert (note.status.unsaved, note.status.unsent) == (2, 0)
    assert isinstance(note.status.last_error, StorageFullError)
    waiting = asyncio.ensure_future(note.synced())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    assert await world.payloads() == [], "what the file does not have is not sent"
    full.free = True
    await waiting
    assert (note.status.unsaved, note.status.durable) == (0, 2)
    assert note.status.last_error is None
    other = await (await world.replica("b")).open("note")
    await acts.synced(other)
    assert acts.read(other) == "one two"


@pytest.mark.parametrize(("refused", "times"), [("seal", 3), ("settle", 1), ("advance", 3)])
async def test_a_full_disk_loses_nothing_and_doubles_nothing(world: Any, acts: Any, refused: str, times: int) -> None:
    network = world.network()
    if refused == "settle":  # the tail must not see the batch before its answer comes
        network.inject(hold(asyncio.Event()), when=is_live, times=None)
    a, b = await (await world.replica("a", transport=network)).open("note"), await (await world.replica("b")).open("note")
    await acts.synced(a, b)
    full = fill_disk(a, refused)
    acts.write(a, "ours ")
    acts.write(b, "theirs ")
    await acts.synced(b)
    await acts.until(lambda: full.refused >= times)
    if refused != "settle":  # that one was settled by sight meanwhile
        assert isinstance(a.status.last_error, StorageFullError)
    assert full.refused < 200
    full.free = True
    await acts.synced(a, b, a)
    assert a.status.last_error is None
    assert acts.read(a) == acts.read(b)
    assert sorted(acts.read(a).split()) == ["ours", "theirs"]
    assert len(await world.payloads()) == 2
    assert acts.edits(a.status) == a.status.durable == 1
    path = a._local.store.path
    await b.close()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM outbox").fetchone() == (0,)


async def test_a_page_that_could_not_be_stored_is_whole_after_the_process_died(world: Any, acts: Any) -> None:
    replica = await world.replica("a")
    a, b = await replica.open("note"), await (await world.replica("b")).open("note")
    await acts.synced(a, b)
    full = fill_disk(a, "advance")
    acts.write(b, "theirs")
    await acts.synced(b)
    await acts.until(lambda: full.refused > 0 and acts.read(a) == "theirs", "applied, not stored")
    await replica.close()
    note = await (await world.replica("a", online=False)).open("note")
    assert acts.read(note) == ""
    note = await (await world.replica("c")).open("note")
    await acts.synced(note)
    assert acts.read(note) == "theirs"


async def test_synced_raises_when_the_state_turns_while_it_waits(world: Any, acts: Any) -> None:
    network = world.network()
    note = await (await world.replica("a", transport=network)).open("note")
    await acts.synced(note)
    gate = asyncio.Event()
    network.inject(hold(gate), when=is_append)
    acts.write(note, "x")
    waiting = asyncio.ensure_future(note.synced())
    await asyncio.sleep(0.05)
    network.inject(respond(400), when=is_append, times=None)
    await world.stop()
    gate.set()
    await world.start(data=None)
    with pytest.raises(SyncStoppedError) as stopped:
        async with asyncio.timeout(5):
            await waiting
    assert stopped.value.state == "blocked"


async def test_a_document_that_was_closed_takes_no_part_any_more(world: Any, acts: Any) -> None:
    replica = await world.replica("a")
    note = await replica.open("note")
    acts.write(note, "x")
    await acts.synced(note)
    doc = note.doc
    await note.close()
    assert (note.online, note.status.state, note.status.durable) == (False, "offline", 1)
    assert replica.documents()[0].durable == 1
    again = await replica.open("note")
    assert again.doc is not doc
    assert acts.read(again) == "x"
