"""What was written piece by piece is put together, and is worth the same."""

import random
import resource
from typing import Any

import pytest
from ds_sync_yjs import YjsAdapter, squash
from ds_sync_yjs.squash import squash_update
from ds_sync_yjs.updates import join_updates, require_update
from ds_sync_yjs.wire import Reader, read_ranges, read_struct
from pycrdt import Array, Doc, Map, Text, XmlElement, XmlFragment, merge_updates


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small updates are squashed, too."""
    monkeypatch.setattr(squash, "SMALL", 0)


def record(doc: Doc[Any], into: list[bytes]) -> None:
    doc.observe(lambda event: into.append(bytes(event.update)))


def count_structs(update: bytes) -> int:
    return sum(count for _, _, count in squash_sections(update))


def squash_sections(update: bytes) -> list[tuple[int, int, int]]:
    reader = Reader(update)
    sections = []
    for _ in range(reader.varint()):
        count, client, clock = reader.varint(), reader.varint(), reader.varint()
        sections.append((client, clock, count))
        for _ in range(count):
            clock += read_struct(reader, client, clock)[1]
    return sections


def edit(doc: Doc[Any], rng: random.Random) -> None:
    text, values, pairs = doc.get("t", type=Text), doc.get("a", type=Array), doc.get("m", type=Map)
    page, signs = doc.get("x", type=XmlFragment), doc.get("s", type=Text)
    size = len(text)
    match rng.randrange(12):
        case 0 | 1:
            for _ in range(rng.randrange(1, 5)):
                text.insert(len(text), rng.choice(["a", "bc"]))
        case 2:
            for _ in range(rng.randrange(1, 5)):
                signs.insert(len(signs), rng.choice(["\u00e9", "\U0001f600"]))
        case 3:
            text.insert(rng.randrange(size + 1), "in")
        case 4 if size:
            start = rng.randrange(size)
            del text[start : min(size, start + 1 + rng.randrange(3))]
        case 5 if size:
            text.format(0, rng.randrange(size) + 1, {"bold": rng.random() < 0.5})
        case 6 | 7:
            for _ in range(rng.randrange(1, 5)):
                values.append(rng.choice([1, "two", None, {"three": [4]}]))
        case 8 if len(values):
            del values[rng.randrange(len(values))]
        case 9:
            pairs[rng.choice("kl")] = rng.random()
        case 10:
            pairs["deep"] = Map({"n": rng.random()})
        case 11:
            page.children.append(XmlElement("p", {"n": str(rng.random())}))


def read(doc: Doc[Any]) -> Any:
    return (
        doc.get("t", type=Text).diff(),
        str(doc.get("s", type=Text)),
        doc.get("a", type=Array).to_py(),
        doc.get("m", type=Map).to_py(),
        str(doc.get("x", type=XmlFragment)),
    )


@pytest.mark.parametrize("seed", range(60))
def test_a_squashed_update_is_worth_the_same(seed: int, everything: None) -> None:
    """Sessions of three who see each other now and then: the whole of it, and parts of it in any order."""
    rng = random.Random(seed)
    docs: list[Doc[Any]] = [Doc(client_id=client) for client in (3, 200, 2**31 + 5)]
    updates: list[bytes] = []
    for doc in docs:
        record(doc, updates)
    for _ in range(120):
        rng.choice([lambda: edit(rng.choice(docs), rng)] * 4 + [lambda: rng.choice(docs).apply_update(rng.choice(docs).get_update())])()
    reference: Doc[Any] = Doc()
    for update in updates:
        reference.apply_update(update)
    merged = bytes(merge_updates(*updates))
    squashed = squash_update(merged)
    require_update(squashed)
    assert len(squashed) < len(merged)
    assert read_ranges(squashed) == read_ranges(merged)
    assert squash_update(squashed) == squashed
    whole: Doc[Any] = Doc()
    whole.apply_update(squashed)
    assert (read(whole), whole.get_state()) == (read(reference), reference.get_state())
    adapter = YjsAdapter()
    pieces = adapter.new()
    mixed = [*updates]
    rng.shuffle(mixed)
    while mixed:
        take = rng.randrange(1, 40)
        adapter.apply(pieces, [squash_update(bytes(merge_updates(*mixed[:take])))] if take > 1 else mixed[:1])
        del mixed[:take]
    assert (read(pieces), pieces.get_state()) == (read(reference), reference.get_state())
    assert read_ranges(adapter.snapshot(pieces)) == read_ranges(bytes(reference.get_update()))


def test_a_run_is_one_struct_and_ends_where_something_stands_between_or_is_deleted(everything: None) -> None:
    mine: Doc[Any] = Doc(client_id=5)
    updates: list[bytes] = []
    record(mine, updates)
    text = mine.get("t", type=Text)
    for letter in "abcdefgh":
        text += letter
    assert count_structs(squash_update(join_updates(updates))) == 1
    other: Doc[Any] = Doc(client_id=6)
    other.apply_update(mine.get_update())
    record(other, updates)
    other.get("t", type=Text).insert(2, "-")
    assert squash_sections(squash_update(join_updates(updates))) == [(6, 0, 1), (5, 0, 2)], "ab-cdefgh"
    del text[5:7]
    assert squash_sections(squash_update(join_updates(updates))) == [(6, 0, 1), (5, 0, 4)], "ab-cde, fg, h"


def test_a_value_of_a_map_is_not_put_together_with_the_one_it_replaced(everything: None) -> None:
    doc: Doc[Any] = Doc(client_id=5)
    updates: list[bytes] = []
    record(doc, updates)
    for number in range(9):
        doc.get("m", type=Map)["k"] = number
    copy: Doc[Any] = Doc()
    copy.apply_update(squash_update(bytes(merge_updates(*updates))))
    assert copy.get("m", type=Map).to_py() == {"k": 8}


@pytest.mark.parametrize("kind", [Text, Array])
def test_what_was_appended_one_by_one_takes_what_it_weighs(kind: Any) -> None:
    """1 GB and 2.3 GB in pycrdt."""
    adapter = YjsAdapter()
    writer = adapter.new()
    updates: list[bytes] = []
    record(writer, updates)
    root = writer.get("r", type=kind)
    for _ in range(10_000 if kind is Array else 2_000):
        root.append("x" * 10) if kind is Array else root.insert(len(root), "x" * 500)
    merged = updates
    while len(merged) > 1:
        merged = [bytes(merge_updates(*merged[at : at + 256])) for at in range(0, len(merged), 256)]
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for parts in (merged, updates):
        reader = adapter.new()
        adapter.apply(reader, parts)
        assert adapter.version(reader) == adapter.version(writer)
    assert adapter.content.texts(merged[0]) == ({"r": str(root)} if kind is Text else {})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start < 300_000  # kilobytes
