import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from ds_sync.client.views import Interruption, Views
from ds_sync.exceptions import ProtocolError, TransportError
from ds_sync.protocol.messages import Page
from ds_sync.protocol.offsets import BEGINNING, Offset

pytestmark = pytest.mark.anyio

CUT = Interruption(TransportError("cut"), 0.5)


class Pages(Views):
    """What a follower would give: pages with these bytes, the last one closed; None is an interruption."""

    def __init__(self, *data: bytes | None, closed: bool = True) -> None:
        super().__init__(BEGINNING)
        self.left = self.in_pieces = False
        last = len(data) - 1
        self._items = [
            CUT if one is None else Page(one, Offset(str(number + 1)), number == last, closed and number == last)
            for number, one in enumerate(data)
        ]

    async def aclose(self) -> None:
        self.left = True

    def _allow_pieces(self) -> None:
        self.in_pieces = True

    async def _next_item(self) -> Page | Interruption:
        if not self._items:
            raise StopAsyncIteration
        return self._items.pop(0)


async def taken(found: AsyncIterator[Any], views: Views) -> list[tuple[Any, str]]:
    """What comes, each with the offset to begin at if the reader ends there."""
    return [(one, views.offset) async for one in found]


async def test_everything() -> None:
    views = Pages(b"a", None, b"b")
    assert [type(item) async for item in views] == [Page, Interruption, Page]
    assert views.offset == "3"


async def test_pages_and_what_came_between() -> None:
    views, between = Pages(b"a", None, b"b"), list[Interruption]()
    assert [page.data async for page in views.pages(interrupted=between.append)] == [b"a", b"b"]
    assert between == [CUT]


async def test_chunks_leave_out_what_is_empty() -> None:
    views = Pages(b"a", None, b"", b"b")
    assert await taken(views.chunks(), views) == [(b"a", "-1"), (b"b", "3")]
    assert views.offset == "4"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ([b"one", b"two"], [("one", "-1"), ("two", "1")]),
        ("aé".encode().partition(b"\xa9"), [("a", "-1"), ("é", "-1")]),
        (["😀".encode()[:1], "😀".encode()[1:3], "😀".encode()[3:] + b"x", b"y"], [("😀x", "-1"), ("y", "3")]),
        ([b"a", b"\xc3", b"\xa9\xc3", b"\xa9"], [("a", "-1"), ("é", "1"), ("é", "1")]),
        ([b"", b"x"], [("x", "1")]),
    ],
)
async def test_text_never_ends_within_a_character_and_neither_does_the_offset(data: Sequence[bytes], found: list[tuple[str, str]]) -> None:
    views = Pages(*data)
    assert await taken(views.text(), views) == found
    assert views.offset == str(len(data))


@pytest.mark.parametrize("data", [[b"ok", b"\xff"], [b"ok", b"\xc3"], [b"ok", b"\xc3", b"x"]])
async def test_what_is_no_text(data: list[bytes]) -> None:
    views, got = Pages(*data), list[str]()
    with pytest.raises(ProtocolError, match="UTF-8"):  # noqa: PT012
        async for text in views.text():
            got.append(text)
    assert (got, views.offset) == (["ok"], "1")
    views = Pages(*data)
    assert "�" in "".join([text async for text in views.text(errors="replace")])


async def test_a_stream_that_is_still_open_may_end_within_a_character() -> None:
    views = Pages(b"ok\xc3", closed=False)
    assert await taken(views.text(), views) == [("ok", "-1")]
    assert views.offset == "-1"


async def test_messages_and_the_offset_that_waits_for_the_last_of_a_page() -> None:
    views = Pages(b'[{"a":1},[2]]', None, b"[]", b"", b"[null]")
    assert await taken(views.json(), views) == [({"a": 1}, "-1"), ([2], "-1"), (None, "4")]
    assert views.offset == "5"


@pytest.mark.parametrize("broken", [b"XY", b'[{"a"', b'{"a":1}', b"7", b"[" * 100_000, b"\xff"])
async def test_a_damaged_page_is_raised_before_it_counts(broken: bytes) -> None:
    views, got = Pages(b"[1]", broken), list[Any]()
    with pytest.raises(ProtocolError, match="JSON stream"):  # noqa: PT012
        async for message in views.json():
            got.append(message)
    assert (got, views.offset) == ([1], "1")


@pytest.mark.parametrize(("view", "pieces"), [("pages", False), ("chunks", True), ("text", True), ("json", False)])
async def test_leaving_a_view_ends_the_reading(view: str, pieces: bool) -> None:
    views = Pages(b"[1]", b"[2]")
    iterator = getattr(views, view)()
    await anext(iterator)
    assert (views.left, views.in_pieces) == (False, pieces)
    await iterator.aclose()
    await asyncio.sleep(0)  # the generator inside is ended by the event loop
    await asyncio.sleep(0)
    assert views.left
