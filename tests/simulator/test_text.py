import random
from typing import Any

import pytest

from ds_sync.crdt import CrdtAdapter
from ds_sync.testing.crdt_contract import CrdtAdapterContract
from ds_sync.testing.simulator.text import ROOT, TextAdapter, TextSubject


class TestText(CrdtAdapterContract):
    def adapter(self) -> CrdtAdapter:
        return TextAdapter(random.Random())

    def edit(self, doc: Any, seed: int) -> None:
        TextSubject().edit(doc, random.Random(seed))

    def content(self, doc: Any) -> Any:
        return str(doc)


def make_updates() -> tuple[TextAdapter, list[bytes], str]:
    adapter = TextAdapter(random.Random(1))
    doc: Any = adapter.new()
    updates: list[bytes] = []
    adapter.observe(doc, updates.append)
    doc.insert(ROOT, "a")
    doc.insert((doc.client, 1), "b")
    doc.insert((doc.client, 2), "c")
    doc.delete((doc.client, 2))
    return adapter, updates, str(doc)


def test_order_and_repetition_do_not_matter() -> None:
    adapter, updates, text = make_updates()
    assert text == "ac"
    for seed in range(20):
        shuffled = [*updates, *updates]
        random.Random(seed).shuffle(shuffled)
        doc = adapter.new()
        adapter.apply(doc, shuffled)
        assert str(doc) == "ac"


@pytest.mark.parametrize("missing", range(4))
def test_a_snapshot_of_a_subset_and_the_rest_is_everything(missing: int) -> None:
    adapter, updates, text = make_updates()
    first, second = adapter.new(), adapter.new()
    adapter.apply(first, [update for index, update in enumerate(updates) if index != missing])
    assert adapter.apply(second, [adapter.snapshot(first)])
    assert adapter.apply(second, [updates[missing]])
    assert not adapter.apply(second, updates)
    assert str(second) == text


def test_a_deletion_changes_no_version() -> None:
    adapter, updates, _ = make_updates()
    doc = adapter.new()
    adapter.apply(doc, updates[:3])
    before = adapter.version(doc)
    assert adapter.apply(doc, updates[3:])
    assert adapter.version(doc) == before
