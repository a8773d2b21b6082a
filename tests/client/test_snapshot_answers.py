"""What a document's URL answers when it is asked for its snapshot."""

from __future__ import annotations

import pytest

from ds_sync.client.answers import parse_snapshot, parse_snapshot_key
from ds_sync.client.transport import Response
from ds_sync.exceptions import ProtocolError
from ds_sync.protocol.framing import build_frame
from ds_sync.protocol.messages import Page
from ds_sync.protocol.offsets import Offset


@pytest.mark.parametrize(
    ("location", "key"),
    [
        ("/v1/yjs/a/docs/b?offset=-1", None),
        ("/v1/yjs/a/docs/b?offset=12_3_snapshot", "12_3_snapshot"),
        ("http://elsewhere/x?token=1&offset=12_3_snapshot&live=sse", "12_3_snapshot"),
    ],
)
def test_a_redirect_says_where_the_snapshot_is(location: str, key: str | None) -> None:
    assert parse_snapshot_key(Response(307, {"location": location})) == key


@pytest.mark.parametrize(
    "response",
    [
        Response(200, {}, b"a page"),
        Response(308, {"location": "https://server/v1/yjs/a/docs/b?offset=12_3_snapshot"}),
        Response(307, {}),
        Response(307, {"location": "/login?next=%2Fv1"}),
        Response(307, {"location": "http://[half?offset=-1"}),
        Response(307, {"location": "/v1/yjs/a/docs/b?offset=snapshot"}),
    ],
)
def test_anything_else_is_no_answer(response: Response) -> None:
    with pytest.raises(ProtocolError):
        parse_snapshot_key(response)


def test_a_snapshot_is_a_page_of_one_frame_that_is_not_the_end() -> None:
    headers = {"stream-next-offset": "12_4", "stream-incarnation": "0" * 32, "stream-up-to-date": "true"}
    page = parse_snapshot(Response(200, headers, b"whole document"))
    assert page == Page(build_frame(b"whole document"), Offset("12_4"), up_to_date=False, incarnation="0" * 32)


def test_a_snapshot_without_an_offset_is_none() -> None:
    with pytest.raises(ProtocolError):
        parse_snapshot(Response(200, {}, b"whole document"))
