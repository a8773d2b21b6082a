"""The CRDT port on pycrdt: documents are plain `pycrdt.Doc`s, updates are Yjs updates, version 1."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from pycrdt import Doc, TransactionEvent, get_update, merge_updates

from ds_sync.exceptions import DocumentBusyError, InvalidUpdateError
from ds_sync_yjs.content import YjsContent
from ds_sync_yjs.presence import YjsPresence
from ds_sync_yjs.squash import squash_update
from ds_sync_yjs.updates import join_updates, refusing, require_update
from ds_sync_yjs.wire import WireError, check_update, deletes_beyond, is_plain_edit, is_within, mend_update, read_ranges, read_version

_log = logging.getLogger("ds_sync.yjs")

_NOTHING = b"\x00\x00"
_OUR_ORIGIN = object()

_TOGETHER = 256
"""Updates that are joined before they are integrated: one by one, each that goes on with a long text has all of it measured."""

_AT_MOST_TOGETHER = 4 * _TOGETHER
"""So many where it goes well: the text is measured with each run, and copied."""


@dataclass(slots=True)
class _State:
    """What the adapter keeps beside a document."""

    waiting: bytes | None = None
    """One update: all that pycrdt took but could not integrate. `Doc.get_update` leaves it out."""
    applying: bool = False
    failed: bool = False
    changed: bool = False
    unreadable: bool = False
    """Whether the application made an edit that others can't read as pycrdt writes it (`mend_update`): the document holds it, too."""
    parts: list[bytes] = field(default_factory=list)
    """What refused updates brought into the document before pycrdt noticed that they are wrong."""

    def receive_event(self, event: TransactionEvent) -> None:
        self.changed = True
        if self.failed:
            self.parts.append(bytes(event.update))


class YjsAdapter:
    """Yjs documents by pycrdt (`ds_sync.crdt.CrdtAdapter`).

    `apply` raises DocumentBusyError while a transaction of the application is open (it awaits inside `with doc.transaction()`), because
    pycrdt would make the remote update part of that transaction: try again at the next turn of the event loop.

    Bytes that don't decode change nothing. Bytes that decode and contradict the document (a character as the parent of another) are
    noticed by pycrdt on the way; should some of it already be in the document, that part is announced to the observers like a local
    edit, so that what is stored and what is shown never differ. pycrdt has no rollback, and a copy of the document for each update
    would cost more than the harm.
    """

    name = "yjs"
    format = "yjs-v1"
    content_type = "application/octet-stream"
    presence = YjsPresence()
    content = YjsContent()

    def __init__(self) -> None:
        self._states: WeakKeyDictionary[Doc[Any], _State] = WeakKeyDictionary()
        self._observers: WeakKeyDictionary[Doc[Any], list[Callable[[bytes], None]]] = WeakKeyDictionary()

    def new(self) -> Doc[Any]:
        """Return an empty document under a fresh random client id."""
        return Doc()

    def apply(self, doc: Doc[Any], updates: Sequence[bytes], *, checked: bool = False) -> bool:
        """Integrate `updates`; whether they were news. Raises InvalidUpdateError and, inside an open transaction, DocumentBusyError.

        `checked`: they have passed `ds_sync_yjs.updates.require_update`, which takes longer than all the rest.
        """
        _refuse_open_transaction(doc)
        state = self._state(doc)
        done = 0
        state.changed = False
        state.parts = []
        state.applying = True
        # For the length of this call only: pycrdt's observers hold their document, and would keep it for ever.
        subscription = doc.observe(state.receive_event)
        try:
            together = _TOGETHER
            while done < len(updates):
                run = updates[done : done + together]
                if len(run) > 1 and self._apply_together(doc, state, run, checked):
                    done += len(run)
                    together = min(2 * together, _AT_MOST_TOGETHER)
                elif len(run) > _TOGETHER:
                    together = _TOGETHER  # one is wrong: which, is found sooner among few
                else:
                    for update in run:
                        if not checked:
                            with refusing(done):
                                check_update(update)
                        self._apply_one(doc, state, squash_update(update), done)
                        done += 1
                    state.parts.clear()  # nothing was wrong with them one by one
        finally:
            try:
                waits = self._settle_waiting(doc, state, updates[:done])
            finally:
                state.applying = False
                doc.unobserve(subscription)
            for part in state.parts:
                for callback in tuple(self._observers.get(doc, ())):
                    callback(part)
        return waits or state.changed

    def version(self, doc: Doc[Any]) -> bytes:
        """Return the Yjs state vector. Raises DocumentBusyError inside an open transaction, whose clocks it would count already."""
        _refuse_open_transaction(doc)
        return bytes(doc.get_state())

    def missing(self, doc: Doc[Any], since: bytes | None) -> bytes:
        """Return what `doc` has beyond state vector `since`, all its deletions, and what waits.

        Raises InvalidUpdateError and, inside an open transaction, DocumentBusyError: half of an edit is not to be stored.
        """
        _refuse_open_transaction(doc)
        with refusing(0):
            update = bytes(doc.get_update(since))
            if self._state(doc).unreadable:
                update = mend_update(update)
        waiting = self._state(doc).waiting
        return update if waiting is None else merge_updates(update, waiting)

    def snapshot(self, doc: Doc[Any]) -> bytes:
        """Return the whole document, what waits included."""
        return self.missing(doc, None)

    def merge(self, updates: Sequence[bytes]) -> bytes:
        """Return one update worth all of `updates`. Raises InvalidUpdateError. Holds the GIL: large merges belong in another process."""
        if not updates:
            raise ValueError("nothing to merge")
        for index, update in enumerate(updates):
            require_update(update, index)
        return join_updates(updates)

    def observe(self, doc: Doc[Any], callback: Callable[[bytes], None]) -> Callable[[], None]:
        """Call `callback(update)` after each local transaction that changed something. What it raises arrives in an ExceptionGroup.

        So does InvalidUpdateError, for an edit that no other document could read (values nested more than 2,000 levels deep). The document
        has it all the same, and others wait for it before they show what is written after it: open the document again from its file.
        The document lives until the observation is ended. Raises DocumentBusyError inside an open transaction.
        """
        _refuse_open_transaction(doc)
        state = self._state(doc)

        def receive_event(event: TransactionEvent) -> None:
            if not state.applying:
                callback(_require_readable(state, bytes(event.update)))

        subscription = doc.observe(receive_event)
        callbacks = self._observers.setdefault(doc, [])
        callbacks.append(callback)
        ended = False

        def unobserve() -> None:
            nonlocal ended
            if not ended:
                ended = True
                callbacks.remove(callback)
                doc.unobserve(subscription)

        return unobserve

    def _state(self, doc: Doc[Any]) -> _State:
        state = self._states.get(doc)
        if state is None:
            state = self._states[doc] = _State()
        return state

    def _apply_together(self, doc: Doc[Any], state: _State, updates: Sequence[bytes], checked: bool) -> bool:
        """Integrate all of `updates` at once; False if one of them is wrong, and it is to be seen which."""
        try:
            if not checked:
                for update in updates:
                    check_update(update)
            self._apply_one(doc, state, join_updates(updates), 0)
        except (WireError, InvalidUpdateError):
            return False
        return True

    def _apply_one(self, doc: Doc[Any], state: _State, update: bytes, index: int) -> None:
        try:
            with refusing(index), doc.transaction():
                try:
                    doc.apply_update(update)
                except BaseException:
                    state.failed = True  # until the transaction has told what came in
                    raise
        finally:
            state.failed = False

    def _settle_waiting(self, doc: Doc[Any], state: _State, updates: Sequence[bytes]) -> bool:
        """Integrate of `updates` and of what waited all that can be, keep the rest; whether something waits that did not before.

        What waits is applied again and again by us, because pycrdt alone forgets: of 300 sessions whose updates were applied one by one
        in a random order, 74 lacked text at the end (0.14.13), and none of those whose late updates were applied once more.
        """
        before = state.waiting
        late = [*updates] if before is None else [before, *updates]
        reached: dict[int, int] | None = None
        while late:
            version = bytes(doc.get_state())
            clocks = read_version(version)
            late = [update for update in late if _waits(update, version, clocks)]
            if not late or clocks == reached:
                break
            reached = clocks
            late = [self.merge(late)]
            state.waiting = None  # should it turn out to be invalid, it must not fail every apply to come
            with refusing(max(len(updates) - 1, 0)):
                doc.apply_update(late[0])
        state.waiting = after = self.merge(late) if late else None
        if after is None or before is None or after == before:
            return after is not None and before is None
        # Not by the bytes: one content has many spellings (what is deleted may be left out, runs may be cut elsewhere).
        return not is_within(read_ranges(after), read_ranges(before), read_version(bytes(doc.get_state())))


def _require_readable(state: _State, edit: bytes) -> bytes:
    """Return an edit of the application as others can read it. Raises InvalidUpdateError for one that nobody could."""
    if is_plain_edit(edit):
        return edit
    try:
        check_update(edit)
    except WireError:
        known, state.unreadable = state.unreadable, True
        with refusing(0):
            edit = mend_update(edit)
        if not known:
            _log.warning("text was inserted inside a character: pycrdt counts positions in UTF-8 bytes")
    return edit


def _refuse_open_transaction(doc: Doc[Any]) -> None:
    """Raise DocumentBusyError if one is open: there, pycrdt refuses another origin, and panics when it is asked to observe."""
    try:
        doc.transaction(origin=_OUR_ORIGIN)
    except RuntimeError as error:
        raise DocumentBusyError("a transaction of the application is open on this document") from error


def _waits(update: bytes, version: bytes, clocks: dict[int, int]) -> bool:
    rest = get_update(update, version)
    if rest == _NOTHING:
        return False
    return rest[0] != 0 or deletes_beyond(rest, clocks)
