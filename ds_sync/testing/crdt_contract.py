"""The acceptance kit of the CRDT port: subclass `CrdtAdapterContract`, give three hooks, run pytest.

    class TestMyAdapter(CrdtAdapterContract):
        def adapter(self): return MyAdapter()
        def edit(self, doc, seed): ...
        def content(self, doc): ...

Needs pytest and hypothesis.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ds_sync.crdt import CrdtAdapter
from ds_sync.exceptions import InvalidUpdateError

LAW = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
"""Derandomised: a third party's build must not fail on some days only. Not shrunk: a smaller seed is no smaller case."""

seeds = st.integers(min_value=0, max_value=2**32 - 1)


class CrdtAdapterContract:
    """The laws of `ds_sync.crdt.CrdtAdapter`, each as a test."""

    def adapter(self) -> CrdtAdapter:
        """Return a new adapter."""
        raise NotImplementedError

    def edit(self, doc: Any, seed: int) -> None:
        """Make one local edit (one update) that changes `doc`, chosen by `seed`. Some seeds must delete, where there is something."""
        raise NotImplementedError

    def content(self, doc: Any) -> Any:
        """Return what the document says, as a value that compares equal for equal documents."""
        raise NotImplementedError

    # what the tests are made of

    def _recorded(self, adapter: CrdtAdapter, doc: Any, numbers: list[int]) -> list[bytes]:
        updates: list[bytes] = []
        unobserve = adapter.observe(doc, updates.append)
        for number in numbers:
            self.edit(doc, number)
        unobserve()
        return updates

    def _session(self, adapter: CrdtAdapter, seed: int, edits: int = 12) -> tuple[Any, list[bytes]]:
        """Two people edit, seeing each other's edits now and then; return the final document and every update."""
        rng = random.Random(seed)
        people = [adapter.new(), adapter.new()]
        updates: list[bytes] = []
        seen = [0, 0]
        for _ in range(edits):
            who = rng.randrange(2)
            if rng.random() < 0.4:
                adapter.apply(people[who], updates[seen[who] :])
                seen[who] = len(updates)
            updates += self._recorded(adapter, people[who], [rng.getrandbits(32)])
        adapter.apply(people[0], updates)
        return people[0], updates

    def _loaded(self, adapter: CrdtAdapter, updates: list[bytes]) -> Any:
        doc = adapter.new()
        if updates:
            adapter.apply(doc, updates)
        return doc

    # laws

    def test_it_names_itself(self) -> None:
        adapter = self.adapter()
        assert adapter.name
        assert adapter.name == adapter.name.lower()
        assert "/" not in adapter.name
        assert adapter.format
        assert "/" in adapter.content_type

    @LAW
    @given(seed=seeds)
    def test_order_and_repetition_do_not_matter(self, seed: int) -> None:
        adapter = self.adapter()
        final, updates = self._session(adapter, seed)
        shuffled = updates + random.Random(seed).choices(updates, k=4)
        random.Random(seed).shuffle(shuffled)
        together = self._loaded(adapter, shuffled)
        one_by_one = adapter.new()
        for update in shuffled:
            adapter.apply(one_by_one, [update])
        assert self.content(together) == self.content(final)
        assert self.content(one_by_one) == self.content(final)

    @LAW
    @given(seed=seeds)
    def test_the_hooks_delete_and_change(self, seed: int) -> None:
        adapter = self.adapter()
        doc = adapter.new()
        rng = random.Random(seed)
        before = self.content(doc)
        for _ in range(5):
            self.edit(doc, rng.getrandbits(32))
            assert self.content(doc) != before, "edit() must change content()"
            before = self.content(doc)

    @LAW
    @given(seed=seeds)
    def test_merging_equals_applying(self, seed: int) -> None:
        adapter = self.adapter()
        final, updates = self._session(adapter, seed)
        rng = random.Random(seed)
        subset = [update for update in updates if rng.random() < 0.7] or updates[:1]
        rng.shuffle(subset)
        rest = [update for update in updates if update not in subset]
        merged = self._loaded(adapter, [adapter.merge(subset)])
        adapter.apply(merged, rest)
        assert self.content(merged) == self.content(final)

    def test_merging_a_single_update_keeps_it(self) -> None:
        adapter = self.adapter()
        doc = adapter.new()
        updates = self._recorded(adapter, doc, [1])
        assert self.content(self._loaded(adapter, [adapter.merge(updates)])) == self.content(doc)

    @LAW
    @given(seed=seeds)
    def test_a_snapshot_of_any_subset_and_the_rest_are_everything(self, seed: int) -> None:
        adapter = self.adapter()
        final, updates = self._session(adapter, seed)
        rng = random.Random(seed)
        subset = [update for update in updates if rng.random() < 0.5]
        rest = [update for update in updates if update not in subset]
        restored = self._loaded(adapter, [adapter.snapshot(self._loaded(adapter, subset))])
        # A second generation: what waits must survive a document that was itself loaded from a snapshot.
        again = self._loaded(adapter, [adapter.snapshot(restored)])
        adapter.apply(again, rest)
        assert self.content(again) == self.content(final)

    @LAW
    @given(seed=seeds)
    def test_what_waits_is_missing_elsewhere(self, seed: int) -> None:
        adapter = self.adapter()
        final, updates = self._session(adapter, seed)
        rng = random.Random(seed)
        subset = [update for update in updates if rng.random() < 0.5]
        rest = [update for update in updates if update not in subset]
        other = self._loaded(adapter, rest)
        adapter.apply(other, [adapter.missing(self._loaded(adapter, subset), adapter.version(other))])
        assert self.content(other) == self.content(final)

    @LAW
    @given(seed=seeds)
    def test_missing_makes_the_other_equal(self, seed: int) -> None:
        adapter = self.adapter()
        final, updates = self._session(adapter, seed)
        behind = self._loaded(adapter, updates[: random.Random(seed).randrange(len(updates))])
        adapter.apply(behind, [adapter.missing(final, adapter.version(behind))])
        assert self.content(behind) == self.content(final)
        assert self.content(self._loaded(adapter, [adapter.missing(final, None)])) == self.content(final)

    @LAW
    @given(seed=seeds)
    def test_deletions_are_missing_too(self, seed: int) -> None:
        """Edits after a full exchange, one at a time: a deletion may change no version."""
        adapter = self.adapter()
        mine, _ = self._session(adapter, seed)
        theirs = self._loaded(adapter, [adapter.snapshot(mine)])
        rng = random.Random(seed)
        for _ in range(4):
            self.edit(mine, rng.getrandbits(32))
            adapter.apply(theirs, [adapter.missing(mine, adapter.version(theirs))])
            assert self.content(theirs) == self.content(mine)

    @LAW
    @given(seed=seeds)
    def test_apply_says_whether_it_was_news(self, seed: int) -> None:
        adapter = self.adapter()
        final, updates = self._session(adapter, seed)
        doc = adapter.new()
        assert adapter.apply(doc, []) is False
        for update in random.Random(seed).sample(updates, len(updates)):
            before = self.content(doc)
            news = adapter.apply(doc, [update])
            assert news or self.content(doc) == before
            assert adapter.apply(doc, [update]) is False, "an update that is there, or waits, is no news"
        assert adapter.apply(doc, updates) is False
        assert adapter.apply(doc, [adapter.snapshot(final)]) is False
        assert adapter.apply(doc, self._recorded(adapter, final, [seed])) is True

    @LAW
    @given(seed=seeds)
    def test_an_update_that_waits_is_news_once(self, seed: int) -> None:
        adapter = self.adapter()
        doc = adapter.new()
        updates = self._recorded(adapter, doc, [seed, seed + 1, seed + 2])
        other = adapter.new()
        assert adapter.apply(other, updates[1:2]) is True
        assert adapter.apply(other, updates[1:2]) is False
        assert adapter.apply(other, updates) is True
        assert self.content(other) == self.content(doc)

    @LAW
    @given(seed=seeds, cut=st.floats(min_value=0, max_value=0.999))
    def test_truncated_bytes_change_nothing(self, seed: int, cut: float) -> None:
        adapter = self.adapter()
        final, updates = self._session(adapter, seed, edits=6)
        doc = self._loaded(adapter, updates)
        snapshot = adapter.snapshot(final)
        update = random.Random(seed).choice([*updates, snapshot])
        bad = update[: int(len(update) * cut)]
        fresh = self._recorded(adapter, final, [seed, seed + 1])
        first = self._loaded(adapter, [*updates, fresh[0]])
        with pytest.raises(InvalidUpdateError) as caught:
            adapter.apply(doc, [fresh[0], bad, fresh[1]])
        assert caught.value.index == 1
        assert self.content(doc) == self.content(first), "those before the culprit are applied, those after it are not"
        with pytest.raises(InvalidUpdateError):
            adapter.merge([updates[0], bad])
        assert adapter.apply(doc, fresh) is True
        assert self.content(doc) == self.content(final), "the document goes on"

    @LAW
    @given(seed=seeds, noise=st.binary(min_size=1, max_size=60), flips=st.lists(seeds, min_size=1, max_size=3))
    def test_corrupt_bytes_are_refused_or_harmless(self, seed: int, noise: bytes, flips: list[int]) -> None:
        """A flipped bit may give another valid update; one that is refused must change nothing, and none may spoil the document."""
        adapter = self.adapter()
        final, updates = self._session(adapter, seed, edits=6)
        flipped = bytearray(random.Random(seed).choice(updates))
        for flip in flips:
            flipped[flip // 8 % len(flipped)] ^= 1 << flip % 8
        for bad in (noise, bytes(flipped)):
            doc = self._loaded(adapter, updates)
            before, snapshot = self.content(doc), adapter.snapshot(doc)
            refused: InvalidUpdateError | None = None
            try:
                adapter.apply(doc, [bad])
            except InvalidUpdateError as error:
                refused = error
            if refused is not None:
                assert refused.index == 0
                assert self.content(doc) == before
                assert adapter.apply(self._loaded(adapter, [snapshot]), [adapter.snapshot(doc)]) is False
        doc = self._loaded(adapter, updates)
        assert self.content(doc) == self.content(final)

    @LAW
    @given(seed=seeds)
    def test_observe_sees_each_local_edit_once(self, seed: int) -> None:
        adapter = self.adapter()
        doc, updates = self._session(adapter, seed)
        seen: list[bytes] = []
        unobserve = adapter.observe(doc, seen.append)
        copy = self._loaded(adapter, [adapter.snapshot(doc)])
        for count in range(1, 4):
            self.edit(doc, seed + count)
            assert len(seen) == count, "one call for an edit, before it returns"
            assert type(seen[-1]) is bytes
            adapter.apply(copy, seen[-1:])
            assert self.content(copy) == self.content(doc)
        unobserve()
        self.edit(doc, seed)
        assert len(seen) == 3, "nothing after the observation ended"
        assert updates

    @LAW
    @given(seed=seeds)
    def test_observe_never_echoes(self, seed: int) -> None:
        adapter = self.adapter()
        final, updates = self._session(adapter, seed)
        doc = adapter.new()
        seen: list[bytes] = []
        unobserve = adapter.observe(doc, seen.append)
        adapter.apply(doc, updates[::-1])
        adapter.apply(doc, updates)
        adapter.snapshot(doc)
        adapter.missing(doc, adapter.version(doc))
        with pytest.raises(InvalidUpdateError):
            adapter.apply(doc, [b""])
        assert seen == []
        self.edit(doc, seed)
        assert len(seen) == 1
        unobserve()
        assert self.content(doc) != self.content(final)

    def test_several_observers_each_see_an_edit(self) -> None:
        adapter = self.adapter()
        doc = adapter.new()
        first: list[bytes] = []
        second: list[bytes] = []
        end_first = adapter.observe(doc, first.append)
        end_second = adapter.observe(doc, second.append)
        self.edit(doc, 1)
        end_first()
        self.edit(doc, 2)
        end_second()
        assert (len(first), len(second)) == (1, 2)
        assert first[0] == second[0]

    def test_an_observer_that_fails_reaches_the_editor(self) -> None:
        adapter = self.adapter()
        doc = adapter.new()
        empty = self.content(doc)

        def fail(update: bytes) -> None:
            raise OSError("no space")

        unobserve = adapter.observe(doc, fail)
        with pytest.raises((OSError, ExceptionGroup)):
            self.edit(doc, 1)
        unobserve()
        assert self.content(doc) != empty, "the edit stays"
        assert self.content(self._loaded(adapter, [adapter.snapshot(doc)])) == self.content(doc)

    def test_each_document_writes_under_its_own_identity(self) -> None:
        """Two devices that start from one snapshot and edit alike: with one identity between them, an edit of one hides the other's."""
        adapter = self.adapter()
        origin, _ = self._session(adapter, 1)
        start = adapter.snapshot(origin)
        mine, theirs = self._loaded(adapter, [start]), self._loaded(adapter, [start])
        my_edits = self._recorded(adapter, mine, [1, 2, 3])
        their_edits = self._recorded(adapter, theirs, [4, 5, 6])
        adapter.apply(mine, their_edits)
        adapter.apply(theirs, my_edits)
        assert self.content(mine) == self.content(theirs)
        blank = [self._recorded(adapter, adapter.new(), [7])[0] for _ in range(4)]
        assert len(set(blank)) == 4, "the same edit in new documents must not give the same bytes"

    @LAW
    @given(seed=seeds)
    def test_equal_versions_are_stable(self, seed: int) -> None:
        adapter = self.adapter()
        final, updates = self._session(adapter, seed)
        assert adapter.version(final) == adapter.version(final)
        # Of what the other has already, a document needs nothing.
        other = self._loaded(adapter, updates)
        assert adapter.apply(other, [adapter.missing(final, adapter.version(other))]) is False
