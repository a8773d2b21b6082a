from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lww_map import LwwMapAdapter

from ds_sync.crdt import CrdtAdapter, load_adapter
from ds_sync.exceptions import UnknownAdapterError
from ds_sync.testing.crdt_contract import CrdtAdapterContract


class TestLwwMap(CrdtAdapterContract):
    def adapter(self) -> CrdtAdapter:
        return LwwMapAdapter()

    def edit(self, doc: Any, seed: int) -> None:
        rng = random.Random(seed)
        present = list(doc.to_py())
        if present and rng.random() < 0.3:
            doc.set(rng.choice(present), None)
        else:
            doc.set(rng.choice("abcdef"), rng.random())

    def content(self, doc: Any) -> Any:
        return doc.to_py()

    def test_an_update_that_waits_is_news_once(self) -> None:  # type: ignore[override]
        """Entries depend on nothing: an older one that comes late is no news."""
        adapter, doc = self.adapter(), LwwMapAdapter().new()
        other = adapter.new()
        updates: list[bytes] = []
        adapter.observe(other, updates.append)
        other.set("a", 1)
        other.set("a", 2)
        assert adapter.apply(doc, updates[1:]) is True
        assert adapter.apply(doc, updates[:1]) is False


def test_it_is_found_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "ds_sync_lww-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ds-sync-lww\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ds_sync.adapters]\nlww = lww_map:LwwMapAdapter\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_adapter("lww").format == "lww-v1"
    with pytest.raises(UnknownAdapterError, match="lww, yjs") as caught:
        load_adapter("nonesuch")
    assert caught.value.name == "nonesuch"
