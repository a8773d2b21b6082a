"""The adapter on our own server, line by line."""

import json
import random
from collections.abc import Iterator

import pytest

from ds_sync.testing.client_adapter.cases import Do, do, run_case
from ds_sync.testing.client_adapter.commands import FEATURES
from ds_sync.testing.client_adapter.dialogues import DIALOGUES
from ds_sync.testing.client_adapter.driver import AdapterProcess
from ds_sync.testing.client_adapter.proxy import FaultyProxy
from ds_sync.testing.server_process import ServerProcess


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(long_poll_timeout=0.5) as process:
        yield process


@pytest.fixture(scope="module")
def proxy(server: ServerProcess) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.url) as faulty:
        yield faulty


@pytest.fixture(scope="module")
def adapter() -> Iterator[AdapterProcess]:
    with AdapterProcess() as process:
        yield process


@pytest.mark.parametrize("name", DIALOGUES)
def test_dialogues(name: str, adapter: AdapterProcess, proxy: FaultyProxy, server: ServerProcess) -> None:
    run_case(DIALOGUES[name], adapter, proxy, server.url, "/v1/stream")


def test_it_says_what_it_can(adapter: AdapterProcess, server: ServerProcess) -> None:
    answer = adapter.ask("init", serverUrl=server.url)
    assert (answer["type"], answer["success"], answer["clientName"]) == ("init", True, "ds-sync")
    assert answer["features"] == dict.fromkeys(FEATURES, True)
    assert len(FEATURES) == 9


@pytest.mark.parametrize("live", ["sse", "long-poll"])
def test_what_is_named_goes_live_at_once(live: str, adapter: AdapterProcess, proxy: FaultyProxy, server: ServerProcess) -> None:
    run_case(DIALOGUES["connected"], adapter, proxy, server.url, "/v1/stream")
    proxy.seen.clear()
    path = "/v1/stream/live-at-once"
    adapter.ask("create", path=path, contentType="text/plain", data="x")
    assert adapter.ask("read", path=path, live=live, maxChunks=1)["success"]
    assert [f"live={live}" in asked for method, asked, _ in proxy.seen if method == "GET"] == [True]


def test_dynamic_values_reach_the_server(adapter: AdapterProcess, proxy: FaultyProxy, server: ServerProcess) -> None:
    run_case(DIALOGUES["dynamic"], adapter, proxy, server.url, "/v1/stream")
    counts = [(method, headers.get("x-count"), "n=" in path) for method, path, headers in proxy.seen if method != "HEAD"]
    assert counts == [("PUT", None, False), ("POST", "1", True), ("GET", "2", True), ("GET", None, False)]


def test_headers_of_a_command_go_along(adapter: AdapterProcess, proxy: FaultyProxy, server: ServerProcess) -> None:
    run_case(
        [do("create", headers={"X-Request-Id": "r1"}), do("head", headers={"X-Request-Id": "r2"})], adapter, proxy, server.url, "/v1/stream"
    )
    assert [headers["x-request-id"] for _, _, headers in proxy.seen] == ["r1", "r2"]


def test_a_plain_append_names_no_producer_and_a_producers_says_its_number(
    adapter: AdapterProcess, proxy: FaultyProxy, server: ServerProcess
) -> None:
    run_case(DIALOGUES["numbers-go-on"], adapter, proxy, server.url, "/v1/stream")
    adapter.ask("create", path="/v1/stream/plain-append")
    adapter.ask("append", path="/v1/stream/plain-append", data="x")
    posts = [headers for method, _, headers in proxy.seen if method == "POST"]
    assert [(headers.get("producer-epoch"), headers.get("producer-seq")) for headers in posts] == [("0", "0"), ("0", "1"), (None, None)]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{not json", "NOT_SUPPORTED"),
        (b"[]", "NOT_SUPPORTED"),
        (b'{"type":7}', "NOT_SUPPORTED"),
        (b'{"type":"benchmark"}', "NOT_SUPPORTED"),
        (b"\xff\xfe", "NOT_SUPPORTED"),
        (b"[" * 100_000, "NOT_SUPPORTED"),
        (b'{"type":"append","path":"/v1/stream/x"}', "INVALID_ARGUMENT"),
        (b'{"type":"append","path":"/v1/stream/x","data":"*","binary":true}', "INVALID_ARGUMENT"),
        (b'{"type":"read","path":7}', "INVALID_ARGUMENT"),
        (b'{"type":"read","path":"/v1/stream/x","timeoutMs":"soon"}', "INVALID_ARGUMENT"),
        (b'{"type":"validate","target":{"target":"weather"}}', "NOT_SUPPORTED"),
        (b'{"type":"idempotent-append","path":"/v1/stream/x","data":"d","producerId":"p\\u00e9"}', "INVALID_ARGUMENT"),
    ],
)
def test_a_strange_line_is_answered_and_the_next_one_too(line: bytes, code: str, adapter: AdapterProcess, server: ServerProcess) -> None:
    adapter.ask("init", serverUrl=server.url)
    adapter.send_line(line)
    answer = adapter.receive()
    assert (answer["type"], answer["success"], answer["errorCode"]) == ("error", False, code)
    assert adapter.ask("clear-dynamic") == {"type": "clear-dynamic", "success": True}


def test_whatever_is_asked_one_line_is_answered(adapter: AdapterProcess, server: ServerProcess) -> None:
    adapter.ask("init", serverUrl=server.url)
    draw = random.Random(7)
    kinds = sorted({step.kind for steps in DIALOGUES.values() for step in steps if isinstance(step, Do)} - {"init", "shutdown"})
    values = [
        "",
        "x",
        "/v1/stream/odd",
        "\ud800",
        "\r\n",
        0,
        -1,
        2**70,
        1.5,
        None,
        True,
        [],
        ["a"],
        {},
        {"x": "\n"},
        "now",
        "sse",
        "long-poll",
    ]
    names = sorted({name for steps in DIALOGUES.values() for step in steps if isinstance(step, Do) for name in step.fields})
    adapter.ask("create", path="/v1/stream/odd")
    for number in range(300):
        kind = draw.choice(kinds)
        fields = {name: draw.choice(values) for name in draw.sample(names, 4)}
        path = draw.choice(["/v1/stream/odd"] * 8 + values)
        adapter.send(kind, **{"producerId": f"p{number}", "data": "x", **fields, "path": path, "timeoutMs": 1, "headers": {}})
        answer = adapter.receive()
        assert answer["type"] == (kind if answer["success"] else "error"), answer
        assert answer["success"] or answer["errorCode"] != "INTERNAL_ERROR", (kind, fields, path, answer)


def test_a_server_that_is_not_there(adapter: AdapterProcess) -> None:
    adapter.ask("init", serverUrl="http://127.0.0.1:9")
    answer = adapter.ask("head", path="/x")
    assert (answer["errorCode"], "status" in answer) == ("NETWORK_ERROR", False)


def test_answers_are_lines_of_ascii(adapter: AdapterProcess, server: ServerProcess) -> None:
    adapter.ask("init", serverUrl=server.url)
    adapter.ask("create", path="/v1/stream/ascii", contentType="text/plain", data="a\u2028b")
    adapter.send("read", path="/v1/stream/ascii")
    assert adapter._process.stdout is not None
    line = adapter._process.stdout.readline()
    assert line.isascii()
    assert json.loads(line)["chunks"][0]["data"] == "a\u2028b"


def test_shutdown_ends_it() -> None:
    with AdapterProcess() as process:
        assert process.ask("shutdown") == {"type": "shutdown", "success": True}
        assert process.wait() == 0


def test_the_end_of_input_ends_it() -> None:
    with AdapterProcess() as process:
        process.send("read", path="/x", live="sse")
        assert process._process.stdin is not None
        process._process.stdin.close()
        assert process.receive()["success"] is False
        assert process.wait() == 0
        process._process.stdin = None
