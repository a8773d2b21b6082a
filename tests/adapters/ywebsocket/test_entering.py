"""Who is let into a room, to write or to read, and what the others are told."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from ds_sync_ywebsocket import messages
from talking import House, write_update

from ds_sync.crdt import Word
from ds_sync.exceptions import ForbiddenError, NotFoundError, ResponseError, UnauthorizedError
from ds_sync.server.admission import Access, Visitor

pytestmark = pytest.mark.anyio
R = TypeVar("R")
OpenHouse = Callable[..., Awaitable[House]]


@pytest.mark.parametrize("room", [".hidden", "a/.updates", "..", "a%00b", "%2e%2e/b", ""])
async def test_a_room_that_can_be_no_document_is_refused(house: House, room: str) -> None:
    client = house.connect(room)
    await client.wait(lambda client: client.closed is not None)
    assert client.closed is not None
    assert client.closed[0] == 4400


@pytest.mark.parametrize(
    ("error", "code"), [(ForbiddenError("not yours"), 4403), (UnauthorizedError("who?"), 4401), (NotFoundError("no such room"), 4404)]
)
async def test_permission_denied(open_house: OpenHouse, error: ResponseError, code: int) -> None:
    async def admit(visitor: Visitor) -> Access:
        if (visitor.service, visitor.room) == ("default", "a/secret"):
            raise error
        return Access.WRITE

    house = await open_house(admit=admit)
    await house.append([write_update("secret")], "a/secret")
    client = house.connect("a%2Fsecret")
    await client.wait(lambda client: client.closed is not None)
    assert client.closed == (code, str(error))
    told = [messages.build_refusal(str(error))] if code != 4404 else []
    assert client.frames == told  # y-protocols/auth.js
    assert (await house.join("open")).closed is None


@pytest.mark.parametrize("answer", [None, True, "write", RuntimeError("no database")])
async def test_an_application_that_fails_lets_nobody_in(open_house: OpenHouse, answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def admit(visitor: Visitor) -> Access:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    house = await open_house(admit=admit)
    await house.append([write_update("secret")])
    client = house.connect()
    await client.wait(lambda client: client.closed is not None)
    assert client.closed == (1011, "the server failed")
    assert client.frames == []
    assert "a conversation failed" in caplog.text


async def test_a_long_reason_fits_into_a_close_frame(open_house: OpenHouse) -> None:
    async def admit(visitor: Visitor) -> Access:
        raise ForbiddenError("a" + "\u00e9" * 200)

    client = (await open_house(admit=admit)).connect()
    await client.wait(lambda client: client.closed is not None)
    assert client.closed == (4403, "a" + "\u00e9" * 61)


async def test_who_may_only_read_is_told_once_and_changes_nothing(open_house: OpenHouse) -> None:
    async def admit(visitor: Visitor) -> Access:
        return Access.READ if visitor.query.get("as") == "guest" else Access.WRITE

    house = await open_house(admit=admit)
    ann = await house.join()
    ann.edit("Ann")
    guest = house.connect(query="as=guest")
    guest.text.insert(0, "offline ")
    guest.sync()
    await guest.wait(lambda client: "Ann" in str(client.text))
    refusals = [messages.build_refusal("you may only read here: what you change is not kept")]
    await guest.wait(lambda client: [frame for frame in client.frames if frame[0] == messages.AUTH] == refusals)
    guest.edit("more", "x" * 5000)
    guest.say(7, 1, "a guest")
    await ann.wait(lambda client: client.words.get(7) == Word(7, 1, "a guest"))
    ann.edit("!")
    await guest.wait(lambda client: "!" in str(client.text))
    assert str(ann.text) == "Ann!"
    assert len(await house.stored()) == 2
    assert [frame for frame in guest.frames if frame[0] == messages.AUTH] == refusals
    assert guest.closed is None


async def test_who_may_only_read_and_only_does_is_told_nothing(open_house: OpenHouse) -> None:
    async def admit(visitor: Visitor) -> Access:
        return Access.READ

    house = await open_house(admit=admit)
    await house.append([write_update("there")])
    guest = await house.join()
    await guest.see("there")
    guest.send(messages.build_sync(messages.STEP_2, guest.document.get_update()))
    guest.send(bytes((messages.ASK_PRESENCE,)))
    await guest.wait(lambda client: client.frames[-1][0] == messages.PRESENCE)
    assert all(frame[0] != messages.AUTH for frame in guest.frames)
    assert (await house.ask("GET", "/v1/stream/yjs/default/docs/none/.updates"))[0] == 404
