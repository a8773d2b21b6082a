"""What the inspector is told of documents and streams."""

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pycrdt import Doc, Map, Text

from ds_sync.crdt import Word, load_adapter
from ds_sync.environment import Environment
from ds_sync.exceptions import NotFoundError
from ds_sync.protocol.framing import build_frame
from ds_sync.protocol.history import parse_place
from ds_sync.server.documents.routes import DocumentName, Documents
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.live import Reader, Waiters
from ds_sync.server.pages import survey as module
from ds_sync.server.pages.survey import Survey, parse_updates_path
from ds_sync.server.responses import Message
from ds_sync.server.streams import Limits, Streams
from ds_sync.testing.asgi_transport import AsgiTransport

pytestmark = pytest.mark.anyio

HOSTILE = "<img src=x onerror=alert(1)>"


class House:
    """The parts of a server that a survey looks at."""

    def __init__(self) -> None:
        self.engine = MemoryEngine()
        self.time = 1_000.0
        world = Environment(now=lambda: self.time)
        self.readers = Waiters()
        limits = Limits()
        self.streams = Streams(self.engine, world, limits, self.readers)
        self.documents = Documents(self.engine, self.streams, world, limits, 500)
        self.talkers = {("notes", "a/b"): 3}
        self.survey = Survey(self.engine, world, self.documents, self.readers, lambda *name: self.talkers.get(name, 0))
        self.http = AsgiTransport(self._serve)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].removeprefix("/")
        if "/docs/" in path:
            kind, service, _, document = path.split("/", 3)
            await self.documents.serve(DocumentName(kind, service, document), scope, receive, send)
        else:
            call = {"PUT": self.streams.put, "POST": self.streams.post, "DELETE": self.streams.delete}[scope["method"]]
            await call(path, scope, receive, send)

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/octet-stream") -> None:
        answer = await self.http.request(method, f"http://x/{path}", headers={"content-type": kind}, body=body, timeout=10)
        assert answer.status < 300, answer.body

    async def write(self, path: str, *texts: str) -> None:
        await self.ask("PUT", f"yjs/notes/docs/{path}")
        doc: Doc[Any] = Doc()
        text = doc.get("body", type=Text)
        for part in texts:
            before = doc.get_state()
            text += part
            await self.ask("POST", f"yjs/notes/docs/{path}", build_frame(doc.get_update(before)))


async def receive_nothing() -> Message:
    raise AssertionError("nobody waits")


@pytest.fixture
async def house(anyio_backend: str) -> AsyncIterator[House]:
    made = House()
    yield made
    made.survey.close()
    await made.http.aclose()
    await made.documents.aclose()
    await made.engine.aclose()


async def test_a_document_is_told_with_its_size_updates_connections_people_and_last_write(house: House) -> None:
    await house.write("a/b", "one ", "two ", "three")
    house.time = 2_000.0
    words = load_adapter("yjs").presence  # type: ignore[attr-defined]
    said = [Word(1, 1, {"name": "Ann"}), Word(2, 1, {"name": "Ben"})]
    await house.ask("POST", "yjs/notes/docs/a/b?awareness=default", build_frame(words.encode(said)))
    await house.ask("POST", "yjs/notes/docs/a/b?awareness=default", build_frame(words.encode([Word(2, 2, None)])))
    with house.readers.waiting("yjs/notes/docs/a/b/.updates", Reader(receive_nothing)):
        found = await house.survey.find_documents("", "", 10)
    (row,) = found["documents"]
    assert found["next"] is None
    assert {key: row[key] for key in ("kind", "service", "name", "updates", "readers", "sockets", "people", "written", "snapshot")} == {
        "kind": "yjs",
        "service": "notes",
        "name": "a/b",
        "updates": 3,
        "readers": 1,
        "sockets": 3,
        "people": 1,
        "written": 1_000.0,
        "snapshot": None,
    }
    assert row["bytes"] == (await house.engine.read(row["path"], None, 0)).end.position > 0
    content = await house.survey.read_content(DocumentName("yjs", "notes", "a/b"))
    assert content["people"] == [{"client": 1, "state": '{"name": "Ann"}'}]


async def test_updates_are_counted_on_from_where_counting_stopped(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.write("a", *"abcdefgh")
    monkeypatch.setattr(module, "PAGE_BYTES", 1)
    monkeypatch.setattr(module, "COUNT_BYTES", 60)
    counts = [(await house.survey.find_documents("", "", 10))["documents"][0]["updates"] for _ in range(8)]
    assert (counts[0], counts[-1]) == (None, 8)
    await house.write("a", "i", "j")
    assert (await house.survey.find_documents("", "", 10))["documents"][0]["updates"] == 10
    await house.ask("DELETE", "yjs/notes/docs/a")
    await house.write("a", "k")
    assert (await house.survey.find_documents("", "", 10))["documents"][0]["updates"] == 1, "another life is counted anew"


async def test_documents_come_in_pages_and_can_be_searched(house: House) -> None:
    for name in ("x/1", "x/2", "y"):
        await house.write(name, "t")
    first = await house.survey.find_documents("/x/", "", 1)
    assert [row["name"] for row in first["documents"]] == ["x/1"]
    rest = await house.survey.find_documents("/x/", first["next"], 1)
    assert ([row["name"] for row in rest["documents"]], rest["next"]) == (["x/2"], None)


async def test_the_content_is_that_of_snapshot_and_log(house: House) -> None:
    await house.write("a", *["x" * 100] * 8)
    for _ in range(200):
        if (row := (await house.survey.find_documents("", "", 1))["documents"][0])["snapshot"] is not None:
            break
        await Environment().sleep(0.02)
    assert row["snapshot"]["bytes"] > 0
    doc: Doc[Any] = Doc()
    doc["meta"] = Map({HOSTILE: 1.0})
    await house.ask("POST", "yjs/notes/docs/a", build_frame(doc.get_update()))
    content = await house.survey.read_content(DocumentName("yjs", "notes", "a"))
    assert content["roots"] == [
        {"name": "body", "text": "x" * 800, "length": 800},
        {"name": "meta", "text": '{\n  "<img src=x onerror=alert(1)>": 1\n}', "length": 39},
    ]
    assert (content["count"], content["refused"]) == (2, 0)


async def test_updates_that_mean_nothing_are_counted_and_left_out(house: House) -> None:
    await house.write("a", "good")
    await house.ask("POST", "yjs/notes/docs/a", build_frame(b"\xff\xff\xff"))
    content = await house.survey.read_content(DocumentName("yjs", "notes", "a"))
    assert content["roots"] == [{"name": "body", "text": "good", "length": 4}]
    assert content["refused"] == 1


async def test_the_content_of_a_document_with_subdocuments_and_numbers_that_json_does_not_know(house: House) -> None:
    doc: Doc[Any] = Doc()
    doc["meta"] = meta = Map({"n": math.nan})
    meta["chapter"] = chapter = Doc()
    await house.ask("PUT", "yjs/notes/docs/book")
    await house.ask("POST", "yjs/notes/docs/book", build_frame(doc.get_update()))
    content = await house.survey.read_content(DocumentName("yjs", "notes", "book"))
    [root] = content["roots"]
    assert json.loads(root["text"]) == {"chapter": {"subdocument": chapter.guid}, "n": None}


async def test_the_content_of_what_is_not_there(house: House) -> None:
    with pytest.raises(NotFoundError):
        await house.survey.read_content(DocumentName("yjs", "notes", "none"))


async def test_records_come_in_pages_as_text_or_as_hex(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECORDS_BYTES", 20)
    monkeypatch.setattr(module, "SHOWN_BYTES", 10)
    await house.ask("PUT", "log", HOSTILE.encode())
    for body in (b"\x00\x01", "nine char€".encode(), b"\x1b[2J"):
        await house.ask("POST", "log", body)
    first = await house.survey.read_records("log", None)
    assert first["records"] == [{"position": 0, "bytes": 28, "kind": "text", "shown": HOSTILE[:10], "cut": True}]
    rest = await house.survey.read_records("log", parse_place(first["next"]))
    assert rest["records"] == [
        {"position": 28, "bytes": 2, "kind": "hex", "shown": "00 01", "cut": False},
        {"position": 30, "bytes": 12, "kind": "text", "shown": "nine char", "cut": True},
        {"position": 42, "bytes": 4, "kind": "hex", "shown": "1b 5b 32 4a", "cut": False},
    ]
    assert (rest["next"], rest["bytes"]) == (None, 46)


async def test_streams_are_told_with_their_type_and_end(house: House) -> None:
    await house.ask("PUT", "log", b"x", "text/plain")
    house.time = 1_500.0
    await house.ask("PUT", "other", b"[]", "application/json")
    found = await house.survey.find_streams("", "", 1)
    assert [(row["path"], row["content_type"], row["bytes"], row["written"], row["closed"]) for row in found["streams"]] == [
        ("log", "text/plain", 1, 1_000.0, False)
    ]
    assert [row["path"] for row in (await house.survey.find_streams("", found["next"], 5))["streams"]] == ["other"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("yjs/s/docs/a/.updates", DocumentName("yjs", "s", "a")),
        ("yjs/s/docs/a/docs/b/.updates", DocumentName("yjs", "s", "a/docs/b")),
        ("yjs/s/docs/a", None),
        ("yjs/s/docs/.updates", None),
        ("yjs/s/t/docs/a/.updates", None),
        ("other/s/docs/a/.updates", None),
    ],
)
def test_the_document_of_a_path(path: str, name: DocumentName | None) -> None:
    assert parse_updates_path(path) == name
