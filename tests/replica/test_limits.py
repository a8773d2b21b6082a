"""What a server takes at once: backlogs and updates above its limit."""

import asyncio
from typing import Any

import pytest

from ds_sync.exceptions import (
    PayloadTooLargeError,
    SyncStoppedError,
)
from ds_sync.testing.faults import (
    is_append,
    respond,
    respond_after,
)

pytestmark = pytest.mark.anyio


async def test_a_backlog_above_the_limit_goes_out_in_smaller_batches(world: Any, acts: Any) -> None:
    await world.restart(max_body=400)
    network = world.network()
    replica = await world.replica("a", online=False, transport=network)
    note = await replica.open("note")
    words = [f"{number:04} " * 8 for number in range(20)]  # 40 bytes an edit
    for word in words:
        acts.write(note, word)
    await replica.connect(world.url)
    await acts.synced(note)
    other = await (await world.replica("b")).open("note")
    await acts.synced(other)
    assert acts.read(other) == "".join(words)
    frames = await world.payloads()
    assert len(frames) == len(set(frames))
    assert max(map(len, frames)) <= 400
    assert note.status.durable == 20


async def test_one_update_above_the_limit_blocks_its_document_only_until_a_larger_server_comes(world: Any, acts: Any) -> None:
    await world.restart(max_body=400)
    network = world.network()
    replica = await world.replica("a", transport=network)
    note, small = await replica.open("note"), await replica.open("small")
    acts.write(note, "before ")
    await acts.synced(note)
    acts.write(note, "x" * 1000)
    acts.write(note, " after")
    with pytest.raises(SyncStoppedError) as stopped:
        await acts.synced(note)
    assert stopped.value.state == "blocked"
    assert isinstance(note.status.last_error, PayloadTooLargeError)
    assert (note.status.durable, note.status.unsent + note.status.sent) == (1, 2)
    acts.write(small, "goes on")
    await acts.synced(small)
    requests = network.count(is_append)
    await asyncio.sleep(0.3)
    assert network.count(is_append) == requests, "a blocked document sends nothing"
    assert len(await world.payloads()) == 1


async def test_a_blocked_document_goes_on_when_the_limit_was_raised(world: Any, acts: Any) -> None:
    network = world.network()
    limit = network.inject(respond(413), when=lambda request: is_append(request) and len(request.body) > 400, times=None)
    replica = await world.replica("a", transport=network)
    note = await replica.open("note")
    acts.write(note, "x" * 1000)
    with pytest.raises(SyncStoppedError):
        await acts.synced(note)
    assert limit.hits == 1
    network.clear()
    await replica.connect()
    await acts.synced(note)
    assert len(await world.payloads()) == 1


async def test_413_after_a_commit_is_settled_by_sight(world: Any, acts: Any) -> None:
    network = world.network()
    network.inject(respond_after(413), when=is_append)
    note = await (await world.replica("a", transport=network)).open("note")
    acts.write(note, "in fact stored")
    await acts.synced(note)
    assert network.count(is_append) == 1
    assert len(await world.payloads()) == 1
