"""A document that was deleted or made anew on the server: the ways out, and that nothing is lost on any of them."""

import asyncio
import re
import sqlite3
from typing import Any

import pytest

from ds_sync.exceptions import ClosedError, NotDivergedError, NotFoundError, StoreError, SyncStoppedError

pytestmark = pytest.mark.anyio


def words(acts: Any, *documents: Any) -> list[str]:
    """The words of documents that must have the same content."""
    texts = {acts.read(document) for document in documents}
    assert len(texts) == 1, texts
    return sorted(texts.pop().split())


async def remade(world: Any, acts: Any, *, unsent: str = "") -> tuple[Any, Any, Any]:
    """A replica with a note that diverged, the note, and the note of whoever made it anew."""
    replica = await world.replica("a")
    ours = await replica.open("note")
    acts.write(ours, "ours ")
    await acts.synced(ours)
    await world.client().delete()
    await acts.state(ours, "deleted", "diverged")
    await replica.disconnect()
    if unsent:
        acts.write(ours, unsent)
    theirs = await (await world.replica("b")).open("note")
    acts.write(theirs, "theirs ")
    await acts.synced(theirs)
    ours.local.set_phase(ours.local.record.phase.FOLLOW)  # as if it had not been online when it was deleted
    await replica.connect(world.url)
    await acts.state(ours, "diverged")
    return replica, ours, theirs


async def test_both_merges_our_copy_into_the_new_life(world: Any, acts: Any) -> None:
    replica, ours, theirs = await remade(world, acts, unsent="unsent ")
    held = ours.doc
    assert await ours.resolve("both") is None
    await acts.synced(ours, theirs)
    assert words(acts, ours, theirs) == ["ours", "theirs", "unsent"]
    assert ours.doc is held
    acts.write(theirs, "on ")
    acts.write(ours, "and ")
    await acts.synced(theirs, ours, theirs)
    assert words(acts, ours, theirs) == ["and", "on", "ours", "theirs", "unsent"]
    assert [info.path for info in replica.documents()] == ["note"]


async def test_theirs_takes_what_the_server_has_and_keeps_ours_as_a_local_document(world: Any, acts: Any) -> None:
    replica, ours, theirs = await remade(world, acts, unsent="unsent ")
    held = ours.doc
    foreign = await world.payloads()
    copy = await ours.resolve("theirs")
    assert copy is not None
    await acts.synced(ours)
    assert words(acts, ours, theirs) == ["theirs"]
    assert (ours.path, copy.doc is held, ours.doc is held) == ("note", True, False)
    assert re.fullmatch(r"note \(copy of \d{4}-\d\d-\d\d\)", copy.path)
    assert words(acts, copy) == ["ours", "unsent"]
    assert copy.status.state == "local"
    assert await world.payloads() == foreign
    acts.write(ours, "back ")
    await acts.synced(ours, theirs)
    assert words(acts, ours, theirs) == ["back", "theirs"]
    assert await replica.open(copy.path) is copy
    assert await replica.open("note") is ours


async def test_a_local_copy_goes_nowhere_until_it_is_told_to(world: Any, acts: Any) -> None:
    replica, ours, _ = await remade(world, acts, unsent="unsent ")
    copy = await ours.resolve("theirs")
    path = copy.path
    acts.write(copy, "typed by a bound editor ")
    with pytest.raises(SyncStoppedError) as stopped:
        await copy.synced()
    assert stopped.value.state == "local"
    await replica.close()
    replica = await world.replica("a")
    await acts.synced(await replica.open("note"))
    assert await world.payloads(path) == []
    copy = await replica.open(path)
    assert (copy.status.state, copy.online) == ("local", False)
    await replica.connect("http://elsewhere")
    assert copy.status.state == "local"
    await replica.connect(world.url)
    with pytest.raises(NotDivergedError) as nothing:
        await copy.resolve("theirs")
    assert nothing.value.state == "local"
    assert await copy.resolve("both") is None
    await acts.synced(copy)
    reader = await (await world.replica("c")).open(path)
    await acts.synced(reader)
    assert words(acts, copy, reader) == sorted(["ours", "unsent", "typed", "by", "a", "bound", "editor"])


async def test_a_deleted_document_is_made_anew_by_both(world: Any, acts: Any) -> None:
    ours = await (await world.replica("a")).open("note")
    acts.write(ours, "ours ")
    await acts.synced(ours)
    life = ours.local.record.incarnation
    await world.client().delete()
    await acts.state(ours, "deleted")
    acts.write(ours, "more ")
    assert await ours.resolve("both") is None
    await acts.synced(ours)
    assert ours.local.record.incarnation != life
    reader = await (await world.replica("b")).open("note")
    await acts.synced(reader)
    assert words(acts, ours, reader) == ["more", "ours"]


async def test_a_deleted_document_stays_deleted_by_theirs(world: Any, acts: Any) -> None:
    replica = await world.replica("a")
    ours = await replica.open("note")
    acts.write(ours, "ours ")
    await acts.synced(ours)
    await world.client().delete()
    await acts.state(ours, "deleted")
    copy = await ours.resolve("theirs")
    assert (words(acts, copy), acts.read(ours), ours.status.state) == (["ours"], "", "local")
    await replica.connect()
    await asyncio.sleep(0.1)
    with pytest.raises(NotFoundError):
        await world.client().head()
    acts.write(ours, "a new beginning ")
    await ours.resolve("both")
    await acts.synced(ours)
    assert len(await world.payloads()) == 1
    assert acts.read(ours) == "a new beginning "


async def test_offline_the_decision_is_kept_until_there_is_a_server(world: Any, acts: Any) -> None:
    replica, ours, theirs = await remade(world, acts)
    await replica.disconnect()
    copy = await ours.resolve("theirs")
    assert (acts.read(ours), ours.status.state, copy.status.state) == ("", "offline", "local")
    await replica.close()
    again = await (await world.replica("a")).open("note")
    await acts.synced(again)
    assert words(acts, again, theirs) == ["theirs"]


async def test_a_server_set_back_to_before_the_document_was_made_anew(world: Any, acts: Any) -> None:
    """Deleted, remade, and then the backup with the first life put back: the replicas that followed the second one are told."""
    await world.stop()
    await world.start(data=world.folder / "server.db")
    a, b = await world.replica("a"), await world.replica("b")
    first = await a.open("note")
    acts.write(first, "first ")
    await acts.synced(first)
    await a.close()
    backup = await world.back_up()
    await world.client().delete()
    second = await b.open("note")
    acts.write(second, "second ")
    await acts.synced(second)
    await world.set_back(backup)
    status = await acts.state(second, "diverged")
    assert status.last_error is not None
    again = await (await world.replica("a")).open("note")
    await acts.synced(again)
    await second.resolve("both")
    await acts.synced(second, again)
    assert words(acts, second, again) == ["first", "second"]


async def test_both_over_a_server_that_is_set_back_meanwhile(world: Any, acts: Any) -> None:
    """Merged into the second life, which the server then loses: that is another divergence, and ends as well."""
    await world.stop()
    await world.start(data=world.folder / "server.db")
    a = await world.replica("a")
    ours = await a.open("note")
    acts.write(ours, "first ")
    await acts.synced(ours)
    backup = await world.back_up()
    await world.client().delete()
    await acts.state(ours, "deleted")
    await ours.resolve("both")
    acts.write(ours, "second ")
    await acts.synced(ours)
    await world.set_back(backup)
    await acts.state(ours, "diverged")
    copy = await ours.resolve("theirs")
    await acts.synced(ours)
    assert (words(acts, ours), words(acts, copy)) == (["first"], ["first", "second"])


async def test_there_is_nothing_to_resolve_in_other_states(world: Any, acts: Any) -> None:
    replica = await world.replica("a")
    note = await replica.open("note")
    await acts.synced(note)
    for choice in ("both", "theirs"):
        with pytest.raises(NotDivergedError) as nothing:
            await note.resolve(choice)
        assert nothing.value.state == "live"
    with pytest.raises(ValueError, match="mine"):
        await note.resolve("mine")
    acts.write(note, "still syncing ")
    await acts.synced(note)
    await note.close()
    with pytest.raises(ClosedError):
        await note.resolve("both")


async def test_a_second_copy_of_a_day_has_another_name(world: Any, acts: Any) -> None:
    replica, ours, _ = await remade(world, acts)
    first = await ours.resolve("theirs")
    await acts.synced(ours)
    await world.client().delete()
    await acts.state(ours, "deleted")
    second = await ours.resolve("theirs")
    assert second.path == first.path.replace(")", ", 2)")
    assert [words(acts, note) for note in (first, second)] == [["ours"], ["theirs"]]
    assert {info.path: info.phase for info in replica.documents()} == {"note": "local", first.path: "local", second.path: "local"}


async def test_a_file_that_can_not_be_written_leaves_the_document_diverged(world: Any, acts: Any) -> None:
    _, ours, theirs = await remade(world, acts)
    connection = ours.local.store._connection
    connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON documents BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StoreError):
        await ours.resolve("theirs")
    connection.execute("DROP TRIGGER refuse")
    await acts.state(ours, "diverged")
    assert words(acts, ours) == ["ours"]
    await ours.resolve("both")
    await acts.synced(ours, theirs)
    assert words(acts, ours, theirs) == ["ours", "theirs"]


async def test_statuses_tell_of_the_divergence_and_of_its_end(world: Any, acts: Any) -> None:
    _, ours, _ = await remade(world, acts)
    seen: list[str] = []

    async def watch() -> None:
        async for status in ours.statuses():
            if status.state not in seen:
                seen.append(status.state)

    watching = asyncio.create_task(watch())
    await acts.until(lambda: seen == ["diverged"])
    await ours.resolve("theirs")
    await acts.until(lambda: seen[-1] == "live", str(seen))
    assert not ours.closing
    await ours.close()
    await watching


async def test_presence_speaks_under_the_new_documents_number(world: Any, acts: Any) -> None:
    _, ours, _ = await remade(world, acts)
    ours.presence.set({"user": {"name": "Ada"}})
    before = ours.presence.client
    await ours.resolve("theirs")
    assert ours.presence.client == ours.doc.client_id != before
    assert ours.presence.states == {ours.doc.client_id: {"user": {"name": "Ada"}}}
    other = await (await world.replica("c")).open("note")
    await acts.until(lambda: other.presence.states == {ours.doc.client_id: {"user": {"name": "Ada"}}}, str(other.presence.states))


async def test_the_copy_has_all_rows_in_the_file(world: Any, acts: Any) -> None:
    replica, ours, _ = await remade(world, acts, unsent="unsent ")
    rows = ours.status.unsent
    copy = await ours.resolve("theirs")
    assert (copy.status.unsent, copy.status.durable) == (rows, 1)
    await replica.close()
    file = sqlite3.connect(world.folder / "a.db")
    assert file.execute("SELECT count(*) FROM outbox").fetchone() == (rows,)
    file.close()
