"""Answers of the server, and what becomes of batches: exactly once in the log, whatever is answered."""

import asyncio
import shutil
from typing import Any

import pytest

from ds_sync.client.transport import Response
from ds_sync.environment import Environment
from ds_sync.exceptions import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    ProtocolError,
    RateLimitedError,
    ServerError,
    SyncStoppedError,
    TransportError,
    UnauthorizedError,
)
from ds_sync.replica.local import Tuning
from ds_sync.testing.faults import (
    anything,
    drop_before_sending,
    duplicate,
    hold,
    is_append,
    is_live,
    is_read,
    lose_answer,
    respond,
    respond_after,
)

pytestmark = pytest.mark.anyio


async def test_who_verifies_and_may_not_read_says_so(world: Any, acts: Any) -> None:
    network = world.network()
    note = await (await world.replica("a", transport=network)).open("note")
    await acts.synced(note)
    network.inject(respond_after(204), when=is_append)
    refused = network.inject(respond(401), when=is_read, times=None)
    acts.write(note, "seen by nobody yet")
    status = await acts.state(note, "unauthorized")
    assert isinstance(status.last_error, UnauthorizedError)
    assert (status.sent, status.durable) == (1, 0)
    refused.times = 0
    await acts.until(lambda: note.status.durable == 1)
    assert note.status.state == "live"


async def test_an_append_whose_answer_was_lost_is_settled_by_sight_and_stands_once(world: Any, acts: Any) -> None:
    network = world.network()
    note = await (await world.replica("a", transport=network)).open("note")
    network.inject(lose_answer(), when=is_append)
    acts.write(note, "once")
    await acts.synced(note)
    assert len(await world.payloads()) == 1
    assert (note.status.durable, note.status.unsent, note.status.sent) == (1, 0, 0)


async def test_a_resent_batch_that_is_answered_204_is_settled_by_sight(world: Any, acts: Any) -> None:
    network = world.network()
    network.inject(hold(asyncio.Event()), when=is_live, times=None)  # the tail sees nothing unless it is asked to look
    network.inject(lose_answer(), when=is_append)
    note = await (await world.replica("a", transport=network)).open("note")
    acts.write(note, "once")
    await acts.until(lambda: note.status.durable == 1)
    assert network.count(is_append) == 2
    assert note.status.duplicates == 1
    assert len(await world.payloads()) == 1


async def test_a_server_that_says_204_and_stores_is_believed_after_looking(world: Any, acts: Any) -> None:
    network = world.network()
    network.inject(respond_after(204), when=is_append, times=None)
    note = await (await world.replica("a", transport=network)).open("note")
    for word in ("one ", "two ", "three"):
        acts.write(note, word)
        await acts.synced(note)
    assert len(await world.payloads()) == 3
    assert network.count(is_append) == 3
    assert note.status.durable == 3
    assert note.status.last_error is None


async def test_a_server_that_says_204_and_stores_nothing_is_found_out_after_two_turns(world: Any, acts: Any) -> None:
    network = world.network()
    liar = network.inject(respond(204), when=is_append, times=None)
    replica = await world.replica("a", transport=network)
    note = await replica.open("note")
    acts.write(note, "kept")
    with pytest.raises(SyncStoppedError) as stopped:
        await acts.synced(note)
    assert stopped.value.state == "blocked"
    status = note.status
    assert liar.hits == 3
    assert len({request.headers["producer-id"] for request in network.requests if is_append(request)}) == 3
    assert len({request.body for request in network.requests if is_append(request)}) == 1
    assert isinstance(status.last_error, ProtocolError)
    assert (status.unsent + status.sent, status.durable, status.duplicates) == (1, 0, 3)
    assert await world.payloads() == []
    network.clear()
    await replica.connect()
    await acts.synced(note)
    assert len(await world.payloads()) == 1


async def test_a_proxy_that_delivers_twice_makes_nothing_twice(world: Any, acts: Any) -> None:
    network = world.network()
    network.inject(duplicate(), when=is_append, times=None)
    note = await (await world.replica("a", transport=network)).open("note")
    for number in range(5):
        acts.write(note, f"{number} ")
        await acts.synced(note)
    frames = await world.payloads()
    assert len(frames) == len(set(frames)) == 5
    assert note.status.durable == 5


async def test_a_copied_file_whose_copies_both_go_on_loses_nothing(world: Any, acts: Any) -> None:
    network = world.network()
    first = await world.replica("a", transport=network)
    note = await first.open("note")
    acts.write(note, "base ")
    await acts.synced(note)
    sealed = network.inject(drop_before_sending(), when=is_append, times=None)
    acts.write(note, "shared ")
    await acts.until(lambda: sealed.hits > 0)
    await first.close()
    shutil.copy(world.folder / "a.db", world.folder / "b.db")
    network.clear()
    a = await (await world.replica("a")).open("note")
    b = await (await world.replica("b")).open("note")
    acts.write(a, "from-a ")
    acts.write(b, "from-b ")
    await acts.synced(a, b)
    for document, word in ((a, "A "), (b, "B "), (a, "C "), (b, "D ")):
        acts.write(document, word)
        await acts.synced(document)
    await acts.synced(a, b)
    assert acts.read(a) == acts.read(b)
    assert sorted(acts.read(a).split()) == sorted(["base", "shared", "from-a", "from-b", "A", "B", "C", "D"])
    frames = await world.payloads()
    assert len(frames) == len(set(frames)) == 8


async def test_a_batch_that_is_seen_while_its_request_hangs_is_settled(world: Any, acts: Any) -> None:
    network = world.network()
    note = await (await world.replica("a", transport=network)).open("note")
    await acts.synced(note)
    network.inject(hold(asyncio.Event(), committed=True), when=is_append)
    acts.write(note, "seen")
    await acts.synced(note)
    assert note.status.durable == 1
    acts.write(note, " next")
    await acts.synced(note)
    assert len(await world.payloads()) == 2


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
async def test_a_failing_server_is_asked_again_and_gets_it_once(world: Any, acts: Any, status: int) -> None:
    network = world.network()
    network.inject(respond(status), when=is_append, times=2)
    note = await (await world.replica("a", transport=network)).open("note")
    acts.write(note, "once")
    seen = await acts.state(note, "retrying")
    assert isinstance(seen.last_error, (ServerError, RateLimitedError)) or status == 408
    await acts.synced(note)
    assert len(await world.payloads()) == 1
    assert note.status.retries == 2
    assert note.status.last_error is None


async def test_retry_after_is_honoured(world: Any, acts: Any) -> None:
    network = world.network()
    network.inject(respond(429, {"retry-after": "1"}), when=is_append)
    note = await (await world.replica("a", transport=network, environment=Environment())).open("note")
    acts.write(note, "patience")
    clock = asyncio.get_running_loop().time
    began = clock()
    await acts.synced(note)
    assert clock() - began >= 1.0
    assert network.count(is_append) == 2


@pytest.mark.parametrize(
    ("status", "kind", "headers"),
    [(400, InvalidRequestError, {}), (409, ConflictError, {}), (409, ConflictError, {"stream-closed": "true"})],
)
async def test_a_refusal_for_good_blocks_reports_and_goes_on_at_the_next_connect(
    world: Any, acts: Any, status: int, kind: type[Exception], headers: dict[str, str]
) -> None:
    network = world.network()
    refusal = network.inject(respond(status, headers), when=is_append, times=None)
    replica = await world.replica("a", transport=network)
    note, other = await replica.open("note"), await (await world.replica("b")).open("note")
    acts.write(note, "kept ")
    with pytest.raises(SyncStoppedError) as stopped:
        await acts.synced(note)
    assert stopped.value.state == "blocked"
    assert isinstance(note.status.last_error, kind)
    acts.write(other, "still read ")
    await acts.until(lambda: "still read" in acts.read(note), "a blocked document reads on")
    assert refusal.hits == 1
    network.clear()
    await replica.connect()
    await acts.synced(note, other)
    assert sorted(acts.read(other).split()) == ["kept", "read", "still"]


async def test_403_pauses_says_so_and_goes_on(world: Any, acts: Any) -> None:
    network = world.network()
    refusal = network.inject(respond(403), when=is_append, times=2)
    note = await (await world.replica("a", transport=network)).open("note")
    acts.write(note, "kept")
    status = await acts.state(note, "forbidden")
    assert isinstance(status.last_error, ForbiddenError)
    await acts.until(lambda: note.status.durable == 1, "it is tried again by itself")
    assert refusal.hits == 2
    assert len(await world.payloads()) == 1


async def test_a_stale_epoch_is_verified_and_goes_out_under_another_id(world: Any, acts: Any) -> None:
    network = world.network()
    network.inject(respond(403, {"producer-epoch": "7"}), when=is_append)
    note = await (await world.replica("a", transport=network)).open("note")
    acts.write(note, "mine")
    await acts.synced(note)
    appends = [request for request in network.requests if is_append(request)]
    assert len(appends) == 2
    assert appends[0].headers["producer-id"] != appends[1].headers["producer-id"]
    assert {request.headers["producer-epoch"] for request in appends} == {"0"}
    assert len(await world.payloads()) == 1


async def test_a_stale_epoch_after_a_commit_is_settled_by_sight(world: Any, acts: Any) -> None:
    network = world.network()
    network.inject(respond_after(403, {"producer-epoch": "7"}), when=is_append)
    note = await (await world.replica("a", transport=network)).open("note")
    acts.write(note, "mine")
    await acts.synced(note)
    assert network.count(is_append) == 1
    assert len(await world.payloads()) == 1


async def test_a_gap_in_the_numbers_is_healed_and_nothing_stands_twice(world: Any, acts: Any) -> None:
    network = world.network()
    note = await (await world.replica("a", transport=network)).open("note")
    acts.write(note, "one ")
    await acts.synced(note)
    network.inject(respond(409, {"producer-expected-seq": "0", "producer-received-seq": "1"}), when=is_append)
    acts.write(note, "two")
    await acts.synced(note)
    assert len(await world.payloads()) == 2
    assert note.status.durable == 2
    other = await (await world.replica("b")).open("note")
    await acts.synced(other)
    assert acts.read(other) == "one two"


@pytest.mark.parametrize(
    "garbage",
    [
        Response(200, {}, b"<html>log in to the hotel</html>"),
        Response(200, {"stream-next-offset": "a/../b"}),
        Response(204, {}),
        Response(302, {"location": "http://elsewhere/login"}),
        Response(299, {"stream-next-offset": ""}),
        Response(418, {}, b"\xff\xfe"),
    ],
)
async def test_garbage_answers_never_lose_or_double_an_edit(world: Any, acts: Any, garbage: Response) -> None:
    network = world.network()
    fault = respond(garbage.status, garbage.headers, garbage.body)
    network.inject(fault, when=anything, times=4)
    note = await (await world.replica("a", transport=network)).open("note")
    acts.write(note, "safe")
    await acts.until(lambda: note.status.durable == 1)
    await acts.synced(note)
    frames = await world.payloads()
    other = await (await world.replica("b")).open("note")
    await acts.synced(other)
    assert acts.read(other) == "safe"
    assert len(frames) == 1


async def test_a_failing_append_is_tried_ever_more_slowly_however_well_reading_goes(world: Any, acts: Any) -> None:
    network = world.network()
    note = await (await world.replica("a", transport=network, environment=Environment())).open("note")
    other = await (await world.replica("b")).open("note")
    failing = network.inject(respond(503), when=is_append, times=None)
    acts.write(note, "kept")
    for number in range(24):  # pages that are up to date come all the time
        acts.write(other, f"{number} ")
        await asyncio.sleep(0.05)
    assert 2 <= failing.hits <= 9
    network.clear()


async def test_404_to_appends_alone_does_not_spin(world: Any, acts: Any) -> None:
    network = world.network()
    replica = await world.replica("a", transport=network, environment=Environment())
    note = await replica.open("note")
    await acts.synced(note)
    failing = network.inject(respond(404), when=is_append, times=None)
    acts.write(note, "kept")
    await asyncio.sleep(1.0)
    assert 2 <= failing.hits <= 9
    network.clear()
    await replica.connect()
    await acts.synced(note)
    assert len(await world.payloads()) == 1


async def test_live_reads_that_are_refused_do_not_read_everything_again_without_rest(world: Any, acts: Any) -> None:
    network = world.network()
    network.inject(respond(400), when=is_live, times=None)
    note = await (await world.replica("a", transport=network, environment=Environment(), tuning=Tuning(heal_jitter=0.0))).open("note")
    acts.write(note, "words")
    await asyncio.sleep(1.0)
    from_beginning = network.count(lambda request: is_read(request) and "offset=-1" in request.url)
    assert from_beginning <= 12, [request.url for request in network.requests]
    await acts.until(lambda: note.status.durable == 1)
    assert len(await world.payloads()) == 1


async def test_a_closed_stream_is_said_to_be_and_not_read_on_every_edit(world: Any, acts: Any, foreign: Any) -> None:
    server = foreign(page=10_000)
    await world.start(app=server)
    await world.client().create()
    network = world.network()
    network.inject(respond_after(200, {"stream-closed": "true", "stream-up-to-date": "true"}), when=is_read, times=None)
    network.inject(respond(409, {"stream-closed": "true"}), when=is_append, times=None)
    replica = await world.replica("a", transport=network, environment=Environment(), tuning=Tuning(pause=30.0))
    note = await replica.open("note")
    status = await acts.state(note, "closed")
    assert status.last_error is None
    await acts.synced(note)
    reads = network.count(is_read)
    for _ in range(10):
        acts.write(note, "x")
        await asyncio.sleep(0.01)
    assert network.count(is_read) <= reads + 1
    with pytest.raises(SyncStoppedError):
        await acts.synced(note)
    assert note.status.unsent + note.status.sent == 10


async def test_an_idle_document_asks_for_nothing(world: Any, acts: Any) -> None:
    network = world.network()
    note = await (await world.replica("a", transport=network)).open("note")
    acts.write(note, "done")
    await acts.synced(note)
    await asyncio.sleep(0.2)
    requests = len(network.requests)
    await asyncio.sleep(0.5)
    assert len(network.requests) == requests


async def test_the_application_holds_a_transaction_while_pages_come(world: Any, acts: Any) -> None:
    a, b = await (await world.replica("a")).open("note"), await (await world.replica("b")).open("note")
    await acts.synced(a, b)
    with a.doc.transaction():
        acts.write(b, "theirs ")
        await b.synced()
        await asyncio.sleep(0.05)
        assert acts.read(a) == ""
        acts.write(a, "ours ")
        await asyncio.sleep(0.05)
        assert a.status.unsent + a.status.sent + a.status.unsaved == 0, "an edit is one when its transaction ends"
    await acts.synced(a, b, a)
    assert acts.read(a) == acts.read(b)
    assert sorted(acts.read(a).split()) == ["ours", "theirs"]
    assert len(await world.payloads()) == 2


async def test_offline_retrying_and_back(world: Any, acts: Any) -> None:
    network = world.network()
    note = await (await world.replica("a", transport=network)).open("note")
    await acts.synced(note)
    await world.stop()
    status = await acts.state(note, "retrying")
    assert isinstance(status.last_error, TransportError)
    acts.write(note, "meanwhile")
    await world.start()
    await acts.synced(note)
    assert note.status.last_error is None
    assert len(await world.payloads()) == 1
