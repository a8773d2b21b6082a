"""A peer types nothing before its replica has merged what the trace demands, and nothing twice."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Doc, Text

from ds_sync import Document, Replica
from ds_sync.cli.replaying.editors import Editors
from ds_sync.cli.replaying.person import Peer
from ds_sync.cli.replaying.traces import Patch, SharedTrace, Transaction
from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.anyio

ADA, BEN = 0, 1


def transaction(person: int, seen: tuple[int, int], *patches: Patch) -> Transaction:
    return Transaction(person, seen, patches)


TRACE = SharedTrace(
    "good morning!",
    2,
    (
        transaction(ADA, (0, 0), (0, 0, "good mornin")),
        transaction(ADA, (1, 0), (0, 4, "")),
        transaction(BEN, (2, 0), (7, 0, "g")),  # the deletion must be there
        transaction(BEN, (2, 1), (8, 0, "!")),
        transaction(ADA, (2, 2), (0, 0, "good")),
    ),
)


def updates() -> list[bytes]:
    editors = Editors(TRACE, last_first=False)
    return [editors.type(number) for number in range(len(TRACE.transactions))]


def text(document: Document) -> str:
    return str(document.doc.get("body", type=Text))


async def settles_at(document: Document, wanted: str) -> None:
    """It comes to be `wanted`, and stays so for a moment."""
    moved = asyncio.Event()
    subscription = document.doc.observe(lambda event: moved.set())
    async with asyncio.timeout(10):
        while text(document) != wanted:
            moved.clear()
            await moved.wait()
    document.doc.unobserve(subscription)
    await asyncio.sleep(0.1)
    assert text(document) == wanted


@asynccontextmanager
async def peer(document: Document, people: list[int], trace: SharedTrace = TRACE) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(Peer(document, trace, people, last_first=False).run())
    yield task
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class Leave(io.StringIO):
    """Standard input of every peer that begins: what may be typed."""

    def __iter__(self) -> Leave:
        return Leave(self.getvalue())


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the trace may be typed."""
    monkeypatch.setattr(sys, "stdin", Leave('{"until": 99}\n'))


@pytest.mark.usefixtures("allowed")
async def test_nothing_is_typed_before_all_that_it_has_seen_is_merged(tmp_path: Path) -> None:
    made = updates()
    async with Replica(tmp_path / "ben.db") as replica:
        document = await replica.open("talk")
        async with peer(document, [BEN]):
            await settles_at(document, "")
            document.doc.apply_update(made[0])
            await settles_at(document, "good mornin")
            document.doc.apply_update(made[1])
            await settles_at(document, " morning!")


@pytest.mark.usefixtures("allowed")
async def test_what_the_file_has_is_not_typed_again(tmp_path: Path) -> None:
    made = updates()
    async with Replica(tmp_path / "ada.db") as replica:
        document = await replica.open("talk")
        async with peer(document, [ADA]):
            await settles_at(document, " mornin")
    async with Replica(tmp_path / "ada.db") as replica:
        document = await replica.open("talk")
        stored = document.status.unsent
        async with peer(document, [ADA]):
            await settles_at(document, " mornin")
            assert document.status.unsent == stored == 2
            for update in made[2:4]:
                document.doc.apply_update(update)
            await settles_at(document, "good morning!")


async def test_nobody_goes_beyond_the_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Leave('{"until": 1}\n'))
    async with Replica(tmp_path / "ada.db") as replica:
        document = await replica.open("talk")
        async with peer(document, [ADA]):
            await settles_at(document, "good mornin")


async def last_line(document: Document, people: list[int], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    async with asyncio.timeout(20), peer(document, people) as task:
        await task
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


@pytest.mark.usefixtures("allowed")
async def test_it_says_whether_the_text_is_the_recorded_one_and_synced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ServerProcess() as server:
        async with Replica(tmp_path / "both.db", server=server.url) as replica:
            said = await last_line(await replica.open("talk"), [ADA, BEN], capsys)
    assert said["done"] is said["exact"] is said["synced"] is True
    assert (said["typed"], said["merged"], said["retries"]) == (5, 1.0, 0)
    assert said["compared"] >= 1


@pytest.mark.usefixtures("allowed")
async def test_a_replica_that_differs_from_what_its_person_sees_is_not_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign: Doc[Any] = Doc(client_id=1)  # the same clocks, another letter
    foreign.get("body", type=Text).insert(0, "good_mornin")
    with ServerProcess() as server:
        async with Replica(tmp_path / "both.db", server=server.url) as replica:
            document = await replica.open("talk")
            document.doc.apply_update(foreign.get_update())
            said = await last_line(document, [ADA, BEN], capsys)
            assert text(document) == "good_morning!"
    assert (said["done"], said["exact"], said["synced"]) == (True, False, True)
