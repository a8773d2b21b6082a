"""Servers that know neither documents nor incarnations, and bytes that make no sense."""

import asyncio
from typing import Any

import pytest

from ds_sync.exceptions import SyncStoppedError
from ds_sync.protocol.framing import build_frame
from ds_sync.testing.faults import hold, is_append, lose_answer, respond

pytestmark = pytest.mark.anyio


@pytest.fixture
async def plain(world: Any, foreign: Any) -> Any:
    server = foreign(page=7)
    await world.stop()
    await world.start(app=server)
    return server


PATH = "/v1/stream/yjs/default/docs/note/.updates"


async def test_a_foreign_server_whose_pages_end_inside_frames(world: Any, acts: Any, plain: Any) -> None:
    a, b = await (await world.replica("a")).open("note"), await (await world.replica("b")).open("note")
    for number in range(10):
        acts.write(a, f"a{number} ")
        acts.write(b, f"b{number} ")
    await acts.synced(a, b, a)
    assert acts.words(a, b) == sorted([f"a{number}" for number in range(10)] + [f"b{number}" for number in range(10)])
    c = await (await world.replica("c")).open("note")
    await acts.synced(c)
    assert acts.words(c) == acts.words(a)
    assert c.status.quarantined == 0


async def test_reopened_with_half_a_frame_in_hand(world: Any, acts: Any, plain: Any) -> None:
    a = await (await world.replica("a")).open("note")
    acts.write(a, "a long enough word ")
    await acts.synced(a)
    network = world.network()
    network.inject(hold(asyncio.Event()), when=lambda request: "offset=0000000014" in request.url)
    replica = await world.replica("b", transport=network)
    b = await replica.open("note")
    await acts.until(lambda: b._local.record.checkpoint == "0000000014")
    assert b._local.record.partial != b""
    await replica.close()
    b = await (await world.replica("b")).open("note")
    await acts.synced(b)
    assert acts.read(b) == "a long enough word "


async def test_a_foreign_server_that_loses_answers_and_is_settled_by_sight(world: Any, acts: Any, plain: Any) -> None:
    network = world.network()
    network.inject(lose_answer(), when=is_append, times=2)
    a = await (await world.replica("a", transport=network)).open("note")
    acts.write(a, "once ")
    await acts.synced(a)
    size = len(plain.streams[PATH])
    acts.write(a, "twice ")
    await acts.synced(a)
    b = await (await world.replica("b")).open("note")
    await acts.synced(b)
    assert acts.words(a, b) == ["once", "twice"]
    assert size < len(plain.streams[PATH]) < 3 * size


@pytest.mark.parametrize("left", [0, 30, None])
async def test_a_foreign_server_that_was_set_back_or_emptied(world: Any, acts: Any, plain: Any, left: int | None) -> None:
    a = await (await world.replica("a")).open("note")
    for word in ("one ", "two ", "three "):
        acts.write(a, word)
        await acts.synced(a)
    if left is None:
        plain.streams.clear()
    else:
        whole = bytes(plain.streams[PATH])
        first = whole[: whole[0] + 1]
        plain.streams[PATH] = bytearray(first if left else b"")
    plain.producers.clear()
    await acts.until(lambda: len(plain.streams.get(PATH, b"")) > 30)
    acts.write(a, "four ")
    await acts.synced(a)
    b = await (await world.replica("b")).open("note")
    await acts.synced(b)
    assert acts.words(a, b) == ["four", "one", "three", "two"]


# Hostile bytes


@pytest.mark.parametrize("payload", [b"", b"\xff", b"\xff\xff\xff\xff\x0f garbage", b"\xff" * 300, b"\x01", b"{}"])
async def test_payloads_that_are_no_updates_are_put_aside_and_the_rest_goes_on(world: Any, acts: Any, payload: bytes) -> None:
    a = await (await world.replica("a")).open("note")
    acts.write(a, "before ")
    await acts.synced(a)
    client = world.client()
    await client.append(build_frame(payload), content_type="application/octet-stream")
    acts.write(a, "after ")
    await acts.synced(a)
    replica = await world.replica("b")
    b = await replica.open("note")
    await acts.synced(b)
    assert acts.words(a, b) == ["after", "before"]
    for document in (a, b):
        kept = document.quarantined()
        assert [bad.data for bad in kept] == [payload]
        assert document.status.quarantined == 1
        assert kept[0].reason
        assert document.status.state == "live"
    await replica.close()
    b = await (await world.replica("b", online=False)).open("note")
    assert (b.status.quarantined, acts.words(b)) == (1, ["after", "before"])


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff\xff\xff\xff", b"\xff\xff\xff\xff\x01 abc"])
async def test_lengths_that_are_none_do_not_stop_what_follows(world: Any, acts: Any, foreign: Any, garbage: bytes) -> None:
    server = foreign(page=10_000)
    await world.start(app=server)
    a = await (await world.replica("a")).open("note")
    acts.write(a, "before ")
    await acts.synced(a)
    server.streams[PATH] += garbage
    await acts.until(lambda: a.status.quarantined == 1)
    acts.write(a, "after ")
    await acts.synced(a)
    assert [bad.data for bad in a.quarantined()] == [garbage]
    assert acts.words(a) == ["after", "before"]
    assert a.status.state == "live"


async def test_a_document_goes_on_although_another_is_poisoned(world: Any, acts: Any) -> None:
    network = world.network()
    network.inject(respond(410, {}, b'{"error":{"code":"STREAM_DELETED"}}'), when=lambda request: "/bad/" in request.url, times=None)
    replica = await world.replica("a", transport=network)
    bad, good = await replica.open("bad"), await replica.open("good")
    acts.write(bad, "kept ")
    acts.write(good, "sent ")
    await acts.synced(good)
    with pytest.raises(SyncStoppedError):
        await acts.synced(bad)
    assert network.count(lambda request: "/bad/" in request.url) < 20
    assert bad.status.unsent == 1
