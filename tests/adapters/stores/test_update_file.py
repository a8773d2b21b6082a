"""A file with one Yjs update of version 1; everything else is refused, and version 2 by its name."""

from pathlib import Path
from typing import Any

import pytest
from ds_sync_yjs.stores.update_file import check_whole_update, open_update_file
from pycrdt import Doc, Text

from ds_sync.exceptions import SourceError
from ds_sync.sources import SourceOptions

# Y.encodeStateAsUpdateV2 of Yjs 13.6 for an empty document; after getText("body").insert(0, "hello"); and after delete(0, 2).
EMPTY_V2 = bytes.fromhex("00000000000001000000000000")
HELLO_V2 = bytes.fromhex("00000380890f000001040c09626f647968656c6c6f04050101000001010000")
CUT_V2 = bytes.fromhex("000004c0890f00010200030100840a07626f64796c6c6f0403010100010201020001c0c407010001")


def hello() -> bytes:
    doc: Doc[Any] = Doc()
    doc["body"] = text = Text("hello")
    del text[0:2]
    return bytes(doc.get_update())


def test_an_update_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "note.v1.bin"
    file.write_bytes(hello())
    source = open_update_file(file, SourceOptions())
    assert source is not None
    assert source.names() == ["note.v1"]
    assert source.read("note.v1") == [file.read_bytes()]


@pytest.mark.parametrize("update", [hello(), b"\x00\x00", b"\x00\x01\x05\x01\x00\x03"], ids=["text", "empty", "deletion"])
def test_updates_of_version_1_pass(update: bytes) -> None:
    check_whole_update(update)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends early"),
        (hello()[:-1], "ends early"),
        (hello() + b"\x00", "1 bytes follow its end"),
        (b"\x00\x00more", "4 bytes follow its end"),
        (b'{"ops": []}', "not a Yjs update"),
        (EMPTY_V2, "version 2"),
        (HELLO_V2, "version 2"),
        (CUT_V2, "version 2"),
    ],
)
def test_everything_else_is_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "note"
    file.write_bytes(data)
    source = open_update_file(file, SourceOptions())
    assert source is not None
    with pytest.raises(SourceError, match=reason):
        source.read("note")


def test_folders_and_sqlite_files_are_left_to_others(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    file.write_bytes(b"SQLite format 3\x00and more")
    assert open_update_file(file, SourceOptions()) is None
    assert open_update_file(tmp_path, SourceOptions()) is None
