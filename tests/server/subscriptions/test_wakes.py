"""Subscriptions at work, on both engines: what is delivered, when, and what a restart finds again."""

import asyncio
import logging
from base64 import urlsafe_b64decode
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ds_sync.exceptions import StorageFullError
from ds_sync.protocol import subscription as machine
from ds_sync.protocol.decisions import Change, Decision, append_record
from ds_sync.server.app import create_app
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.subscriptions import wakes
from ds_sync.server.subscriptions.index import Entry, SubscriptionIndex
from ds_sync.server.subscriptions.shelf import FOLDER, Kept
from ds_sync.server.subscriptions.targets import TargetPolicy
from tests.server.conftest import OpenService, Receiver, Service, build_answer

pytestmark = pytest.mark.anyio

DONE = build_answer("200 OK", b'{"done": true}')
FAILED = build_answer("503 Later")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of tests are short."""
    monkeypatch.setattr(machine, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(wakes, "STORE_RETRY_SECONDS", 0.02)


async def hook(service: Service, receiver: Receiver, **fields: Any) -> None:
    await service.subscribe(
        "s", **{"type": "webhook", "pattern": "events/*", "lease_ttl_ms": 1000, "webhook": {"url": receiver.url}, **fields}
    )


async def pull(service: Service, **fields: Any) -> None:
    await service.ask("PUT", "wakes")
    await service.subscribe("s", **{"type": "pull-wake", "pattern": "events/*", "lease_ttl_ms": 1000, "wake_stream": "wakes", **fields})


async def events(service: Service) -> list[dict[str, Any]]:
    _, _, body = await service.ask("GET", "wakes")
    return list(body)


async def streams(service: Service) -> dict[str, str]:
    _, _, body = await service.ask("GET", "__ds/subscriptions/s")
    return {stream["path"]: stream["acked_offset"] for stream in body["streams"]}


async def claim(service: Service) -> dict[str, Any]:
    status, _, body = await service.ask("POST", "__ds/subscriptions/s/claim", {"worker": "w"})
    assert status == 200, body
    return dict(body)


async def finish(service: Service, wake: dict[str, Any], action: str = "callback", token: str = "callback_token") -> dict[str, Any]:
    acks = [{"stream": stream["path"], "offset": stream["tail_offset"]} for stream in wake["streams"]]
    body = {"wake_id": wake["wake_id"], "generation": wake["generation"], "acks": acks, "done": True}
    status, _, answer = await service.ask("POST", f"__ds/subscriptions/s/{action}", body, token=wake[token])
    assert status == 200, answer
    return dict(answer)


async def until(condition: Any, seconds: float = 5.0) -> None:
    for _ in range(int(seconds / 0.005)):
        if await condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError("it never came to that")


async def test_an_append_wakes_and_the_delivery_is_signed(service: Service, receiver: Receiver) -> None:
    await service.append("events/old")
    await hook(service, receiver)
    end = await service.append("events/a")
    delivery = await receiver.wait()
    body = delivery.body
    old = body["streams"].pop()
    assert body == {
        "subscription_id": "s",
        "wake_id": body["wake_id"],
        "generation": 1,
        "streams": [{"path": "events/a", "link_type": "glob", "acked_offset": "-1", "tail_offset": end, "has_pending": True}],
        "callback_url": "http://example.org/v1/stream/__ds/subscriptions/s/callback",
        "callback_token": body["callback_token"],
    }
    assert (old["path"], old["has_pending"], old["acked_offset"]) == ("events/old", False, old["tail_offset"])
    time, kid, signature = (part.partition("=")[2] for part in delivery.headers["webhook-signature"].split(","))
    _, _, keys = await service.ask("GET", "__ds/jwks.json")
    [key] = [key for key in keys["keys"] if key["kid"] == kid]
    public = Ed25519PublicKey.from_public_bytes(urlsafe_b64decode(key["x"] + "=="))
    public.verify(urlsafe_b64decode(signature + "=="), f"{time}.".encode() + delivery.raw)


async def test_a_receiver_that_is_done_at_once_acknowledges_what_it_was_told_of(service: Service, receiver: Receiver) -> None:
    receiver.answer = DONE
    await hook(service, receiver)
    end = await service.append("events/a")
    await receiver.wait()

    async def is_read() -> bool:
        return (await streams(service)).get("events/a") == end

    await until(is_read)
    assert len(receiver.deliveries) == 1
    later = await service.append("events/a")
    second = (await receiver.wait(2)).body
    assert (second["generation"], second["streams"][0]["acked_offset"], second["streams"][0]["tail_offset"]) == (2, end, later)


async def test_a_callback_ends_the_wake_and_tells_of_the_next(service: Service, receiver: Receiver) -> None:
    await hook(service, receiver)
    await service.append("events/a")
    first = (await receiver.wait()).body
    await service.append("events/a")
    assert await finish(service, first) == {"ok": True, "next_wake": True}
    second = (await receiver.wait(2)).body
    assert second["generation"] == 2
    assert await finish(service, second) == {"ok": True, "next_wake": False}
    status, _, refused = await service.ask(
        "POST", "__ds/subscriptions/s/callback", {"wake_id": first["wake_id"], "generation": 1}, token=first["callback_token"]
    )
    assert (status, refused["error"]["code"]) == (409, "FENCED")


async def test_what_is_refused_is_tried_again_under_its_generation(plain: Service, receiver: Receiver) -> None:
    receiver.answer = FAILED
    await hook(plain, receiver)
    await plain.append("events/a")
    deliveries = [(await receiver.wait(number)).body for number in (1, 2, 3)]
    assert {(body["wake_id"], body["generation"]) for body in deliveries} == {(deliveries[0]["wake_id"], 1)}
    assert (await plain.ask("GET", "__ds/subscriptions/s"))[2]["status"] == "failed"
    receiver.answer = build_answer("204 No Content", b"")
    await receiver.wait(len(receiver.deliveries) + 1)

    async def is_well() -> bool:
        return bool((await plain.ask("GET", "__ds/subscriptions/s"))[2]["status"] == "active")

    await until(is_well)


async def test_a_delivery_in_doubt_is_followed_by_another_generation(plain: Service, receiver: Receiver) -> None:
    receiver.answer = b""
    await hook(plain, receiver)
    await plain.append("events/a")
    assert [(await receiver.wait(number)).body["generation"] for number in (1, 2)] == [1, 2]
    receiver.answer = build_answer("200 OK")
    newest = (await receiver.wait(len(receiver.deliveries) + 1)).body
    stale = receiver.deliveries[0].body
    status, _, refused = await plain.ask(
        "POST", "__ds/subscriptions/s/callback", {"wake_id": stale["wake_id"], "generation": 1}, token=stale["callback_token"]
    )
    assert (status, refused["error"]["code"]) == (409, "FENCED")
    assert await finish(plain, newest) == {"ok": True, "next_wake": False}


async def test_a_lease_that_runs_out_makes_a_new_generation(plain: Service, receiver: Receiver) -> None:
    await hook(plain, receiver)
    await plain.append("events/a")
    await receiver.wait()
    assert (await receiver.wait(2)).body["generation"] == 2


async def test_a_stream_made_anew_wakes_again_however_short_it_is(service: Service, receiver: Receiver) -> None:
    receiver.answer = DONE
    await hook(service, receiver, streams=["named"])
    for path in ("events/a", "named"):
        before = len(receiver.deliveries)
        end = await service.append(path, "a long message that is read to its end")
        await receiver.wait(before + 1)

        async def is_read(path: str = path, end: str = end) -> bool:
            return (await streams(service)).get(path) == end

        await until(is_read)
        assert (await service.ask("DELETE", path))[0] == 204
        short = await service.append(path, 1)
        assert short < end
        again = (await receiver.wait(before + 2)).body
        [stream] = [stream for stream in again["streams"] if stream["path"] == path]
        assert (stream["acked_offset"], stream["tail_offset"], stream["has_pending"]) == ("-1", short, True)
        await until(lambda path=path, end=short: is_read(path, end))


async def test_a_deleted_stream_is_forgotten_unless_it_was_named(plain: Service, receiver: Receiver) -> None:
    receiver.answer = DONE
    await hook(plain, receiver, streams=["named"])
    for path in ("events/a", "named"):
        await plain.append(path)

    async def are_read() -> bool:
        return "-1" not in (known := await streams(plain)).values() and len(known) == 2

    await until(are_read)
    for path in ("events/a", "named"):
        await plain.ask("DELETE", path)

    async def is_forgotten() -> bool:
        return list(await streams(plain)) == ["named"]

    await until(is_forgotten)


async def test_one_slow_receiver_holds_up_only_itself(plain: Service, receiver: Receiver) -> None:
    slow = Receiver(answer=None)
    server = await asyncio.start_server(slow.serve, "127.0.0.1", 0)
    slow.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    await plain.subscribe("slow", type="webhook", pattern="events/*", webhook={"url": slow.url})
    await hook(plain, receiver)
    receiver.answer = DONE
    await plain.append("events/a")
    await slow.wait()
    for number in range(1, 4):
        await receiver.wait(number)
        await plain.append(f"events/{number}")
    status, _, _ = await plain.ask("DELETE", "__ds/subscriptions/slow")
    assert (status, len(slow.deliveries)) == (204, 1)
    server.close()
    await asyncio.sleep(0.01)  # a connection may have been accepted in this very turn
    slow.close()
    await asyncio.sleep(0)


async def test_a_pull_wake_writes_one_event_and_repeats_it_if_nobody_claims(plain: Service) -> None:
    await pull(plain)
    await plain.append("events/a")
    await plain.append("events/a")

    async def is_told(number: int = 1) -> bool:
        return len(await events(plain)) >= number

    await until(is_told)
    [event] = await events(plain)
    assert event == {"type": "wake", "subscription_id": "s", "stream": "events/a", "generation": 1, "ts": event["ts"]}
    await until(lambda: is_told(2))
    assert [event["generation"] for event in await events(plain)] == [1, 1]
    wake = await claim(plain)
    assert wake["generation"] == 1
    assert await finish(plain, wake, "ack", "token") == {"ok": True, "next_wake": False}


async def test_a_wake_stream_that_comes_late_is_told(plain: Service) -> None:
    await plain.subscribe("s", type="pull-wake", pattern="events/*", wake_stream="wakes", lease_ttl_ms=600_000)
    await plain.append("events/a")
    await asyncio.sleep(0.05)
    await plain.ask("PUT", "wakes")

    async def is_told() -> bool:
        return len(await events(plain)) == 1

    await until(is_told)


async def test_a_claimed_lease_runs_out(plain: Service) -> None:
    await pull(plain)
    await plain.append("events/a")
    stale = await claim(plain)

    async def is_free() -> bool:
        return len(await events(plain)) == 2

    await until(is_free)
    fresh = await claim(plain)
    assert (stale["generation"], fresh["generation"]) == (1, 2)
    body = {"wake_id": stale["wake_id"], "generation": 1, "acks": []}
    status, _, refused = await plain.ask("POST", "__ds/subscriptions/s/ack", body, token=stale["token"])
    assert (status, refused["error"]["code"]) == (409, "FENCED")


async def test_subscriptions_to_each_other_do_not_run_wild(plain: Service) -> None:
    for name, other in (("one", "two"), ("two", "one")):
        await plain.ask("PUT", f"wake/{name}")
        await plain.subscribe(name, type="pull-wake", pattern="**", wake_stream=f"wake/{name}", description=other)
    await plain.append("events/a")
    await asyncio.sleep(0.1)
    assert [len((await plain.ask("GET", f"wake/{name}"))[2]) for name in ("one", "two")] == [1, 1]


async def test_a_restart_finds_what_was_left(open_durable: OpenService, receiver: Receiver) -> None:
    receiver.answer = None
    service = await open_durable()
    await hook(service, receiver)
    await service.append("events/a")
    first = (await receiver.wait()).body
    await service.aclose()
    receiver.answer = build_answer("200 OK")
    service = await open_durable()
    second = (await receiver.wait(2)).body
    assert (first["generation"], second["generation"]) == (1, 2)
    assert await finish(service, second) == {"ok": True, "next_wake": False}


async def test_a_lease_outlives_a_restart(open_durable: OpenService) -> None:
    service = await open_durable()
    await pull(service, lease_ttl_ms=60_000)
    end = await service.append("events/a")
    wake = await claim(service)
    await service.aclose()
    service = await open_durable()
    status, _, busy = await service.ask("POST", "__ds/subscriptions/s/claim", {"worker": "w"})
    assert (status, busy["error"]["generation"]) == (409, 1)
    assert await finish(service, wake, "ack", "token") == {"ok": True, "next_wake": False}
    assert await streams(service) == {"events/a": end}


async def test_a_full_disk_loses_no_wake(service: Service, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    receiver.answer = DONE
    await hook(service, receiver)
    transact, full = service.engine.transact, True

    async def refuse(paths: Any, *rest: Any, **named: Any) -> Any:
        if full and any(path.startswith(FOLDER) for path in paths):
            raise StorageFullError("no space")
        return await transact(paths, *rest, **named)

    monkeypatch.setattr(service.engine, "transact", refuse)
    with caplog.at_level(logging.WARNING):
        end = await service.append("events/a")
        await asyncio.sleep(0.1)
    assert receiver.deliveries == []
    assert "can't be stored" in caplog.text
    full = False
    await receiver.wait()

    async def is_read() -> bool:
        return (await streams(service)).get("events/a") == end

    await until(is_read)


async def test_many_streams_wake_in_portions(service: Service, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (machine, wakes):
        monkeypatch.setattr(module, "MAX_WAKE_STREAMS", 10)
    await hook(service, receiver)
    receiver.answer = DONE
    for number in range(25):
        await service.append(f"events/{number}")

    async def are_read() -> bool:
        known = await streams(service)
        return len(known) == 25 and "-1" not in known.values()

    await until(are_read)
    assert max(sum(stream["has_pending"] for stream in delivery.body["streams"]) for delivery in receiver.deliveries) <= 10


async def test_without_subscriptions_a_commit_costs_one_check() -> None:
    engine = MemoryEngine()
    app = create_app(engine, webhook_targets=TargetPolicy(allow_http=True))
    looked: list[str] = []
    index = app._wakes.index
    index.find = lambda path: looked.append(path) or ()  # type: ignore[method-assign, func-returns-value, assignment]
    service = Service(engine, app)
    await service.append("events/a")
    assert looked == []
    await service.aclose()


def test_the_index_knows_whom_a_path_concerns() -> None:
    def enter(name: str, pattern: str | None, *paths: str) -> Entry:
        config = machine.Config(machine.Kind.PULL_WAKE, pattern, paths, None, f"wake/{name}", 1000, None)
        entry = Entry(Kept(machine.Subscription(name, "", "", "", config, {}), None, 0))
        index.add(entry)
        return entry

    index = SubscriptionIndex()
    assert not index
    one, two = enter("one", "a/*"), enter("two", "a/*", "b")
    assert set(index.find("a/x")) == {one, two}
    assert index.find("b") == (two,)
    assert index.find("wake/one") == (one,)
    assert index.find("c") == ()
    two.kept.sub = replace(two.sub, links={"c": machine.Link(None, explicit=True)})
    index.add(two)
    assert index.find("c") == (two,)
    index.remove(two)
    assert (index.find("a/x"), index.find("b"), index.find("c")) == ((one,), (), ())
    index.remove(one)
    assert not index


async def test_a_damaged_one_is_set_aside_and_the_others_work(open_durable: OpenService, caplog: pytest.LogCaptureFixture) -> None:
    first = await open_durable()
    for name in ("good", "bad", "worse"):
        await first.subscribe(name, type="pull-wake", pattern="events/*", wake_stream=f"wakes/{name}")
    for name in ("bad", "worse"):
        path = FOLDER + name
        state = (await first.engine.read(path, None, 0)).state
        assert state is not None
        change = Change(append_record(state, b"nonsense"), b"nonsense")
        await first.engine.transact((path,), lambda views, change=change: Decision(None, (change,)))  # type: ignore[misc]
    await first.aclose()

    caplog.set_level(logging.ERROR)
    again = await open_durable()
    await again.append("events/a")
    assert (await again.ask("POST", "__ds/subscriptions/good/claim", {"worker": "w"}))[0] == 200
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "'bad' is damaged: JSONDecodeError" in said[0]
    for method, action, body in (("GET", "", None), ("POST", "/claim", {"worker": "w"}), ("POST", "/streams", {"streams": ["a"]})):
        status, _, answer = await again.ask(method, f"__ds/subscriptions/bad{action}", body)
        assert (status, answer["error"]["code"]) == (409, "SUBSCRIPTION_DAMAGED")

    assert (await again.ask("DELETE", "__ds/subscriptions/bad"))[0] == 204
    assert (await again.ask("GET", "__ds/subscriptions/bad"))[2]["error"]["code"] == "SUBSCRIPTION_NOT_FOUND"
    made = await again.subscribe("worse", type="pull-wake", pattern="events/*", wake_stream="wakes/worse")
    await again.append("events/b")
    _, _, claimed = await again.ask("POST", "__ds/subscriptions/worse/claim", {"worker": "w"})
    assert [stream["path"] for stream in claimed["streams"] if stream["has_pending"]] == ["events/b"]  # of events/a it begins at the tail
    await again.aclose()

    caplog.clear()
    third = await open_durable()
    assert (await third.ask("GET", "__ds/subscriptions/bad"))[0] == 404
    assert (await third.ask("GET", "__ds/subscriptions/worse"))[2]["created_at"] == made["created_at"]
    assert caplog.records == []
