"""Presence in a room: among connections, and with clients on HTTP."""

import asyncio

import pytest
from ds_sync_yjs.presence import YjsPresence
from ds_sync_ywebsocket import attendance, gateway, messages
from talking import House, write_update

from ds_sync.crdt import Word
from ds_sync.protocol.framing import build_frame, parse_frames

pytestmark = pytest.mark.anyio

URL = "/v1/yjs/default/docs/room?awareness=default"
presence = YjsPresence()


async def test_what_a_client_says_reaches_everybody_itself_included(house: House) -> None:
    ann, bob = await house.join(), await house.join()
    ann.say(1, 1, {"name": "Ann é😀"})
    for client in (ann, bob):
        await client.wait(lambda client: client.words.get(1) == Word(1, 1, {"name": "Ann é😀"}))
    late = await house.join()
    await late.wait(lambda client: client.words.get(1) == Word(1, 1, {"name": "Ann é😀"}))


async def test_who_hangs_up_is_gone_at_once(house: House) -> None:
    ann, bob = await house.join(), await house.join()
    ann.say(1, 7, {})
    await bob.wait(lambda client: 1 in client.words)
    await ann.hang_up(1006)
    await bob.wait(lambda client: client.words[1] == Word(1, 8, None), 1.0)
    late = await house.join()
    await asyncio.sleep(0.02)
    assert late.words == {}


async def test_repeating_what_was_heard_changes_nothing(house: House) -> None:
    ann, bob = await house.join(), await house.join()
    ann.say(1, 2, "here")
    await bob.wait(lambda client: 1 in client.words)
    frames = len(ann.frames)
    bob.say(1, 2, "here")  # y-websocket clients repeat all they hear
    bob.say(1, 1, "older")
    bob.say(2, 1, "bob")
    await ann.wait(lambda client: 2 in client.words)
    assert len(ann.frames) == frames + 1
    await bob.hang_up()
    await ann.wait(lambda client: client.words[2].state is None)
    assert ann.words[1] == Word(1, 2, "here")  # bob only repeated it


async def test_a_client_without_presence_that_repeats_the_others_takes_nobody_along(house: House) -> None:
    ann = await house.join()
    ann.say(1, 2, "here")
    await ann.wait(lambda client: 1 in client.words)
    viewer = await house.join()
    await viewer.wait(lambda client: 1 in client.words)
    viewer.say(1, 2, "here")
    await asyncio.sleep(0.02)
    await viewer.hang_up()
    await asyncio.sleep(0.05)
    assert ann.words[1] == Word(1, 2, "here")


async def test_a_client_that_comes_back_before_its_old_connection_ends_stays(house: House) -> None:
    old, bob = await house.join(), await house.join()
    old.say(1, 2, "here")
    await bob.wait(lambda client: 1 in client.words)
    new = house.connect()
    new.say(1, 2, "here")  # at once, before it has heard anything
    new.sync()
    await new.synced()
    await old.hang_up()
    await asyncio.sleep(0.05)
    assert bob.words[1] == Word(1, 2, "here")
    await new.hang_up()
    await bob.wait(lambda client: client.words[1].state is None)


async def test_a_client_that_comes_back_is_told_that_it_was_gone(house: House) -> None:
    old, bob = await house.join(), await house.join()
    old.say(1, 2, "here")
    await bob.wait(lambda client: 1 in client.words)
    await old.hang_up()
    await bob.wait(lambda client: client.words[1] == Word(1, 3, None))
    new = house.connect()
    new.say(1, 2, "here")
    await new.wait(lambda client: client.words.get(1) == Word(1, 3, None))
    new.say(1, 4, "here")  # which is what y-protocols does then
    await bob.wait(lambda client: client.words[1] == Word(1, 4, "here"))


async def test_asking_for_presence_is_answered(house: House) -> None:
    ann, bob = await house.join(), await house.join()
    ann.say(1, 1, "here")
    await bob.wait(lambda client: 1 in client.words)
    frames = len(bob.frames)
    bob.send(bytes((messages.ASK_PRESENCE,)))
    await bob.wait(lambda client: len(client.frames) > frames)
    assert presence.decode(parse_frames(bob.frames[-1][1:]).payloads[0]) == [Word(1, 1, "here")]


async def test_http_and_websocket_share_one_presence(house: House) -> None:
    await house.append([write_update("x")])
    ann = await house.join()
    ann.say(1, 1, "on websocket")
    await ann.wait(lambda client: 1 in client.words)
    status, headers, body = await house.ask("GET", f"{URL}&offset=-1")
    assert status == 200
    assert presence.decode(parse_frames(body).payloads[0]) == [Word(1, 1, "on websocket")]

    said = presence.encode([Word(2, 5, "on http")])
    assert (await house.ask("POST", URL, build_frame(said)))[0] == 204
    await ann.wait(lambda client: client.words.get(2) == Word(2, 5, "on http"))
    await ann.hang_up()
    _, headers, body = await house.ask("GET", f"{URL}&offset={headers['stream-next-offset']}")
    assert [presence.decode(payload) for payload in parse_frames(body).payloads] == [[Word(2, 5, "on http")], [Word(1, 2, None)]]
    assert (await house.ask("POST", URL, b"\x05ab"))[0] == 204  # what is no frame says nothing
    assert (await house.ask("POST", URL, b"\x02ab"))[0] == 204
    late = await house.join()
    await late.wait(lambda client: set(client.words) == {2})


async def test_who_says_nothing_more_is_forgotten(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "FORGET_SECONDS", 0.05)
    monkeypatch.setattr(gateway, "ROUND_SECONDS", 0.02)
    await house.append([write_update("x")])
    ann = await house.join()
    assert (await house.ask("POST", URL, build_frame(presence.encode([Word(2, 5, "on http")]))))[0] == 204
    await ann.wait(lambda client: client.words.get(2) == Word(2, 5, "on http"))
    await ann.wait(lambda client: client.words[2] == Word(2, 5, None))


async def test_what_was_said_before_anybody_was_in_the_room_is_as_old_as_it_is(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "FORGET_SECONDS", 2.0)
    monkeypatch.setattr(gateway, "ROUND_SECONDS", 0.02)
    await house.append([write_update("x")])
    assert (await house.ask("POST", URL, build_frame(presence.encode([Word(2, 5, "crashed since")]))))[0] == 204
    await asyncio.sleep(1.5)
    began = asyncio.get_running_loop().time()
    late = await house.join()
    present = [Word(2, 5, "crashed since")]
    while present:
        late.frames.clear()
        late.send(bytes((messages.ASK_PRESENCE,)))
        await late.wait(lambda client: any(frame[0] == messages.PRESENCE for frame in client.frames))
        present = [word for word in presence.decode(parse_frames(late.frames[-1][1:]).payloads[0]) if word.state is not None]
    assert asyncio.get_running_loop().time() - began < 1.5


async def test_a_crowd_on_one_connection_does_not_fill_the_room(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gateway, "ROUND_SECONDS", 0.02)
    monkeypatch.setattr(attendance, "SPOKEN_FOR", 10)
    ann, bob = await house.join(), await house.join()
    ann.send(messages.build_presence(presence.encode([Word(client, 1, {}) for client in range(100, 200)])))
    bob.say(1, 1, "Bob")
    ann.edit("goes on")
    await bob.see("goes on")
    late = await house.join()
    await late.wait(lambda client: 1 in client.words)
    assert set(late.words) == {1, *range(100, 110)}
    async with asyncio.timeout(5):
        while "90 words of presence were beyond its limits" not in caplog.text:  # noqa: ASYNC110  # a log has no event
            await asyncio.sleep(0.01)


async def test_a_presence_update_that_is_too_large_is_not_passed_on(house: House) -> None:
    ann, bob = await house.join(), await house.join()
    ann.say(1, 1, "x" * 70_000)
    ann.say(1, 2, "short")
    await bob.wait(lambda client: client.words.get(1) == Word(1, 2, "short"))
    assert max(map(len, bob.frames)) < 1000
