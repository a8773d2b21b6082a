"""Messages of the y-websocket protocol; pycrdt's own coder is the other side."""

import pycrdt
import pytest
from ds_sync_ywebsocket import messages
from ds_sync_ywebsocket.messages import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_sync.exceptions import FramingError


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_what_pycrdt_writes_is_read_and_what_we_write_is_the_same(body: bytes) -> None:
    update = pycrdt.create_update_message(body)
    assert update == messages.build_sync(messages.UPDATE, body)
    assert messages.parse_message(update) == Message(messages.SYNC, messages.UPDATE, body)
    said = pycrdt.create_awareness_message(body)
    assert said == messages.build_presence(body)
    assert messages.parse_message(said) == Message(messages.PRESENCE, 0, body)


def test_our_first_message_is_that_of_pycrdt() -> None:
    document: pycrdt.Doc[object] = pycrdt.Doc()
    assert messages.build_sync(messages.STEP_1, document.get_state()) == pycrdt.create_sync_message(document)


@pytest.mark.parametrize("data", [b"\x02\x00\x01x", b"\x04", b"\x63", b"\xff\xff", b"\x00\x03\x00"])
def test_kinds_we_do_not_know_are_nothing(data: bytes) -> None:
    assert messages.parse_message(data) is None


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_message_or_none_or_refused(data: bytes) -> None:
    try:
        message = messages.parse_message(data)
    except FramingError:
        return
    if message is not None and message.kind != messages.ASK_PRESENCE:
        assert data.endswith(message.body)
