"""The kit must catch: adapters that are wrong in one way each."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from ds_sync_yjs import YjsAdapter
from pycrdt import Doc, Text, get_update, merge_updates

from ds_sync.crdt import CrdtAdapter
from ds_sync.exceptions import InvalidUpdateError
from ds_sync.testing.crdt_contract import CrdtAdapterContract


class ForgetsWaitingInSnapshot(YjsAdapter):
    def snapshot(self, doc: Doc[Any]) -> bytes:
        return doc.get_update()


class ForgetsWaitingInMissing(YjsAdapter):
    def missing(self, doc: Doc[Any], since: bytes | None) -> bytes:
        return doc.get_update(since)


class TrustsVersionsForMissing(YjsAdapter):
    """Equal versions, so nothing is missing: deletions are lost."""

    def missing(self, doc: Doc[Any], since: bytes | None) -> bytes:
        return b"\x00\x00" if since == doc.get_state() else super().missing(doc, since)


class Echoes(YjsAdapter):
    def observe(self, doc: Doc[Any], callback: Callable[[bytes], None]) -> Callable[[], None]:
        subscription = doc.observe(lambda event: callback(event.update))
        return lambda: doc.unobserve(subscription)


class SameIdentity(YjsAdapter):
    def new(self) -> Doc[Any]:
        return Doc(client_id=7)


class StopsBeforeTheGoodOnes(YjsAdapter):
    """A batch with one bad update: none of it is applied."""

    def apply(self, doc: Doc[Any], updates: Sequence[bytes]) -> bool:
        for update in updates:
            self.merge([update])
        return super().apply(doc, updates)


class SkipsTheBadOne(YjsAdapter):
    """Applies those after the culprit too, then raises."""

    def apply(self, doc: Doc[Any], updates: Sequence[bytes]) -> bool:
        failure, news = None, False
        for index, update in enumerate(updates):
            try:
                news = super().apply(doc, [update]) or news
            except InvalidUpdateError:
                failure = InvalidUpdateError("bad", index=index)
        if failure is not None:
            raise failure
        return news


class WrongIndex(YjsAdapter):
    def apply(self, doc: Doc[Any], updates: Sequence[bytes]) -> bool:
        try:
            return super().apply(doc, updates)
        except InvalidUpdateError as error:
            raise InvalidUpdateError(str(error), index=0) from error


class NewsByVersion(YjsAdapter):
    """A deletion changes no version."""

    def apply(self, doc: Doc[Any], updates: Sequence[bytes]) -> bool:
        before = doc.get_state()
        super().apply(doc, updates)
        return doc.get_state() != before


class AlwaysNews(YjsAdapter):
    def apply(self, doc: Doc[Any], updates: Sequence[bytes]) -> bool:
        super().apply(doc, updates)
        return True


class MergeLosesTheLast(YjsAdapter):
    def merge(self, updates: Sequence[bytes]) -> bytes:
        super().merge(updates)
        return super().merge(updates[:-1] or updates)


class MergesByALiveDocument(YjsAdapter):
    """What waits is lost."""

    def merge(self, updates: Sequence[bytes]) -> bytes:
        doc = self.new()
        self.apply(doc, updates)
        return doc.get_update()


class PassesForeignErrors(YjsAdapter):
    def apply(self, doc: Doc[Any], updates: Sequence[bytes]) -> bool:
        try:
            return super().apply(doc, updates)
        except InvalidUpdateError as error:
            raise ValueError(str(error)) from error


class RefusesQuietly(YjsAdapter):
    def apply(self, doc: Doc[Any], updates: Sequence[bytes]) -> bool:
        try:
            return super().apply(doc, updates)
        except InvalidUpdateError:
            return False


class GoesOnObserving(YjsAdapter):
    def observe(self, doc: Doc[Any], callback: Callable[[bytes], None]) -> Callable[[], None]:
        super().observe(doc, callback)
        return lambda: None


class CallsTwice(YjsAdapter):
    def observe(self, doc: Doc[Any], callback: Callable[[bytes], None]) -> Callable[[], None]:
        first, second = super().observe(doc, callback), super().observe(doc, callback)
        return lambda: (first(), second())[0]


class LeavesWaitingToPycrdt(YjsAdapter):
    """pycrdt forgets some of what it was given too early."""

    def apply(self, doc: Doc[Any], updates: Sequence[bytes]) -> bool:
        news = any(get_update(update, doc.get_state()) != b"\x00\x00" for update in updates)
        with doc.transaction():
            for index, update in enumerate(updates):
                try:
                    doc.apply_update(update)
                except ValueError as error:
                    raise InvalidUpdateError(str(error), index=index) from error
        return news


class SwallowsObserverErrors(YjsAdapter):
    def observe(self, doc: Doc[Any], callback: Callable[[bytes], None]) -> Callable[[], None]:
        def quiet(update: bytes) -> None:
            try:
                callback(update)
            except OSError:
                return

        return super().observe(doc, quiet)


class AppliesHalf(YjsAdapter):
    """Of an update it refuses, something gets in."""

    def apply(self, doc: Doc[Any], updates: Sequence[bytes]) -> bool:
        try:
            return super().apply(doc, updates)
        except InvalidUpdateError:
            super().apply(doc, [merge_updates(super().snapshot(doc), HALF)])
            raise


def _half() -> bytes:
    doc: Doc[Any] = Doc()
    doc.get("body", type=Text).insert(0, "half")
    return doc.get_update()


HALF = _half()

BROKEN = [
    ForgetsWaitingInSnapshot,
    ForgetsWaitingInMissing,
    TrustsVersionsForMissing,
    Echoes,
    SameIdentity,
    StopsBeforeTheGoodOnes,
    SkipsTheBadOne,
    WrongIndex,
    NewsByVersion,
    AlwaysNews,
    MergeLosesTheLast,
    MergesByALiveDocument,
    PassesForeignErrors,
    RefusesQuietly,
    GoesOnObserving,
    CallsTwice,
    LeavesWaitingToPycrdt,
    SwallowsObserverErrors,
    AppliesHalf,
]


class _Kit(CrdtAdapterContract):
    subject: type[YjsAdapter] = YjsAdapter

    def adapter(self) -> CrdtAdapter:
        return self.subject()

    def edit(self, doc: Any, seed: int) -> None:
        rng = random.Random(seed)
        text = doc.get("body", type=Text)
        size = len(str(text))
        if size and rng.random() < 0.35:
            del text[rng.randrange(size)]
        else:
            text.insert(rng.randrange(size + 1), rng.choice("abc"))

    def content(self, doc: Any) -> Any:
        return str(doc.get("body", type=Text))


LAWS = [name for name, _ in inspect.getmembers(CrdtAdapterContract, inspect.isfunction) if name.startswith("test_")]


def failures(subject: type[YjsAdapter], *, at_once: bool) -> list[str]:
    failed = []
    for law in LAWS:
        kit = _Kit()
        kit.subject = subject
        try:
            getattr(kit, law)()
        except (AssertionError, Exception, pytest.fail.Exception):
            failed.append(law)
            if at_once:
                break
    return failed


def test_a_right_adapter_passes() -> None:
    assert failures(YjsAdapter, at_once=False) == []


@pytest.mark.parametrize("subject", BROKEN, ids=lambda subject: subject.__name__)
def test_the_kit_catches(subject: type[YjsAdapter]) -> None:
    assert failures(subject, at_once=True) != []
