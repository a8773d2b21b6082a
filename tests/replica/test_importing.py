"""What comes from elsewhere: into a document as an edit of ours, once; and where documents are told to be."""

from pathlib import Path
from typing import Any

import pytest
from pycrdt import Doc, Text

from ds_sync import Replica
from ds_sync.exceptions import InvalidUpdateError
from ds_sync.replica.places import parse_document_url
from ds_sync.replica.records import DocumentKey

pytestmark = pytest.mark.anyio


def build(*texts: str) -> list[bytes]:
    """One update for each text, typed one after another."""
    doc: Doc[Any] = Doc()
    doc["body"] = text = Text()
    updates = []
    for piece in texts:
        before = doc.get_state()
        text += piece
        updates.append(bytes(doc.get_update(before)))
    return updates


async def test_an_update_from_elsewhere_is_an_edit_once(tmp_path: Path) -> None:
    first, second = build("one ", "two")
    async with Replica(tmp_path / "a.db") as replica:
        note = await replica.open("note")
        assert note.merge(first)
        assert not note.merge(first)
        assert note.status.unsent == 1
    async with Replica(tmp_path / "a.db") as replica:
        note = await replica.open("note")
        assert str(note.doc.get("body", type=Text)) == "one "
        assert not note.merge(first)
        assert note.merge(second)
        assert note.status.unsent == 2


async def test_an_update_that_waits_for_another_is_kept_and_is_news_once(tmp_path: Path) -> None:
    first, second = build("one ", "two")
    async with Replica(tmp_path / "a.db") as replica:
        note = await replica.open("note")
        assert note.merge(second)
        assert not note.merge(second)
    async with Replica(tmp_path / "a.db") as replica:
        note = await replica.open("note")
        assert str(note.doc.get("body", type=Text)) == ""
        assert note.merge(first)
        assert str(note.doc.get("body", type=Text)) == "one two"


async def test_what_is_no_update_changes_nothing(tmp_path: Path) -> None:
    async with Replica(tmp_path / "a.db") as replica:
        note = await replica.open("note")
        with pytest.raises(InvalidUpdateError):
            note.merge(b"\x05nonsense")
        assert (note.status.unsent, note.version()) == (0, b"\x00")


async def test_what_a_document_at_a_version_lacks(tmp_path: Path) -> None:
    first, second = build("one ", "two")
    async with Replica(tmp_path / "a.db") as replica:
        note, other = await replica.open("note"), await replica.open("other")
        note.merge(first)
        other.merge(first)
        note.merge(second)
        assert other.merge(note.missing(other.version()))
        assert str(other.doc.get("body", type=Text)) == "one two"
        assert not other.merge(note.missing())


@pytest.mark.parametrize(
    ("url", "server", "key"),
    [
        ("http://host:1", "http://host:1", None),
        ("https://host/", "https://host", None),
        ("https://host/behind/a/proxy/", "https://host/behind/a/proxy", None),
        ("http://host/v1/yjs/s/docs/a/b%20c%2Fd", "http://host", DocumentKey("yjs", "s", "a/b c/d")),
        ("http://host/base/v1/yjs/s/docs/v1/yjs", "http://host/base", DocumentKey("yjs", "s", "v1/yjs")),
    ],
)
async def test_urls_of_servers_and_documents(url: str, server: str, key: DocumentKey | None) -> None:
    assert parse_document_url(url) == (server, key)


@pytest.mark.parametrize(
    "url",
    [
        "ws://h",
        "http://",
        "http://h?x=1",
        "http://h/v1/",
        "http://h/v1/yjs/s/docs/",
        "http://h/v1/yjs/s/x/a",
        "http://h/v1/yjs/s/docs/a//b",
    ],
)
async def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|not a path"):
        parse_document_url(url)
