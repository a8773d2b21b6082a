from __future__ import annotations

import gc
import random
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from ds_sync_yjs import YjsAdapter
from ds_sync_yjs.wire import MAX_DEPTH, WireError, check_update, is_plain_edit
from pycrdt import Array, Doc, Map, Text, XmlElement, XmlFragment, XmlText

from ds_sync.crdt import CrdtAdapter, load_adapter
from ds_sync.exceptions import DocumentBusyError, InvalidUpdateError, UnsupportedUpdateError
from ds_sync.testing.crdt_contract import CrdtAdapterContract


def body(doc: Doc[Any]) -> Text:
    return doc.get("body", type=Text)


def edit_text(doc: Doc[Any], seed: int) -> None:
    rng = random.Random(seed)
    text = body(doc)
    size = len(str(text))
    if size and rng.random() < 0.35:
        start = rng.randrange(size)
        del text[start : min(size, start + rng.randrange(1, 4))]
    else:
        text.insert(rng.randrange(size + 1), "".join(rng.choices("abc", k=rng.randrange(1, 4))))


class TestYjsText(CrdtAdapterContract):
    def adapter(self) -> CrdtAdapter:
        return YjsAdapter()

    def edit(self, doc: Any, seed: int) -> None:
        edit_text(doc, seed)

    def content(self, doc: Any) -> Any:
        return str(body(doc))


class TestYjsNested(CrdtAdapterContract):
    """Maps in lists: updates that name another struct as their parent."""

    def adapter(self) -> CrdtAdapter:
        return YjsAdapter()

    def edit(self, doc: Any, seed: int) -> None:
        rng = random.Random(seed)
        items = doc.get("items", type=Array)
        size = len(items)
        if size and rng.random() < 0.3:
            del items[rng.randrange(size)]
        elif size and rng.random() < 0.6:
            items[rng.randrange(size)][rng.choice("xyz")] = rng.random()
        else:
            items.insert(rng.randrange(size + 1), Map({"n": rng.random()}))

    def content(self, doc: Any) -> Any:
        return doc.get("items", type=Array).to_py()


def recorded(doc: Doc[Any], act: Callable[[], None]) -> list[bytes]:
    updates: list[bytes] = []
    unobserve = YjsAdapter().observe(doc, updates.append)
    act()
    unobserve()
    return updates


def test_it_is_installed_under_its_name() -> None:
    assert type(load_adapter("yjs")) is YjsAdapter


def test_documents_are_plain() -> None:
    assert type(YjsAdapter().new()) is Doc


def test_inside_a_transaction_of_the_application_nothing_is_applied() -> None:
    adapter = YjsAdapter()
    source, doc = adapter.new(), adapter.new()
    updates = recorded(source, lambda: edit_text(source, 0))
    text = body(doc)
    seen: list[bytes] = []
    adapter.observe(doc, seen.append)
    with doc.transaction():
        text += "mine"
        with pytest.raises(DocumentBusyError):
            adapter.apply(doc, updates)
        with pytest.raises(DocumentBusyError):
            adapter.observe(doc, seen.append)
        assert str(text) == "mine"
    assert len(seen) == 1
    assert adapter.apply(doc, updates) is True
    assert len(seen) == 1


def test_a_transaction_is_one_update_and_an_empty_one_is_none() -> None:
    adapter = YjsAdapter()
    doc = adapter.new()
    text = body(doc)
    seen: list[bytes] = []
    adapter.observe(doc, seen.append)
    with doc.transaction():
        text += "a"
        text += "b"
    with doc.transaction():
        pass
    assert len(seen) == 1


def test_a_document_is_not_kept_alive() -> None:
    adapter = YjsAdapter()
    doc = adapter.new()
    unobserve = adapter.observe(doc, lambda update: None)
    adapter.apply(doc, [b"\x00\x00"])
    edit_text(doc, 1)
    unobserve()
    unobserve()
    alive = weakref.ref(doc)
    del doc, unobserve
    gc.collect()
    assert alive() is None


def nested(levels: int, tag: bytes) -> bytes:
    return bytes.fromhex("0101b6e3d9f3b3f8ca0a0008010161") + b"\x01" + tag * levels + b"\x7e" + b"\x00"


@pytest.mark.parametrize("tag", [b"\x75\x01", b"\x76\x01\x00"], ids=["lists", "maps"])
def test_deep_values_are_refused_before_they_overflow_the_stack(tag: bytes) -> None:
    adapter = YjsAdapter()
    doc = adapter.new()
    assert adapter.apply(doc, [nested(MAX_DEPTH // 2, tag)]) is True
    for levels in (MAX_DEPTH + 2, 200_000):
        with pytest.raises(InvalidUpdateError):
            adapter.apply(doc, [nested(levels, tag)])
        with pytest.raises(InvalidUpdateError):
            adapter.merge([nested(levels, tag)])


def test_why_deep_values_are_refused() -> None:
    """The day this fails, pycrdt reads nested values without recursion, and the check can go."""
    program = f"import pycrdt; pycrdt.Doc().apply_update({nested(200, b'x')[:16]!r} + b'\\x75\\x01' * 300_000 + b'\\x7e\\x00')"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode < 0


def every_kind_of_content() -> list[bytes]:
    doc: Doc[Any] = Doc()
    updates: list[bytes] = []
    doc.observe(lambda event: updates.append(event.update))
    root = doc.get("m", type=Map)
    root["n"] = 1.5
    root["deep"] = {"x": [1, -2, 3.25, None, True, False, "é😀", b"ab", 2**40, -(2**40), {"k": {}}]}
    root["text"] = Text("hi")
    root["list"] = Array([1, Map({"q": 2})])
    root["text"].format(0, 1, {"bold": True})
    root["text"].insert_embed(1, {"img": "x"})
    root["xml"] = XmlFragment([XmlElement("p", {"c": "d"}, [XmlText("hello")])])
    root["sub"] = Doc()
    del root["n"]
    return [*updates, doc.get_update(), YjsAdapter().merge([updates[2], updates[0], updates[-2]])]


def test_the_walk_passes_every_kind_of_content() -> None:
    for update in every_kind_of_content():
        check_update(update)
        with pytest.raises(WireError):
            check_update(update[:-1])


def test_hostile_bytes_neither_crash_nor_spoil_nor_swell() -> None:
    adapter = YjsAdapter()
    rng = random.Random(20)
    genuine = every_kind_of_content()
    before = adapter.snapshot(loaded := adapter.new())
    numbers = [b"\xff\xff\xff\xff\x0f", b"\xff" * 8 + b"\x7f", b"\x80" * 8 + b"\x01", b"\xff\xff\xff\x07", b"\x00"]
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for _ in range(3_000):
        bad = bytearray(rng.choice(genuine))
        match rng.randrange(4):
            case 0:
                del bad[rng.randrange(len(bad)) :]
            case 1:
                bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
            case 2:
                bad = bytearray(rng.randbytes(rng.randrange(1, 60)))
            case _:
                at = rng.randrange(len(bad))
                bad[at : at + rng.randrange(3)] = rng.choice(numbers)
        try:
            adapter.merge([bytes(bad)])
        except InvalidUpdateError:
            refused += 1
            with pytest.raises(InvalidUpdateError):
                adapter.apply(loaded, [bytes(bad)])
    assert refused > 1_000
    assert adapter.snapshot(loaded) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start < 200_000  # kilobytes


def test_what_a_refused_update_brought_in_is_announced() -> None:
    """A character can't be a parent: pycrdt notices after the first client's structs are in."""
    adapter = YjsAdapter()
    other: Doc[Any] = Doc(client_id=9)
    [valid] = recorded(other, lambda: body(other).insert(0, "ok"))
    base: Doc[Any] = Doc(client_id=5)
    [letter] = recorded(base, lambda: body(base).insert(0, "x"))
    # Client 3: a string "no" whose parent is struct (5, 0), the letter.
    bad_struct = bytes([1, 3, 0, 0x04, 0, 5, 0, 2]) + b"no"
    bad = bytes([2]) + valid[1:-1] + bad_struct + b"\x00"
    doc = adapter.new()
    adapter.apply(doc, [letter])
    seen: list[bytes] = []
    unobserve = adapter.observe(doc, seen.append)
    with pytest.raises(InvalidUpdateError):
        adapter.apply(doc, [bad])
    unobserve()
    copy = adapter.new()
    adapter.apply(copy, [letter, *seen])
    assert str(body(copy)) == str(body(doc))


@pytest.mark.parametrize(("text", "position"), [("\u00e9x", 1), ("\U0001f600x", 1), ("\U0001f600x", 3), ("\u00e9", 1)])
def test_text_inserted_inside_a_character_reaches_others(text: str, position: int) -> None:
    """pycrdt counts bytes, and writes a struct that refers to itself, which Yjs throws on and our own check refuses."""
    adapter = YjsAdapter()
    doc = adapter.new()
    edits: list[bytes] = []
    unobserve = adapter.observe(doc, edits.append)
    body(doc).insert(0, text)
    body(doc).insert(position, "AB")
    body(doc).insert(0, "z")
    copies = adapter.new(), adapter.new(), adapter.new()
    adapter.apply(copies[0], edits)
    adapter.apply(copies[1], [adapter.snapshot(doc)])
    adapter.apply(copies[2], [adapter.missing(doc, adapter.version(adapter.new()))])
    unobserve()
    assert [str(body(copy)) for copy in copies] == [str(body(doc))] * 3
    assert "AB" in str(body(doc))
    for update in (*edits, adapter.snapshot(doc)):
        check_update(update)


def test_an_edit_that_nobody_could_read_is_refused_where_it_is_made() -> None:
    adapter = YjsAdapter()
    doc = adapter.new()
    edits: list[bytes] = []
    unobserve = adapter.observe(doc, edits.append)
    deep: Any = 1
    for _ in range(MAX_DEPTH + 2):
        deep = [deep]
    with pytest.raises(ExceptionGroup) as caught:
        doc.get("items", type=Array).append(deep)
    unobserve()
    assert caught.group_contains(UnsupportedUpdateError)
    assert edits == []
    with pytest.raises(UnsupportedUpdateError):
        adapter.snapshot(doc)  # it would be stored, and make a file that can't be opened


def test_nothing_is_told_of_a_document_inside_an_open_transaction() -> None:
    # Half of an edit is not in the outbox yet. A version that counts it would leave it out of every later `missing`.
    adapter = YjsAdapter()
    doc = adapter.new()
    text = body(doc)
    text += "stored"
    before = adapter.version(doc)
    with doc.transaction():
        text += "half"
        for ask in (adapter.version, adapter.snapshot, lambda doc: adapter.missing(doc, before)):
            with pytest.raises(DocumentBusyError):
                ask(doc)
    other = adapter.new()
    adapter.apply(other, [adapter.missing(doc, None)])
    assert str(body(other)) == "storedhalf"


@pytest.mark.parametrize(
    "update",
    [
        "010105000201016101013100",  # what old versions of Yjs wrote: one value, "1", in the root "a"
        "020102010201020201010102010201020201020101020102010202",  # found by fuzzing: accepted, and then no snapshot could be read
    ],
)
def test_json_content_is_refused_because_pycrdt_misreads_it(update: str) -> None:
    adapter = YjsAdapter()
    doc = adapter.new()
    with pytest.raises(UnsupportedUpdateError, match="JSON content"):
        adapter.apply(doc, [bytes.fromhex(update)])
    assert adapter.snapshot(doc) == b"\x00\x00"
    assert not adapter.apply(adapter.new(), [adapter.snapshot(doc)])


@pytest.mark.parametrize(
    "update",
    [
        "01010100000000",  # the text was gone
        "01010100000000000000000104747265650301702800012105636c61737301770178000001737301770178000001",  # the process was gone
    ],
)
def test_a_collected_struct_of_no_length_is_refused_because_it_destroys_what_stands_there(update: str) -> None:
    """Found by fuzzing."""
    adapter = YjsAdapter()
    doc: Doc[Any] = Doc(client_id=1)
    text = doc.get("text", type=Text)
    text += "hello"
    with pytest.raises(InvalidUpdateError, match="no length"):
        adapter.apply(doc, [bytes.fromhex(update)])
    text += " world"
    copy = adapter.new()
    adapter.apply(copy, [adapter.snapshot(doc)])
    assert str(copy.get("text", type=Text)) == str(text) == "hello world"


@pytest.mark.parametrize("deletion", [(1, 1), (2, 1), (0, 2), (2, 2), (1, 2)])
def test_a_deletion_of_half_a_surrogate_pair_leaves_a_snapshot_that_can_be_read(deletion: tuple[int, int]) -> None:
    """pycrdt makes texts of no length of it, which it has to be given again at the next opening."""
    adapter = YjsAdapter()
    doc: Doc[Any] = Doc(client_id=1)
    text = doc.get("text", type=Text)
    text += "a\U0001f600b"
    adapter.apply(doc, [bytes([0, 1, 1, 1, *deletion])])
    text.insert(0, "X")
    copy = adapter.new()
    adapter.apply(copy, [adapter.snapshot(doc)])
    assert str(copy.get("text", type=Text)) == str(text)
    assert str(text).startswith("X")


def test_an_xml_hook_is_refused_because_pycrdt_takes_its_name_for_what_comes_after() -> None:
    adapter = YjsAdapter()
    hook = bytes.fromhex("01010500070101780504686f6f6b00")  # new Y.XmlHook("hook") in the root "x", by Yjs
    with pytest.raises(UnsupportedUpdateError, match="XML hook") as refused:
        adapter.apply(adapter.new(), [b"\x00\x00", hook])
    assert refused.value.index == 1
    with pytest.raises(InvalidUpdateError) as cut:
        adapter.apply(adapter.new(), [hook[:-1]])
    assert not isinstance(cut.value, UnsupportedUpdateError), "that is no update to anybody"


@pytest.mark.parametrize("number", [7, 9, 15])
def test_a_shared_type_that_yjs_does_not_know_is_refused(number: int) -> None:
    adapter = YjsAdapter()
    update = bytes.fromhex("010105000701") + b"\x04body" + bytes((number, 0))
    with pytest.raises(InvalidUpdateError, match="a shared type"):
        adapter.apply(adapter.new(), [update])


C, ROOT = 7, b"\x04\x01\x01r\x02ab"  # a client, and its first struct: "ab" in the root "r"


@pytest.mark.parametrize(
    ("structs", "first"),
    [
        ([ROOT, bytes([0x84, C, 2, 1]) + b"c"], 0),  # it stands to the right of itself
        ([ROOT, bytes([0x84, C, 3, 2]) + b"cd"], 0),  # of its own second character
        ([ROOT, bytes([0x84, C, 3, 1]) + b"c", bytes([0x84, C, 1, 1]) + b"d"], 0),  # of what comes after it
        ([ROOT, bytes([0x44, C, 2, 1]) + b"c"], 0),  # to the left of itself
        ([ROOT, bytes([0xC4, C, 1, C, 9, 1]) + b"c"], 0),
        ([ROOT, bytes([0x04, 0, C, 2, 1]) + b"c"], 0),  # in itself
        ([bytes([0x84, C, 5, 1]) + b"c"], 5),
    ],
)
def test_a_struct_that_depends_on_itself_is_refused_because_yjs_throws_on_it(structs: list[bytes], first: int) -> None:
    """ "Unexpected case": pycrdt passes it on, and each Yjs client that loads the document fails."""
    adapter = YjsAdapter()
    with pytest.raises(InvalidUpdateError, match="refers to itself"):
        adapter.apply(adapter.new(), [bytes([1, len(structs), C, first]) + b"".join(structs) + b"\x00"])


def test_structs_refer_to_what_was_there_before_them_and_to_others() -> None:
    adapter = YjsAdapter()
    doc: Doc[Any] = Doc()
    structs = [ROOT, bytes([0x84, C, 1, 1]) + b"c", bytes([0x44, C, 0, 1]) + b"d", bytes([0xC4, C, 3, C, 0, 1]) + b"e"]
    adapter.apply(doc, [bytes([1, len(structs), C, 0]) + b"".join(structs) + b"\x00"])
    assert str(doc.get("r", type=Text)) == "deabc"
    check_update(bytes([1, 1, C, 0, 0x84, 8, 9, 1]) + b"c\x00")  # 8's are yet to come


@pytest.mark.parametrize("bad", [0, 100, 300, 800, 1999])
def test_which_of_many_updates_is_wrong_is_told_and_those_before_it_are_in(bad: int) -> None:
    adapter = YjsAdapter()
    source: Doc[Any] = Doc()
    updates: list[bytes] = []
    adapter.observe(source, updates.append)
    text = source.get("t", type=Text)
    for number in range(2000):
        text += f"{number} "
    doc = adapter.new()
    with pytest.raises(InvalidUpdateError) as caught:
        adapter.apply(doc, [*updates[:bad], b"\x01\x01garbage", *updates[bad:]])
    assert caught.value.index == bad
    assert str(doc.get("t", type=Text)) == "".join(f"{number} " for number in range(bad))
    assert adapter.apply(doc, updates)
    assert str(doc.get("t", type=Text)) == str(text)


@pytest.mark.parametrize("seed", range(150))
def test_what_passes_as_a_plain_edit_needs_no_check(seed: int) -> None:
    """Typing, deleting, values and formats; and text inserted inside characters, which pycrdt writes so that nobody can read it."""
    chance = random.Random(seed)
    doc: Doc[Any] = Doc(client_id=chance.choice((1, 127, 128, 2**31, 2**32 - 1)))
    if chance.random() < 0.5:
        other: Doc[Any] = Doc()
        other.get("t", type=Text).insert(0, "before é😀")
        doc.apply_update(other.get_update())
    edits: list[bytes] = []
    doc.observe(lambda event: edits.append(event.update))
    text, array, table = doc.get("t", type=Text), doc.get("a", type=Array), doc.get("m", type=Map)
    for _ in range(chance.randint(1, 40)):
        size = len(str(text).encode())
        what = chance.randrange(6)
        if what < 3:
            text.insert(chance.randint(0, size), chance.choice(("a", "é", "😀", "word ", "x" * 200)))
        elif what == 3 and size:
            at = len(str(text)[: chance.randrange(len(str(text)))].encode())  # inside a character pycrdt may panic
            del text[at : at + len(str(text).encode()[at:].decode()[0].encode())]
        elif what == 4:
            array.append(chance.choice((1, "a", [1, [2]], {"a": None})))
        else:
            table["k"] = chance.random()
    found = [is_plain_edit(edit) for edit in edits]
    for edit, plain in zip(edits, found, strict=True):
        if plain:
            check_update(edit)
    assert not edits or any(found)
