"""What a Yjs document says, told without knowing of which types its roots are."""

import json
from typing import Any

import pytest
from ds_sync_yjs.content import YjsContent
from pycrdt import Array, Doc, Map, Text, XmlElement, XmlFragment, XmlText

from ds_sync.exceptions import InvalidUpdateError


def build(edit: Any) -> bytes:
    doc: Doc[Any] = Doc()
    edit(doc)
    return bytes(doc.get_update())


def everything(doc: Doc[Any]) -> None:
    doc["text"] = text = Text("hello")
    text.insert(5, " 😀", {"bold": True})
    text.insert_embed(1, {"image": "x.png"})
    del text[0]  # the struct that names the root says only that something was deleted
    doc["map"] = Map(
        {"n": 1, "half": 1.5, "none": None, "yes": True, "bytes": b"\x01\xff", "text": Text("inside"), "map": Map({"a": Array([1])})}
    )
    doc["values"] = values = Array(["x", "1", 2])
    del values[0]
    doc["types"] = types = Array()
    types.extend([Text("gone"), Text("text"), Map({"k": "v"})])
    del types[0]
    doc["xml"] = xml = XmlFragment()
    xml.children.append(XmlElement("gone"))
    xml.children.append(XmlElement("p", {"class": "big"}))
    del xml.children[0]
    doc["spoken"] = spoken = XmlFragment()
    spoken.children.append(XmlText("said"))
    doc["empty"] = empty = Text("x")
    del empty[0]


def test_each_root_is_read_as_what_it_is() -> None:
    update = build(everything)
    assert YjsContent().read(update) == {
        "map": {"bytes": "Af8=", "half": 1.5, "map": {"a": [1]}, "n": 1, "none": None, "text": "inside", "yes": True},
        "spoken": "said",
        "text": "ello 😀",
        "types": ["text", {"k": "v"}],
        "values": ["1", 2],
        "xml": '<p class="big"></p>',
    }
    assert YjsContent().texts(update) == {"spoken": "said", "text": "ello 😀", "xml": '<p class="big"></p>'}


def test_whole_numbers_are_written_without_a_point() -> None:
    found = YjsContent().read(build(lambda doc: doc.__setitem__("map", Map({"n": 3}))))
    assert [type(value) for value in found["map"].values()] == [int]


SUBDOCUMENTS = bytes.fromhex(
    "010805002901016d0373756209636861707465722d317601046d657461760101617d0109010473756273017876000801056d69786564017d01890502"
    "01797600880503047b7ff80000000000007c7f80000075027f7b7ff80000000000007d400401017401618405080162c505080509027b7d00"
)
"""By Yjs: new Y.Doc({ guid }) in a map, in arrays and in a text; NaN, Infinity and undefined."""


def test_subdocuments_are_named_and_numbers_that_json_does_not_know_are_null() -> None:
    found = YjsContent().read(SUBDOCUMENTS)
    assert found == {
        "m": {"sub": {"subdocument": "chapter-1"}},
        "mixed": [1, {"subdocument": "y"}, None, None, [None, None], 0],
        "subs": [{"subdocument": "x"}],
        "t": "ab",
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert YjsContent().texts(SUBDOCUMENTS) == {"t": "ab"}


def test_what_is_no_update_is_refused() -> None:
    with pytest.raises(InvalidUpdateError):
        YjsContent().read(b"\x05nonsense")
