"""What waits is compared by what it is, not by how it is spelled."""

from typing import Any

from ds_sync_yjs import YjsAdapter
from ds_sync_yjs.wire import is_within, read_ranges
from pycrdt import Array, Doc, Map, Text, merge_updates


def recorded(doc: Doc[Any]) -> list[bytes]:
    updates: list[bytes] = []
    doc.observe(lambda event: updates.append(bytes(event.update)))
    return updates


def test_ranges_count_clocks_as_yjs_does() -> None:
    doc: Doc[Any] = Doc(client_id=7)
    updates = recorded(doc)
    text = doc.get("t", type=Text)
    text += "a\u00e9\U0001f600"  # 1 + 1 + 2 UTF-16 units
    values = doc.get("a", type=Array)
    values.extend([1, "two", None])
    doc.get("m", type=Map)["k"] = {"x": [1, 2]}
    version = doc.get_state()
    assert version == bytes([1, 7, 8])
    assert read_ranges(merge_updates(*updates)) == {(False, 7): [(0, 8)]}
    del text[0:1]
    assert read_ranges(updates[-1]) == {(True, 7): [(0, 1)]}
    assert read_ranges(doc.get_update()) == {(False, 7): [(0, 8)], (True, 7): [(0, 1)]}


def test_gaps_are_not_held() -> None:
    doc: Doc[Any] = Doc(client_id=9)
    updates = recorded(doc)
    text = doc.get("t", type=Text)
    for letter in "abc":
        text += letter
    both = merge_updates(updates[0], updates[2])
    assert read_ranges(both) == {(False, 9): [(0, 1), (2, 3)]}
    assert is_within(read_ranges(both), read_ranges(doc.get_update()), {})
    assert not is_within(read_ranges(doc.get_update()), read_ranges(both), {})
    assert is_within(read_ranges(doc.get_update()), read_ranges(both), {9: 2})


def test_what_waits_in_another_spelling_is_no_news_and_more_of_it_is() -> None:
    adapter = YjsAdapter()
    writer = adapter.new()
    updates = recorded(writer)
    text = writer.get("t", type=Text)
    for letter in "abcdef":
        text += letter
    del text[3:4]
    late = updates[2:]
    whole, piecemeal = adapter.new(), adapter.new()
    assert adapter.apply(whole, late[:-2])
    for update in reversed(late[:-2]):
        assert adapter.apply(piecemeal, [update])
    assert not adapter.apply(whole, [adapter.snapshot(piecemeal)])
    assert not adapter.apply(piecemeal, [adapter.snapshot(whole)])
    assert adapter.apply(whole, [late[-2]]), "another letter is news, also while it waits"
    assert adapter.apply(whole, [late[-1]]), "so is a deletion"
    assert not adapter.apply(whole, late)
    adapter.apply(whole, updates[:2])
    assert str(whole.get("t", type=Text)) == "abcef"
