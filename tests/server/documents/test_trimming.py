"""`--keep-updates`: what a snapshot has may go, and only that; who asks for it begins again at the snapshot."""

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pycrdt import Doc, Text

from ds_sync.client.transport import Response
from ds_sync.environment import Environment
from ds_sync.exceptions import GoneError, StorageFullError
from ds_sync.protocol.framing import build_frame, parse_frames
from ds_sync.protocol.history import START
from ds_sync.protocol.retention import KeepUpdates
from ds_sync.server.app import create_app
from ds_sync.server.documents.compaction import Compactor
from ds_sync.server.documents.read_positions import SPAN, ReadPositions
from ds_sync.server.documents.routes import DocumentName
from ds_sync.server.documents.snapshots import Snapshots
from ds_sync.server.documents.trimming import Trimmer
from ds_sync.server.engines.base import StorageEngine
from ds_sync.testing.asgi_transport import AsgiTransport
from ds_sync.testing.inline_worker import open_inline

pytestmark = pytest.mark.anyio

ROOT = "yjs/notes/docs/a"
UPDATES = f"{ROOT}/.updates"
DOC = f"http://example.org/v1/{ROOT}"
STREAM = f"http://example.org/v1/stream/{UPDATES}"
DAY = 86_400.0


class Site:
    """A document, its server without a compactor of its own, and one that is told when to work."""

    def __init__(self, engine: StorageEngine, keep: KeepUpdates) -> None:
        self.time = 1_800_000_000.0
        clock = lambda: self.time  # noqa: E731
        environment = Environment(monotonic=clock, now=clock)
        self.engine = engine
        self.app = create_app(engine, environment=environment, compact_after=None, long_poll_timeout=0.02, sse_seconds=0.05)
        self.transport = AsgiTransport(self.app)
        self.reads = ReadPositions(clock)
        self.snapshots = Snapshots(engine, environment)
        self.trimmer = Trimmer(engine, self.snapshots, environment, self.reads, keep)
        self.compactor = Compactor(engine, self.snapshots, environment, 1 << 40, open_inline, self.trimmer)
        self.doc = Doc[Any]()
        self.text: Text = self.doc.get("body", type=Text)
        self.time += SPAN

    async def __call__(self, method: str, url: str, body: bytes = b"") -> Response:
        return await self.transport.request(method, url, headers={}, body=body, timeout=10)

    async def type(self, words: str) -> str:
        """Send an edit; return the offset after it."""
        before = self.doc.get_state()
        self.text += words
        return (await self("POST", DOC, build_frame(self.doc.get_update(before)))).headers["stream-next-offset"]

    async def milestone(self, words: str) -> str:
        """Type, and make a snapshot; return its offset."""
        offset = await self.type(words)
        assert await self.compactor.compact(ROOT)
        return offset

    async def earliest(self) -> int:
        state = (await self.engine.read(UPDATES, None, 0)).state
        assert state is not None
        return 0 if state.earliest is None else state.earliest.position

    async def join(self) -> str:
        answer = await self("GET", f"{DOC}?offset=snapshot")
        snapshot = await self("GET", f"{DOC}?{answer.headers['location'].partition('?')[2]}")
        doc = Doc[Any]()
        doc.apply_update(snapshot.body)
        rest = await self("GET", f"{DOC}?offset={snapshot.headers['stream-next-offset']}")
        assert rest.status == 200
        for update in parse_frames(rest.body).payloads:
            doc.apply_update(update)
        return str(doc.get("body", type=Text))

    async def aclose(self) -> None:
        await self.compactor.aclose()
        await self.app.aclose()
        await self.transport.aclose()


def position(offset: str) -> int:
    return int(offset.partition("_")[0])


@pytest.fixture
async def site(engine: StorageEngine) -> AsyncIterator[Site]:
    made = Site(engine, KeepUpdates(size=0))
    await made("PUT", DOC)
    yield made
    await made.aclose()


async def test_what_stands_before_the_last_snapshot_but_one_goes(site: Site) -> None:
    first = await site.milestone("one ")
    assert await site.earliest() == 0, "who joined by the newest goes on from there"
    second = await site.milestone("two ")
    assert await site.earliest() == position(first)
    await site.milestone("three ")
    await site.type("four ")
    assert await site.earliest() == position(second)
    for url in (DOC, STREAM):
        for gone in ("-1", first):
            for live in ("", "&live=long-poll", "&live=sse"):
                answer = await site("GET", f"{url}?offset={gone}{live}")
                assert (answer.status, json.loads(answer.body)["error"]["code"]) == (410, "OFFSET_EXPIRED")
        assert (await site("GET", f"{url}?offset={second}")).status == 200
    assert await site.join() == "one two three four "


async def test_nothing_goes_that_was_read_of_late(site: Site) -> None:
    first = await site.milestone("one ")
    second = await site.milestone("two ")
    site.reads.note(UPDATES, position(first))
    await site.milestone("three ")
    assert await site.earliest() == position(first)
    site.time += 2 * SPAN
    await site.milestone("four ")
    assert await site.earliest() > position(second)


async def test_nothing_goes_that_was_read_in_the_last_ten_minutes(site: Site) -> None:
    """In seconds, as it is promised; after twice as long it goes at the latest."""
    first = await site.milestone("one ")
    second = await site.milestone("two ")
    site.reads.note(UPDATES, position(first))
    site.time += 599
    await site.milestone("three ")
    assert await site.earliest() == position(first)
    site.time += 602
    await site.milestone("four ")
    assert await site.earliest() > position(second)


async def test_after_a_restart_nothing_goes_for_as_long_as_nobody_knows_who_reads(engine: StorageEngine) -> None:
    site = Site(engine, KeepUpdates(size=0))
    site.time -= SPAN
    await site("PUT", DOC)
    for words in ("one ", "two ", "three "):
        await site.milestone(words)
    assert await site.earliest() == 0
    site.time += SPAN
    await site.milestone("four ")
    assert await site.earliest() > 0
    await site.aclose()


async def test_the_youngest_stay(engine: StorageEngine) -> None:
    site = Site(engine, KeepUpdates(seconds=7 * DAY))
    await site("PUT", DOC)
    first = await site.milestone("one ")
    site.time += 6 * DAY
    await site.milestone("two ")
    await site.milestone("three ")
    assert await site.earliest() == 0
    site.time += 1.5 * DAY
    await site.milestone("four ")
    assert await site.earliest() == position(first)
    await site.aclose()


async def test_what_can_not_be_read_is_in_no_snapshot_and_so_nothing_goes_any_more(site: Site) -> None:
    await site.milestone("one ")
    assert (await site("POST", DOC, build_frame(b"\xff no update"))).status == 204
    await site.milestone("two ")
    for words in ("three ", "four "):
        await site.milestone(words)
        site.time += 2 * SPAN
    assert await site.earliest() == 0, "later snapshots leave it out as well, though they say nothing of it themselves"
    assert [milestone.left_out for milestone in await site.snapshots.milestones(ROOT, await life(site))] == [0, 1, 1, 1]


async def life(site: Site) -> str:
    state = (await site.engine.read(UPDATES, None, 0)).state
    assert state is not None
    return state.incarnation


async def test_another_life_is_left_alone(site: Site) -> None:
    for words in ("one ", "two "):
        await site.milestone(words)
    before = await life(site)
    await site("DELETE", DOC)
    assert not await site.trimmer.trim(ROOT, before)
    await site("PUT", DOC)
    await site.type("new ")
    assert not await site.trimmer.trim(ROOT, before)
    assert await site.earliest() == 0


async def test_it_is_looked_again_once_a_minute(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = list[float]()

    async def look(root: str, incarnation: str) -> bool:
        looks.append(site.time)
        return await Trimmer.trim(site.trimmer, root, incarnation)

    monkeypatch.setattr(site.trimmer, "trim", look)
    site.reads.note(UPDATES, 0)
    first = await site.milestone("one ")
    await site.milestone("two ")
    begun, incarnation = site.time, await life(site)
    for _ in range(4):
        site.time += 20
        await site.trimmer.tend(ROOT, incarnation)
    assert (looks, await site.earliest()) == ([begun, begun, begun + 60], 0)
    site.time += 2 * SPAN
    await site.trimmer.tend(ROOT, incarnation)
    assert await site.earliest() == position(first), "nobody reads there any more"


async def test_a_full_disk_is_logged_and_tried_again(site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    site.reads.note(UPDATES, 0)
    first = await site.milestone("one ")
    await site.milestone("two ")
    site.time += 2 * SPAN
    incarnation = await life(site)

    async def refuse(*_: Any, **__: Any) -> None:
        raise StorageFullError("no space")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(site.engine, "transact", refuse)
        assert not await site.trimmer.trim(ROOT, incarnation)
    assert "keeps more than it should: no space" in caplog.text
    assert await site.earliest() == 0
    assert await site.trimmer.trim(ROOT, incarnation)
    assert await site.earliest() == position(first)


@pytest.mark.parametrize("reading", ["updates", "snapshot", "room"])
async def test_readers_over_http_hold_their_place(engine: StorageEngine, reading: str) -> None:
    """Who reads a snapshot goes on from its place: that counts as read."""
    time = [1_800_000_000.0]
    environment = Environment(monotonic=lambda: time[0], now=lambda: time[0])
    app = create_app(engine, environment=environment, compact_after=1 << 40, keep_updates=KeepUpdates(size=0), open_worker=open_inline)
    transport = AsgiTransport(app)
    await transport.request("PUT", DOC, headers={}, timeout=5)
    time[0] += SPAN
    doc = Doc[Any]()
    text = doc.get("body", type=Text)
    compactor = app._documents._compactor
    assert compactor is not None
    offsets = []
    for words in ("one ", "two ", "three "):
        before = doc.get_state()
        text += words
        answer = await transport.request("POST", DOC, headers={}, body=build_frame(doc.get_update(before)), timeout=5)
        offsets.append(answer.headers["stream-next-offset"])
        if words == "two ":
            if reading == "room":
                state = (await engine.read(UPDATES, None, 0)).state
                assert state is not None
                assert await app._documents.newest_snapshot(DocumentName("yjs", "notes", "a"), state.incarnation) is not None
            else:
                url = f"{STREAM}?offset={offsets[0]}" if reading == "updates" else f"{DOC}?offset={offsets[0]}_snapshot"
                assert (await transport.request("GET", url, headers={}, timeout=5)).status == 200
        assert await compactor.compact(ROOT)
    assert (await engine.read(UPDATES, None, 0)).state.earliest.position == position(offsets[0])  # type: ignore[union-attr]
    with pytest.raises(GoneError):
        await engine.read(UPDATES, START, 1)
    await app.aclose()
    await transport.aclose()
