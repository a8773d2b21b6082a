"""Subscriptions over HTTP: what is answered, and whatever strangers send."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ds_sync.protocol.retention import decide_trim
from ds_sync.server.app import create_app
from ds_sync.server.engines.memory import MemoryEngine
from ds_sync.server.subscriptions import operations as subscriptions
from ds_sync.server.subscriptions import views as subscription_views
from tests.server.conftest import Service

pytestmark = pytest.mark.anyio

PULL = {"type": "pull-wake", "pattern": "events/*", "wake_stream": "wakes"}
HOOK = {"type": "webhook", "pattern": "events/*", "webhook": {"url": "http://127.0.0.1:9/hook"}}
START = "0000000000000000_0000000000000000"


async def code(service: Service, method: str, path: str, body: object = None, **options: Any) -> tuple[int, str]:
    status, headers, answer = await service.ask(method, f"__ds/{path}", body, **options)
    assert headers["content-type"] == "application/json"
    return status, answer["error"]["code"]


async def test_a_subscription_is_made_once_and_says_what_it_is(service: Service) -> None:
    before = await service.append("events/before")
    made = await service.subscribe("s", **PULL, streams=["/named/a/"], lease_ttl_ms=5000, description="why")
    assert made == {
        "id": "s",
        "subscription_id": "s",
        "type": "pull-wake",
        "pattern": "events/*",
        "wake_stream": "wakes",
        "description": "why",
        "lease_ttl_ms": 5000,
        "created_at": made["created_at"],
        "status": "active",
        "streams": [
            {"path": "events/before", "link_type": "glob", "acked_offset": before},
            {"path": "named/a", "link_type": "explicit", "acked_offset": "-1"},
        ],
    }
    assert made["created_at"].startswith("20")
    status, headers, again = await service.ask("GET", "__ds/subscriptions/s")
    assert (status, again, headers["cache-control"]) == (200, made, "no-store")
    same = {**PULL, "streams": ["named/a", "named/a"], "lease_ttl_ms": 5000, "description": "why"}
    assert (await service.ask("PUT", "__ds/subscriptions/s", same))[0] == 200
    assert await code(service, "PUT", "subscriptions/s", {**same, "lease_ttl_ms": 5001}) == (409, "SUBSCRIPTION_ALREADY_EXISTS")
    assert await code(service, "PUT", "subscriptions/s", HOOK) == (409, "SUBSCRIPTION_ALREADY_EXISTS")


async def test_a_webhook_says_how_it_is_signed(service: Service) -> None:
    made = await service.subscribe("s", **HOOK)
    signing = made["webhook"].pop("signing")
    assert made["webhook"] == HOOK["webhook"]
    assert (signing["alg"], signing["jwks_url"]) == ("ed25519", "http://example.org/v1/stream/__ds/jwks.json")
    status, headers, keys = await service.ask("GET", "__ds/jwks.json")
    assert (status, headers["content-type"], headers["cache-control"]) == (200, "application/jwk-set+json", "public, max-age=300")
    assert [key["kid"] for key in keys["keys"]] == [signing["kid"]]


async def test_addresses_may_be_named_by_the_operator() -> None:
    engine = MemoryEngine()
    service = Service(engine, create_app(engine, public_url="https://sync.example/"))
    url = {"url": "https://93.184.215.14/"}
    made = await service.subscribe("s", type="webhook", pattern="*", webhook=url)
    assert made["webhook"]["signing"]["jwks_url"] == "https://sync.example/v1/stream/__ds/jwks.json"
    assert await code(service, "PUT", "subscriptions/t", HOOK) == (400, "WEBHOOK_URL_REJECTED")
    await service.aclose()


async def test_what_is_deleted_is_gone(service: Service) -> None:
    await service.subscribe("s", **PULL)
    for _ in range(2):
        assert (await service.ask("DELETE", "__ds/subscriptions/s"))[0] == 204
    for method, path in (("GET", ""), ("POST", "/claim"), ("POST", "/streams"), ("DELETE", "/streams/a")):
        body = {"worker": "w", "streams": ["a"]} if method == "POST" else None
        assert await code(service, method, f"subscriptions/s{path}", body) == (404, "SUBSCRIPTION_NOT_FOUND")
    assert (await service.subscribe("s", **HOOK))["type"] == "webhook"


async def test_streams_come_and_go(service: Service) -> None:
    await service.subscribe("s", type="pull-wake", streams=["a"], wake_stream="wakes")
    for bad in ({"streams": ["b", "wakes"]}, {"streams": "b"}, {}, {"streams": ["b"] * 1001}):
        assert await code(service, "POST", "subscriptions/s/streams", bad) == (400, "INVALID_REQUEST")
    assert (await service.ask("POST", "__ds/subscriptions/s/streams", {"streams": ["deep/b", "c"]}))[0] == 204
    assert (await service.ask("DELETE", "__ds/subscriptions/s/streams/deep%2Fb"))[0] == 204
    assert (await service.ask("DELETE", "__ds/subscriptions/s/streams/not/there"))[0] == 204
    _, _, found = await service.ask("GET", "__ds/subscriptions/s")
    assert [stream["path"] for stream in found["streams"]] == ["a", "c"]
    await service.append("deep/b")
    assert await code(service, "POST", "subscriptions/s/claim", {"worker": "w"}) == (409, "NO_PENDING_WORK")
    await service.append("c")
    assert (await service.ask("POST", "__ds/subscriptions/s/claim", {"worker": "w"}))[0] == 200


async def test_there_are_bounds(plain: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "MAX_SUBSCRIPTIONS", 1)
    monkeypatch.setattr(subscriptions, "MAX_NAMED", 2)
    monkeypatch.setattr(subscription_views, "MAX_LISTED", 1)
    await plain.subscribe("s", type="pull-wake", streams=["a"], wake_stream="wakes")
    assert await code(plain, "PUT", "subscriptions/t", PULL) == (429, "TOO_MANY_SUBSCRIPTIONS")
    assert await code(plain, "POST", "subscriptions/s/streams", {"streams": ["b", "c"]}) == (400, "TOO_MANY_STREAMS")
    assert (await plain.ask("POST", "__ds/subscriptions/s/streams", {"streams": ["a", "b"]}))[0] == 204
    _, _, found = await plain.ask("GET", "__ds/subscriptions/s")
    assert ([stream["path"] for stream in found["streams"]], found["streams_omitted"]) == (["a"], 1)


async def test_claim_acknowledge_done_release(service: Service) -> None:
    await service.subscribe("s", **PULL)
    end = await service.append("events/a")
    status, _, claim = await service.ask("POST", "__ds/subscriptions/s/claim", {"worker": "one"})
    assert status == 200
    assert claim["streams"] == [{"path": "events/a", "link_type": "glob", "acked_offset": "-1", "tail_offset": end, "has_pending": True}]
    assert (claim["generation"], claim["lease_ttl_ms"]) == (1, 30_000)
    status, _, busy = await service.ask("POST", "__ds/subscriptions/s/claim", {"worker": "two"})
    assert (status, busy["error"]["code"], busy["error"]["current_holder"], busy["error"]["generation"]) == (
        409,
        "ALREADY_CLAIMED",
        "one",
        1,
    )
    wake = {"wake_id": claim["wake_id"], "generation": 1}
    for action in ("ack", "callback", "release"):
        assert await code(service, "POST", f"subscriptions/s/{action}", wake) == (401, "TOKEN_INVALID")
        assert await code(service, "POST", f"subscriptions/s/{action}", wake, token=claim["token"] + "x") == (401, "TOKEN_INVALID")
        stale = {**wake, "generation": 0}
        assert await code(service, "POST", f"subscriptions/s/{action}", stale, token=claim["token"]) == (409, "FENCED")
    later = await service.append("events/a")
    ack = {**wake, "acks": [{"stream": "events/a", "offset": end}], "done": True}
    status, _, done = await service.ask("POST", "__ds/subscriptions/s/ack", ack, token=claim["token"])
    assert (status, done) == (200, {"ok": True, "next_wake": True})
    assert await code(service, "POST", "subscriptions/s/ack", ack, token=claim["token"]) == (409, "FENCED")
    _, _, claim = await service.ask("POST", "__ds/subscriptions/s/claim", {"worker": "two"})
    assert (claim["generation"], claim["streams"][0]["acked_offset"], claim["streams"][0]["tail_offset"]) == (2, end, later)
    wake = {"wake_id": claim["wake_id"], "generation": 2}
    status, _, body = await service.ask("POST", "__ds/subscriptions/s/release", wake, token=claim["token"])
    assert (status, body) == (204, b"")
    _, _, claim = await service.ask("POST", "__ds/subscriptions/s/claim", {"worker": "two"})
    wake = {"wake_id": claim["wake_id"], "generation": 3}
    ack = {**wake, "acks": [{"path": "events/a", "offset": later}], "done": True}
    assert (await service.ask("POST", "__ds/subscriptions/s/ack", ack, token=claim["token"]))[2] == {"ok": True, "next_wake": False}
    assert await code(service, "POST", "subscriptions/s/claim", {"worker": "w"}) == (409, "NO_PENDING_WORK")


async def test_an_offset_must_be_a_place_that_was_given_out(service: Service) -> None:
    await service.subscribe("s", **PULL)
    end, other = await service.append("events/a"), await service.append("other")
    _, _, claim = await service.ask("POST", "__ds/subscriptions/s/claim", {"worker": "w"})
    wake = {"wake_id": claim["wake_id"], "generation": 1}
    beyond = "9999999999999999_9999999999999999"
    for path, offset in (("events/a", "-1"), ("events/a", "now"), ("events/a", beyond), ("events/b", START), ("other", other)):
        ack = {**wake, "acks": [{"stream": "events/a", "offset": end}, {"stream": path, "offset": offset}]}
        assert await code(service, "POST", "subscriptions/s/ack", ack, token=claim["token"]) == (409, "INVALID_OFFSET")
    _, _, found = await service.ask("GET", "__ds/subscriptions/s")
    assert found["streams"][0]["acked_offset"] == "-1", "one bad acknowledgement refuses all"


async def test_what_retention_dropped_meanwhile_can_be_acknowledged(service: Service) -> None:
    await service.subscribe("s", **PULL)
    end = await service.append("events/a")
    _, _, claim = await service.ask("POST", "__ds/subscriptions/s/claim", {"worker": "w"})
    await service.append("events/a")
    state = (await service.engine.read("events/a", None, 0)).state
    assert state is not None
    incarnation, place = state.incarnation, state.place
    assert await service.engine.transact(("events/a",), lambda views: decide_trim(views[0], incarnation, place, 0.0))
    ack = {"wake_id": claim["wake_id"], "generation": 1, "acks": [{"stream": "events/a", "offset": end}], "done": True}
    assert (await service.ask("POST", "__ds/subscriptions/s/ack", ack, token=claim["token"]))[2] == {"ok": True, "next_wake": True}
    _, _, claim = await service.ask("POST", "__ds/subscriptions/s/claim", {"worker": "w"})
    assert claim["streams"][0]["acked_offset"] == end


@pytest.mark.parametrize("path", ["events/a/", "/events/a"])
async def test_a_stream_with_a_slash_at_its_ends_is_acknowledged(service: Service, path: str) -> None:
    await service.subscribe("s", **{**PULL, "pattern": "**"})
    end = await service.append(path)
    _, _, claim = await service.ask("POST", "__ds/subscriptions/s/claim", {"worker": "w"})
    assert [stream["path"] for stream in claim["streams"] if stream["has_pending"]] == [path]
    ack = {"wake_id": claim["wake_id"], "generation": 1, "acks": [{"stream": path, "offset": end}], "done": True}
    assert (await service.ask("POST", "__ds/subscriptions/s/ack", ack, token=claim["token"]))[2] == {"ok": True, "next_wake": False}


async def test_each_kind_has_its_own_way(service: Service) -> None:
    await service.subscribe("s", **HOOK)
    assert await code(service, "POST", "subscriptions/s/claim", {"worker": "w"}) == (400, "INVALID_REQUEST")
    wake = {"wake_id": "w", "generation": 1}
    for action in ("ack", "release"):
        assert await code(service, "POST", f"subscriptions/s/{action}", wake, token="x") == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("subscriptions/s", "POST", "PUT, GET, DELETE"),
        ("subscriptions/s", "HEAD", "PUT, GET, DELETE"),
        ("subscriptions/s", "PATCH", "PUT, GET, DELETE"),
        ("subscriptions/s/claim", "GET", "POST"),
        ("subscriptions/s/streams", "DELETE", "POST"),
        ("subscriptions/s/streams/a", "PUT", "DELETE"),
        ("jwks.json", "POST", "GET"),
    ],
)
async def test_other_methods(plain: Service, path: str, method: str, allowed: str) -> None:
    status, headers, _ = await plain.ask(method, f"__ds/{path}")
    assert (status, headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", (404, "NOT_FOUND")),
        ("subscriptions", (404, "NOT_FOUND")),
        ("subscriptions/", (404, "NOT_FOUND")),
        ("subscriptions/a/b", (404, "NOT_FOUND")),
        ("subscriptions/a/claim/b", (404, "NOT_FOUND")),
        ("secrets", (404, "NOT_FOUND")),
        ("%1Fsecrets", (400, "INVALID_PATH")),
        ("subscriptions/" + "a" * 257, (400, "INVALID_REQUEST")),
        ("subscriptions/%FF", (400, "INVALID_PATH")),
        ("../%1Fsecrets", (400, "INVALID_PATH")),
    ],
)
async def test_what_is_not_there(plain: Service, path: str, expected: tuple[int, str]) -> None:
    for method in ("GET", "PUT", "POST", "DELETE"):
        assert await code(plain, method, path) == expected


async def test_the_servers_own_streams_have_no_address(service: Service) -> None:
    await service.subscribe("s", **PULL)
    await service.subscribe("all", type="pull-wake", pattern="**", wake_stream="wakes")
    for path in ("%1Fsecrets", "%1Fsubscriptions/s", "%1fsecrets"):
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            assert (await service.ask(method, path))[0] == 400
        status, _, _ = await service.ask("PUT", "copy", **{"stream-forked-from": f"/v1/stream/{path}"})
        assert status in (400, 404)
        status, _, _ = await service.ask(
            "PUT", "copy", **{"stream-forked-from": "/v1/stream/" + path.replace("%1F", "\x1f").replace("%1f", "\x1f")}
        )
        assert status in (400, 404)
    assert (await service.ask("PUT", "__ds"))[0] == 404
    assert (await service.ask("PUT", "__ds%2Fsecrets"))[0] == 404
    assert await service.engine.list("**") == []
    _, _, found = await service.ask("GET", "__ds/subscriptions/all")
    assert found["streams"] == []


async def test_names_may_be_anything_printable(service: Service) -> None:
    for name in ("a%2Fb", "%C3%BC", "a%20b", "streams", "%2E%2Ex"):
        assert (await service.ask("PUT", f"__ds/subscriptions/{name}", PULL))[0] == 201
        assert (await service.ask("GET", f"__ds/subscriptions/{name}"))[0] == 200


BAD_CONFIGS: list[object] = [
    b"",
    b"{",
    b"[]",
    b'"x"',
    b"\xff",
    b'{"type": NaN}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"1" * 10_000,
    {},
    {**PULL, "type": "email"},
    {**PULL, "type": ["webhook"]},
    {"type": "pull-wake", "wake_stream": "w"},
    {"type": "pull-wake", "wake_stream": "w", "streams": []},
    {"type": "pull-wake", "pattern": "*"},
    {"type": "webhook", "pattern": "*"},
    {"type": "webhook", "pattern": "*", "webhook": "http://127.0.0.1/"},
    {"type": "webhook", "pattern": "*", "webhook": {"url": 7}},
    {**PULL, "pattern": 7},
    {**PULL, "pattern": "a" * 3000},
    {**PULL, "pattern": "\ud800"},
    {**PULL, "pattern": "a\x1f*"},
    {**PULL, "pattern": "__ds/*"},
    {**PULL, "pattern": "a/../b"},
    {**PULL, "pattern": "/"},
    {**PULL, "streams": "a"},
    {**PULL, "streams": [7]},
    {**PULL, "streams": [""]},
    {**PULL, "streams": ["a"] * 1001},
    {**PULL, "streams": ["wakes"]},
    {**PULL, "wake_stream": "docs/a/.updates"},
    {**PULL, "wake_stream": "__ds/x"},
    {**PULL, "lease_ttl_ms": 999},
    {**PULL, "lease_ttl_ms": 600_001},
    {**PULL, "lease_ttl_ms": 5000.0},
    {**PULL, "lease_ttl_ms": "5000"},
    {**PULL, "lease_ttl_ms": True},
    {**PULL, "lease_ttl_ms": None},
    {**PULL, "description": 7},
    {**PULL, "description": "x" * 1025},
    {**PULL, "description": "\udfff"},
]


@pytest.mark.parametrize("body", BAD_CONFIGS, ids=range(len(BAD_CONFIGS)))
async def test_a_bad_configuration_is_refused(plain: Service, body: object) -> None:
    status, error = await code(plain, "PUT", "subscriptions/s", body)
    assert status == 400
    assert error in ("INVALID_REQUEST", "INVALID_JSON")
    assert await code(plain, "GET", "subscriptions/s") == (404, "SUBSCRIPTION_NOT_FOUND")


BAD_LEASES: list[object] = [
    b"[",
    {"generation": 1},
    {"wake_id": "w"},
    {"wake_id": 7, "generation": 1},
    {"wake_id": "w", "generation": True},
    {"wake_id": "w", "generation": 1.0},
    {"wake_id": "w", "generation": -1},
    {"wake_id": "w", "generation": 2**53},
    {"wake_id": "w", "generation": 1, "done": "yes"},
    {"wake_id": "w", "generation": 1, "acks": {}},
    {"wake_id": "w", "generation": 1, "acks": [7]},
    {"wake_id": "w", "generation": 1, "acks": [{}]},
    {"wake_id": "w", "generation": 1, "acks": [{"stream": "a"}]},
    {"wake_id": "w", "generation": 1, "acks": [{"stream": "a", "offset": 7}]},
    {"wake_id": "w", "generation": 1, "acks": [{"stream": "a", "offset": "0"}] * 1001},
]


@pytest.mark.parametrize("body", BAD_LEASES, ids=range(len(BAD_LEASES)))
async def test_a_bad_lease_request_is_refused(plain: Service, body: object) -> None:
    await plain.subscribe("s", **PULL)
    for action in ("ack", "callback", "release"):
        assert (await code(plain, "POST", f"subscriptions/s/{action}", body, token="1.x"))[0] == 400
    assert (await code(plain, "POST", "subscriptions/s/claim", body))[0] == 400


async def test_a_large_body_is_refused(plain: Service) -> None:
    assert await code(plain, "PUT", "subscriptions/s", b" " * 300_000) == (413, "PAYLOAD_TOO_LARGE")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["webhook", "pull-wake", "a/*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    (
        "type",
        "pattern",
        "streams",
        "webhook",
        "wake_stream",
        "lease_ttl_ms",
        "description",
        "worker",
        "wake_id",
        "generation",
        "acks",
        "done",
    )
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(("", "/streams", "/streams/a", "/callback", "/claim", "/ack", "/release")),
    st.sampled_from(("PUT", "POST", "DELETE", "GET")),
    st.dictionaries(KEYS, JSON, max_size=8),
)
def test_whatever_is_sent_is_answered(path: str, method: str, fields: dict[str, object]) -> None:
    async def send() -> None:
        engine = MemoryEngine()
        service = Service(engine, create_app(engine))
        await service.subscribe("s", **PULL)
        status, _, _ = await service.ask(method, f"__ds/subscriptions/s{path}", json.dumps(fields).encode(), token="1.x")
        await service.aclose()
        assert status < 500

    asyncio.run(send())
