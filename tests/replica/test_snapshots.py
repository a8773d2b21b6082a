"""A replica begins at the server's snapshot, where there is one; a server without such a thing is as before."""

import asyncio
import os
import random
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ds_sync.cli.replaying.traces import Patch, load_trace
from ds_sync.client.transport import Response
from ds_sync.exceptions import GoneError, NotFoundError
from ds_sync.protocol.framing import build_frames, build_varint
from ds_sync.protocol.history import START
from ds_sync.protocol.retention import decide_trim
from ds_sync.server.documents.compaction import Compactor
from ds_sync.server.documents.snapshots import Snapshots
from ds_sync.testing.faults import Fault, Request, hold, is_append, lose_answer, respond
from ds_sync.testing.inline_worker import open_inline

from .conftest import HASTY

pytestmark = pytest.mark.anyio

SESSION = Path(os.environ.get("DS_SYNC_TRACES", Path(__file__).parents[3] / "shared" / "data")) / "automerge-paper.json.gz"
EDITS = 259_778


async def compact(world: Any, *, trim: bool = False, path: str = "note") -> None:
    """Give the document a snapshot; drop what stands before it."""
    root = f"yjs/default/docs/{path}"
    compactor = Compactor(world.engine, Snapshots(world.engine, HASTY), HASTY, 1 << 40, open_inline)
    assert await compactor.compact(root)
    await compactor.aclose()
    if trim:
        updates = f"{root}/.updates"
        state = (await world.engine.read(updates, None, 0)).state
        assert await world.engine.transact((updates,), lambda views: decide_trim(views[0], state.incarnation, state.place, HASTY.now()))
        with pytest.raises(GoneError):
            await world.engine.read(updates, START, 1)


def asks_for_snapshot(request: Request) -> bool:
    return "offset=snapshot" in request.url


def reads_snapshot(request: Request) -> bool:
    return "_snapshot" in request.url


def reads_everything(request: Request) -> bool:
    return ".updates?" in request.url and "offset=-1" in request.url


async def type_words(world: Any, acts: Any, *words: str) -> Any:
    note = await (await world.replica("writer")).open("note")
    for word in words:
        acts.write(note, f"{word} ")
        await acts.synced(note)
    return note


async def test_a_newcomer_reads_the_snapshot_and_what_follows_it(world: Any, acts: Any) -> None:
    writer = await type_words(world, acts, "one", "two")
    await compact(world)
    acts.write(writer, "three ")
    await acts.synced(writer)
    network = world.network()
    note = await (await world.replica("a", transport=network)).open("note")
    await acts.synced(note)
    assert acts.read(note) == "one two three "
    assert (network.count(asks_for_snapshot), network.count(reads_snapshot), network.count(reads_everything)) == (1, 1, 0)
    acts.write(note, "four ")
    await acts.synced(note, writer)
    assert acts.read(writer) == "one two three four "
    assert len(await world.payloads()) == 4


async def test_what_came_by_snapshot_is_in_the_file_and_is_asked_for_once(world: Any, acts: Any) -> None:
    await type_words(world, acts, "one", "two")
    await compact(world)
    replica = await world.replica("a")
    await acts.synced(await replica.open("note"))
    await replica.close()
    network = world.network()
    offline = await world.replica("a", online=False, transport=network)
    note = await offline.open("note")
    assert acts.read(note) == "one two "
    await offline.connect(world.url)
    await acts.synced(note)
    assert network.count(asks_for_snapshot) == 0


async def test_edits_made_before_the_first_contact_go_out_once(world: Any, acts: Any) -> None:
    writer = await type_words(world, acts, "one")
    await compact(world)
    replica = await world.replica("a", online=False)
    note = await replica.open("note")
    acts.write(note, "mine ")
    await replica.connect(world.url)
    await acts.synced(note, writer)
    assert sorted(acts.read(writer).split()) == ["mine", "one"]
    assert len(await world.payloads()) == 2


async def test_a_document_without_a_snapshot_costs_one_request(world: Any, acts: Any) -> None:
    await type_words(world, acts, "one")
    network = world.network()
    note = await (await world.replica("a", transport=network)).open("note")
    await acts.synced(note)
    assert acts.read(note) == "one "
    assert (network.count(asks_for_snapshot), network.count(reads_snapshot)) == (1, 0)


@pytest.mark.parametrize("status", [200, 204, 302, 400, 403, 404, 405, 410, 500])
async def test_whatever_another_server_says_to_it_everything_is_read(world: Any, acts: Any, status: int) -> None:
    await type_words(world, acts, "one", "two")
    network = world.network()
    network.inject(respond(status), when=asks_for_snapshot, times=None)
    replica = await world.replica("a", transport=network)
    note = await replica.open("note")
    await acts.synced(note)
    assert acts.read(note) == "one two "
    asked = network.count(asks_for_snapshot)
    assert asked == (3 if status == 500 else 1)
    await acts.synced(await replica.open("other"))
    if status not in (403, 500):  # which may be over by now
        assert network.count(asks_for_snapshot) == asked, "a server is asked once"


async def test_a_plain_server_is_asked_once(world: Any, acts: Any, foreign: Any) -> None:
    await world.stop()
    await world.start(app=foreign())
    network = world.network()
    replica = await world.replica("a", transport=network)
    for name in ("note", "other"):
        note = await replica.open(name)
        acts.write(note, "kept ")
        await acts.synced(note)
    assert network.count(asks_for_snapshot) == 1


async def test_a_snapshot_that_is_no_update_is_put_aside_and_everything_is_read(world: Any, acts: Any) -> None:
    await type_words(world, acts, "one", "two")
    await compact(world)
    network = world.network()
    real = await world.client().read()
    damaged = Response(200, {"stream-next-offset": real.next_offset, "stream-incarnation": real.incarnation}, b"\xff no update")
    network.inject(respond(damaged.status, damaged.headers, damaged.body), when=reads_snapshot, times=None)
    replica = await world.replica("a", transport=network)
    note = await replica.open("note")
    await acts.synced(note)
    assert acts.read(note) == "one two "
    assert [bad.data for bad in note.quarantined()] == [b"\xff no update"]
    await replica.close()
    again = await (await world.replica("a")).open("note")
    assert (acts.read(again), again.status.quarantined) == ("one two ", 1)


async def test_a_snapshot_that_leads_to_no_place_is_not_asked_for_again_and_again(world: Any, acts: Any) -> None:
    await type_words(world, acts, "one", "two")
    await compact(world)
    page = await world.client().read()
    snapshot = (await world.engine.read((await world.engine.list("yjs/default/docs/note/.snapshots/*"))[0], START, 1 << 20)).records[0]
    network = world.network()
    headers = {"stream-next-offset": "0000000000000001_0000000000000007", "stream-incarnation": page.incarnation}
    network.inject(respond(200, headers, snapshot), when=reads_snapshot, times=None)
    note = await (await world.replica("a", transport=network)).open("note")
    await acts.synced(note)
    assert acts.read(note) == "one two "
    assert (network.count(reads_snapshot), len(await world.payloads())) == (1, 2)


async def test_healing_begins_at_the_snapshot(world: Any, acts: Any) -> None:
    writer = await type_words(world, acts, "one", "two")
    network = world.network()
    replica = await world.replica("a", transport=network)
    note = await replica.open("note")
    await acts.synced(note)
    await replica.disconnect()
    acts.write(note, "mine ")
    acts.write(writer, "three ")
    await acts.synced(writer)
    await compact(world, trim=True)
    acts.write(writer, "four ")
    await acts.synced(writer)
    await replica.connect()
    await acts.synced(note, writer)
    assert sorted(acts.read(note).split()) == ["four", "mine", "one", "three", "two"]
    assert acts.read(writer) == acts.read(note)
    assert network.count(reads_snapshot) == 1


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_batch_that_the_snapshot_may_hide_stands_in_the_log_once(world: Any, acts: Any, arrived: bool) -> None:
    """Sealed, sent, its answer lost; then the log is trimmed past it. Seen is what changes nothing when it is applied."""
    writer = await type_words(world, acts, "one")
    network = world.network()
    replica = await world.replica("a", transport=network)
    note = await replica.open("note")
    await acts.synced(note)
    lost = lose_answer() if arrived else respond(503)
    network.inject(lost, when=is_append, times=None)
    network.inject(respond(503), when=lambda request: request.method == "GET", times=None)
    acts.write(note, "mine ")
    await acts.until(lambda: network.count(is_append) > 0)
    await replica.close()
    if arrived:
        await acts.until(lambda: "mine" in acts.read(writer))
    else:
        acts.write(writer, "two ")
        await acts.synced(writer)
    await compact(world, trim=True)
    position = (await world.engine.read("yjs/default/docs/note/.updates", None, 0)).state.position
    note = await (await world.replica("a")).open("note")
    assert note.status.sent == 1
    await acts.synced(note, writer)
    assert acts.read(note) == acts.read(writer)
    assert (acts.read(note).count("mine"), note.status.durable) == (1, 1)
    after = (await world.engine.read("yjs/default/docs/note/.updates", None, 0)).state.position
    assert (after == position) is arrived, "what the snapshot holds is not sent again"


async def test_a_dropped_beginning_is_waited_for_while_the_snapshot_can_not_be_had(world: Any, acts: Any) -> None:
    await type_words(world, acts, "one", "two")
    await compact(world, trim=True)
    network = world.network()
    down = network.inject(respond(503), when=asks_for_snapshot, times=None)
    network.inject(respond(410, {}, b'{"error": {"code": "OFFSET_EXPIRED"}}'), when=reads_everything, times=None)
    note = await (await world.replica("a", transport=network)).open("note")
    await acts.until(lambda: network.count(reads_everything) > 1)
    assert note.status.state == "retrying"
    down.times = 0
    await acts.synced(note)
    assert acts.read(note) == "one two "


async def test_one_odd_answer_does_not_make_a_server_plain_for_ever(world: Any, acts: Any) -> None:
    """Something on the way refuses the question; later the stream's beginning is gone, and only the snapshot has it."""
    await type_words(world, acts, "one", "two")
    await compact(world, trim=True)
    network = world.network()
    network.inject(respond(413), when=asks_for_snapshot)
    gone = network.inject(respond(410, {}, b'{"error": {"code": "OFFSET_EXPIRED"}}'), when=reads_everything, times=None)
    note = await (await world.replica("a", transport=network)).open("note")
    await acts.synced(note)
    assert (acts.read(note), gone.hits) == ("one two ", 1)


async def test_a_beginning_dropped_since_we_asked_for_a_snapshot_is_no_end(world: Any, acts: Any) -> None:
    """There was none; before the stream was read, others wrote, the server made one, and dropped what it holds."""
    writer = await type_words(world, acts, "one")
    network, late = world.network(), asyncio.Event()
    network.inject(hold(late), when=reads_everything)
    note = await (await world.replica("a", transport=network)).open("note")
    await acts.until(lambda: network.count(reads_everything) > 0)
    assert network.count(asks_for_snapshot) == 1
    acts.write(writer, "two ")
    await acts.synced(writer)
    await compact(world, trim=True)
    late.set()
    await acts.synced(note)  # raises SyncStoppedError if it is blocked, even for a moment
    assert (acts.read(note), network.count(asks_for_snapshot)) == ("one two ", 2)


async def test_a_beginning_that_is_gone_for_good_is_said(world: Any, acts: Any) -> None:
    """No snapshot stands in for it, however often it is asked for."""
    await type_words(world, acts, "one")
    network = world.network()
    gone = network.inject(respond(410, {}, b'{"error": {"code": "OFFSET_EXPIRED"}}'), when=reads_everything, times=None)
    note = await (await world.replica("a", transport=network)).open("note")
    await acts.state(note, "blocked")
    assert gone.hits >= 4


async def test_a_deleted_document_is_not_brought_back_by_asking(world: Any, acts: Any) -> None:
    note = await type_words(world, acts, "one")
    await compact(world)
    await world.client().delete()
    await acts.state(note, "deleted")
    await asyncio.sleep(0.05)
    with pytest.raises(NotFoundError):
        await world.client().head()


def read_session() -> tuple[list[Patch], str]:
    """Return a recorded session of single characters, and its text; where it is not, one as long that is made up, with slips."""
    if SESSION.exists():
        trace = load_trace(SESSION, verify=False)
        return [patch for patches in trace.transactions for patch in patches], trace.end
    draw, text, patches = random.Random(1), list[str](), list[Patch]()
    for _ in range(EDITS):
        if text and draw.random() < 0.3:
            text.pop()
            patches.append((len(text), 1, ""))
        else:
            patches.append((len(text), 0, draw.choice("abcdefgh ")))
            text.append(patches[-1][2])
    return patches, "".join(text)


def encode_updates(patches: Iterable[Patch]) -> Iterator[bytes]:
    """Yield one Yjs update (version 1) a character: what client 1 would send, without the 5 to 10 seconds a library takes to type it."""
    present, clock = array("I"), 0
    for at, deleted, inserted in patches:
        assert deleted + len(inserted) == 1
        if deleted:
            yield b"\x00\x01\x01\x01" + build_varint(present.pop(at)) + b"\x01"  # no structs; of one client one run is deleted
            continue
        left = b"\x01" + build_varint(present[at - 1]) if at else b""
        right = b"\x01" + build_varint(present[at]) if at < len(present) else b""
        parent = b"" if left or right else b"\x01\x04body"
        data = inserted.encode()
        info = 0x04 | (0x80 if left else 0) | (0x40 if right else 0)
        yield b"\x01\x01\x01%b%c%b%b%b%c%b\x00" % (build_varint(clock), info, left, right, parent, len(data), data)
        present.insert(at, clock)
        clock += 1


async def test_a_document_of_a_quarter_of_a_million_updates_is_joined_by_its_snapshot(world: Any, acts: Any) -> None:
    patches, text = read_session()
    assert len(patches) == EDITS
    log = build_frames(list(encode_updates(patches)))
    url, network = f"{world.url}/v1/yjs/default/docs/note", world.network()
    assert (await network.request("PUT", url, headers={}, timeout=10)).status == 201
    assert (await network.request("POST", url, headers={}, body=log, timeout=10)).status == 204
    assert len(await world.payloads()) == EDITS, "one by one, as they were"
    await compact(world)
    received = 0

    async def count(request: Request, response: Response) -> Response:
        nonlocal received
        received += len(response.body)
        return response

    network = world.network()
    network.inject(Fault(after=count), times=None)
    note = await (await world.replica("a", transport=network)).open("note")
    await acts.synced(note)
    assert acts.read(note) == text
    assert (network.count(asks_for_snapshot), network.count(reads_snapshot), network.count(reads_everything)) == (1, 1, 0)
    (rest,) = (request.url for request in network.requests if ".updates?" in request.url)
    assert f"offset={len(log):016}_" in rest, "from the end of the log on"
    assert received < len(log) / 4
