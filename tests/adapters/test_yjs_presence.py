"""Yjs awareness on the wire."""

import random
from typing import Any

import pytest
from ds_sync_yjs import YjsAdapter
from ds_sync_yjs.presence import YjsPresence
from hypothesis import given
from hypothesis import strategies as st
from pycrdt import Awareness, Doc

from ds_sync.crdt import Word
from ds_sync.exceptions import InvalidUpdateError
from ds_sync.protocol.framing import build_frame, build_varint

PRESENCE = YjsPresence()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), lambda part: st.lists(part) | st.dictionaries(st.text(), part)
)
WORDS = st.lists(st.builds(Word, st.integers(0, 2**53 - 1), st.integers(0, 2**31), JSON), max_size=5)


@given(WORDS)
def test_what_is_encoded_is_decoded(words: list[Word]) -> None:
    assert PRESENCE.decode(PRESENCE.encode(words)) == words


def test_pycrdt_says_the_same() -> None:
    doc = Doc[Any]()
    theirs = Awareness(doc)
    theirs.set_local_state({"user": {"name": "Ada"}})
    (word,) = PRESENCE.decode(theirs.encode_awareness_update([doc.client_id]))
    assert (word.client, word.state) == (doc.client_id, {"user": {"name": "Ada"}})
    theirs.apply_awareness_update(PRESENCE.encode([Word(7, 3, {"name": "Bób"})]), "test")
    assert theirs.states[7] == {"name": "Bób"}
    theirs.apply_awareness_update(PRESENCE.encode([Word(7, 4, None)]), "test")
    assert 7 not in theirs.states


def test_the_client_is_the_documents() -> None:
    adapter = YjsAdapter()
    doc = adapter.new()
    assert adapter.presence.client(doc) == doc.client_id


@pytest.mark.parametrize("state", [float("nan"), object(), {"x": {1, 2}}])
def test_what_is_not_json_is_refused(state: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        PRESENCE.encode([Word(1, 1, state)])


@pytest.mark.parametrize("state", [b'{"x":NaN}', b"-Infinity", b"[1e999]", b'"\\ud800"'])
def test_what_nobody_could_pass_on_is_refused(state: bytes) -> None:
    with pytest.raises(InvalidUpdateError):
        PRESENCE.decode(build_varint(1) + build_varint(7) + build_varint(1) + build_frame(state))


@pytest.mark.parametrize(("client", "clock"), [(2**53, 1), (7, 2**52 + 1), (7, 2**62)])
def test_numbers_that_javascript_fails_on_are_refused(client: int, clock: int) -> None:
    with pytest.raises(InvalidUpdateError):
        PRESENCE.decode(build_varint(1) + build_varint(client) + build_varint(clock) + build_frame(b"{}"))


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        PRESENCE.decode(data)
    except InvalidUpdateError:
        return


def test_damaged_updates_are_read_or_refused() -> None:
    whole = PRESENCE.encode([Word(1, 2, {"user": {"name": "Ada"}}), Word(3, 4, None), Word(5, 6, [1, "ü"])])
    for seed in range(2000):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            PRESENCE.decode(bytes(data[: rng.randint(0, len(data))]))
        except InvalidUpdateError:
            continue


@pytest.mark.parametrize("data", [b"", b"\x01", b"\xff" * 30, b"\x01\x01\x01\x05nul", b"\x01\x01\x01\x02\xff\xfe", b"\x01\x01\x01\x01{"])
def test_cut_and_senseless_updates_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidUpdateError):
        PRESENCE.decode(data)


def test_deep_nesting_is_refused() -> None:
    text = b"[" * 100_000
    length = bytes([len(text) & 0x7F | 0x80, (len(text) >> 7) & 0x7F | 0x80, len(text) >> 14])
    with pytest.raises(InvalidUpdateError):
        PRESENCE.decode(b"\x01\x01\x01" + length + text)
