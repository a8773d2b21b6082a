"""The fuzzer finds what it is for: each subject here does one thing that must not happen."""

from __future__ import annotations

import importlib.util
import random
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import adapter_target
import asgi_target
import client_target
import corpus
import crowds
import findings
import gateway_target
import hooks_target
import http_target
import import_check
import leases
import pytest
import worker_target
from findings import Finding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutator import mutate
from parsers_target import PARSERS, ParserTarget, read_sse
from targets import TARGETS


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tests/fuzz/__main__.py, which keeps what it finds in the test's folder."""
    spec = importlib.util.spec_from_file_location("fuzz_main", Path(__file__).with_name("__main__.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "keep", lambda target, data: findings.keep(target, data, tmp_path / "failures"))
    return module


def test_a_finding_is_kept_and_can_be_run_again(runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes) -> None:
        if b"\xff" in data:
            raise KeyError("a parser's defect")

    target = ParserTarget("broken", read, [b"\x00\xff", b"\x01"])
    monkeypatch.setattr(runner, "TARGETS", [target])
    _, found = runner.run(target, 5.0, 1, tmp_path)
    kept = sorted((tmp_path / "failures").iterdir())
    assert 0 < len(kept) <= len(found) == 5
    assert all("a parser's defect" in text for text in found)
    assert str(kept[0]) in "".join(found)
    assert all(b"\xff" in path.read_bytes() for path in kept)
    assert runner.rerun(kept[0]) == 1
    kept[0].write_bytes(b"harmless")
    assert runner.rerun(kept[0]) == 0


def test_a_seed_gives_the_same_inputs_and_names_are_one_each() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)
    for target in PARSERS:
        first, second = (target.make(random.Random("7/x/3")) for _ in range(2))
        assert first == second
    assert mutate(random.Random(1), b"hello world", corpus.WORDS) == mutate(random.Random(1), b"hello world", corpus.WORDS)


@contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """A server that gives one answer, or none and holds the connection; yields its port."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            held.append(connection)
            connection.recv(65536)
            if answer is not None:
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()
        for connection in held:
            connection.close()


def test_a_socket_without_an_answer_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_target, "HANG_SECONDS", 0.2)
    with answering(None) as port, pytest.raises(Finding, match="a hang"):
        http_target.exchange(port, b"GET / HTTP/1.1\r\n\r\n")


def test_an_answer_that_does_not_end_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_target, "HANG_SECONDS", 0.2)
    with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc") as port, pytest.raises(Finding, match="a hang"):
        http_target.exchange(port, b"GET / HTTP/1.1\r\n\r\n")


def test_the_status_of_an_answer_is_seen() -> None:
    with answering(b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno") as port:
        assert http_target.exchange(port, b"GET / HTTP/1.1\r\n\r\n") == [500]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[http_target.HttpTarget]:
    target = http_target.HttpTarget("sqlite")
    target.open(tmp_path)
    yield target
    if target._server._process is not None:
        target._server.kill()


def test_a_server_that_fails_dies_or_loses_something_is_found(served: http_target.HttpTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    served.check(corpus.build_request("GET", "/v1/stream/fuzz/a", {}, b""))
    assert served.statuses == {200: 1}
    with monkeypatch.context() as broken:
        broken.setattr(http_target, "exchange", lambda port, data: [500])
        with pytest.raises(Finding, match="500"):
            served.check(b"")
    path = f"{served._prefix}/plain"
    served._known[path].append(b"never stored")
    with pytest.raises(Finding, match="not the 52 stored ones"):
        served.close()
    served._known[path].remove(b"never stored")
    served._server.kill()
    served._server.start()
    served.close()


def test_a_dead_server_is_found(served: http_target.HttpTarget) -> None:
    served._server.kill()
    port = served._server.port
    served._server._process = None
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        assert other.getsockname()[1] != port
    served._watch.log = lambda: ""  # type: ignore[method-assign]
    with pytest.raises(Finding, match="dead"):
        served._look_after()


async def say_nothing(scope: Any, receive: Any, send: Any) -> None:
    return


async def fail(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 500, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def raise_error(scope: Any, receive: Any, send: Any) -> None:
    raise KeyError("the application's defect")


@pytest.mark.parametrize(("app", "words"), [(say_nothing, "no whole answer"), (fail, "500"), (raise_error, "the application's defect")])
def test_an_application_that_fails_is_found(app: Any, words: str, tmp_path: Path) -> None:
    target = asgi_target.AsgiTarget("memory")
    target.open(tmp_path)
    whole, target._app = target._app, app
    with pytest.raises((Finding, KeyError), match=words):
        target.check(b"GET /v1/stream/fuzz/a HTTP/1.1\r\n\r\n")
    target._app = whole
    target.close()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended with -11"),
        ("import time; time.sleep(60)", "a hang"),
        ("import sys; sys.stdin.buffer.read(9); print(repr('a panic'), flush=True)", "a panic"),
    ],
)
def test_a_worker_that_dies_hangs_or_complains_is_found(code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "worker.py").write_text(code)
    monkeypatch.setattr(worker_target, "__file__", str(tmp_path / "worker_target.py"))
    monkeypatch.setattr(worker_target, "HANG_SECONDS", 1.0 if words == "a hang" else 10.0)
    target = worker_target.WorkerTarget("yjs", lambda folder: [], lambda rng, seeds: b"")
    with pytest.raises(Finding, match=words):
        target.check(b"x")
    target.close()


def test_workers_pass_what_is_whole(tmp_path: Path) -> None:
    for target in worker_target.WORKERS:
        (tmp_path / target.name).mkdir()
        target.open(tmp_path / target.name)
        whole = worker_target.join([target._seeds[0], target._seeds[1]]) if target.name == "yjs" else target._seeds[0]
        target.check(whole)
        target.close()


def test_a_client_that_raises_another_error_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(client: Any) -> None:
        raise KeyError("the client's defect")

    monkeypatch.setattr(client_target, "CALLS", [read])
    target = client_target.ClientTarget()
    target.open(tmp_path)
    with pytest.raises(KeyError, match="the client's defect"):
        target.check(b"\x00")
    target.close()


def test_a_replica_that_forgets_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = client_target.ReplicaTarget()
    target.open(tmp_path)
    target.check(b"")
    monkeypatch.setattr(client_target, "TYPED", "something that was never typed")
    with pytest.raises(Finding, match="what was typed is gone"):
        target.check(b"")
    target.close()


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[asgi_target.AsgiTarget]:
    target = asgi_target.AsgiTarget("memory")
    target.open(tmp_path_factory.mktemp("application"))
    yield target
    target.close()


FIELDS = st.dictionaries(st.sampled_from(list(corpus.HEADERS)), st.integers(0, 99), max_size=5)
QUERY = st.dictionaries(st.sampled_from(list(corpus.QUERY)), st.integers(0, 99), max_size=3)


@given(
    method=st.sampled_from(corpus.METHODS),
    path=st.sampled_from([*corpus.STREAMS, *corpus.PATHS]),
    query=QUERY,
    fields=FIELDS,
    body=st.one_of(st.sampled_from(corpus.BODIES), st.binary(max_size=200)),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_request_out_of_the_tables_makes_the_server_fail(
    application: asgi_target.AsgiTarget, method: str, path: str, query: dict[str, int], fields: dict[str, int], body: bytes
) -> None:
    headers = {name: corpus.HEADERS[name][which % len(corpus.HEADERS[name])] for name, which in fields.items()}
    asked = "&".join(f"{name}={corpus.QUERY[name][which % len(corpus.QUERY[name])]}" for name, which in query.items())
    application.check(corpus.build_request(method, f"{path}?{asked}", headers, body))


@given(
    st.lists(
        st.one_of(st.binary(max_size=12), st.sampled_from([b"data: ", b"event: control\n", b"\r\n", b"\n\n", b'{"streamNextOffset":"1"}']))
    )
)
@settings(max_examples=150, deadline=None)
def test_server_sent_events_mean_the_same_however_they_are_cut(pieces: list[bytes]) -> None:
    read_sse(b"".join(pieces))


def test_the_leases_are_live_and_the_marks_take_no_room_of_others(tmp_path: Path) -> None:
    application = asgi_target.AsgiTarget("memory")  # of its own: drawn requests may close the streams of the other
    application.open(tmp_path)
    kept, ask = application._leases, application._call
    statuses = []
    for token in ("{pull-token}", "{late-token}", "nonsense"):
        text = '{"wake_id":"{pull-wake-00000000000000}","generation":{pullgen},"acks":[],"done":true}'
        raw = corpus.build_request("POST", f"{leases.PULL}/ack", {"Authorization": f"Bearer {token}"}, text.encode())
        filled = kept.fill(raw, ask)
        assert len(filled.partition(b"\r\n\r\n")[2]) == len(text)
        statuses.append(application._runner.run(application._ask(filled)))
    application.close()
    assert statuses == [200, 409, 401]  # FENCED, and no token of ours


def test_a_crowd_that_is_not_answered_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowds, "HANG_SECONDS", 0.2)
    with answering(None) as port, pytest.raises(Finding, match="a hang: 2 connections"):
        crowds.exchange_all(port, b"GET / HTTP/1.1\r\n\r\n" + crowds.BESIDE + b"GET / HTTP/1.1\r\n\r\n")


def test_a_flood_is_turned_away_and_room_comes_back(served: http_target.HttpTarget) -> None:
    one = corpus.build_request("GET", "/v1/stream/fuzz/a", {}, b"")
    served.check(crowds.FLOOD + one + crowds.BESIDE + one + crowds.HALF)
    assert set(served.statuses) <= {429}  # the hang-up may overtake the answer
    served.check(one + one + crowds.BESIDE + one)
    assert served.statuses[200] == 3


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.stdin.readline()", "has ended with 0"),
        ("import time; time.sleep(60)", "a hang"),
        ("print('[]', flush=True); input()", "not one answer"),
        ("""print('{"success": false, "errorCode": "INTERNAL_ERROR"}', flush=True); input(); input()""", "nobody expected"),
    ],
)
def test_an_adapter_that_dies_hangs_or_says_something_else_is_found(code: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_target, "ADAPTER", (sys.executable, "-c", code))
    monkeypatch.setattr(adapter_target, "LINE_SECONDS", 1.0 if words == "a hang" else 10.0)
    target = adapter_target.AdapterTarget()
    target.open(Path())
    with pytest.raises(Finding, match=words):
        target.check(b'{"type":"head"}')
    target._kill()
    target._server.kill()


def test_a_server_that_drops_healthy_clients_or_deliveries_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = gateway_target.GatewayTarget()
    room.open(tmp_path)
    room.check(gateway_target.HANDSHAKE + gateway_target.build_frame_of_client(gateway_target.BINARY, b"\xff"))
    room._people[1]._socket.shutdown(socket.SHUT_RDWR)
    with pytest.raises(Finding, match="hung up on"):
        room.check(gateway_target.HANDSHAKE)
    room.close()
    hooks = hooks_target.HooksTarget()
    hooks.open(tmp_path)
    hooks.check(hooks_target.HOLD)
    monkeypatch.setattr(hooks_target, "HANG_SECONDS", 0.2)
    hooks._healthy.wait_for = lambda name, seconds: False  # type: ignore[method-assign]
    with pytest.raises(Finding, match="the good receiver was told nothing"):
        hooks.check(b"")
    hooks.close()


def test_what_is_whole_is_imported(tmp_path: Path) -> None:
    for seed in import_check.build_sources(tmp_path):
        (tmp_path / "source.db").write_bytes(seed)
        code, said = import_check.run(["import", str(tmp_path / "source.db"), str(tmp_path / f"{len(seed)}.db")])
        assert (code, ", added" in said) == (0, True), said
        import_check.check_import(seed)
