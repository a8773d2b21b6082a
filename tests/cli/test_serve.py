"""`ds-sync serve` as a process: how it starts, refuses to start, and ends."""

import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from ds_sync.testing.server_process import ServerProcess

TEXT = {"content-type": "text/plain"}


def run_serve(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ds_sync.cli.serve", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def require_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_a_port_in_use_is_one_line_and_exit_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        require_one_line(run_serve("--memory", "--port", str(port)), f"127.0.0.1:{port}", "in use")


def test_two_servers_do_not_share_a_port() -> None:
    with ServerProcess() as first:
        require_one_line(run_serve("--memory", "--port", str(first.port)), "in use")


def test_a_file_in_use_names_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "streams.db"
    with ServerProcess(path) as first:
        require_one_line(run_serve("--data", str(path), "--port", "0"), f"process {first.pid}")


def test_a_foreign_file_is_one_line_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "streams.db"
    path.write_bytes(b"my diary")
    require_one_line(run_serve("--data", str(path), "--port", "0"), str(path))
    assert path.read_bytes() == b"my diary"


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    require_one_line(run_serve("--data", str(tmp_path / "no" / "streams.db"), "--port", "0"), "no")


def test_sigkill_leaves_nothing_behind_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "streams.db"
    with ServerProcess(path) as server:
        httpx.put(f"{server.url}/v1/stream/a", headers=TEXT)
        told = httpx.post(f"{server.url}/v1/stream/a", headers=TEXT, content=b"kept").headers["stream-next-offset"]
        port = server.port
        server.kill()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")
        server.start()
        assert server.port == port
        answer = httpx.get(f"{server.url}/v1/stream/a")
        assert (answer.content, answer.headers["stream-next-offset"]) == (b"kept", told)


def test_sigterm_ends_live_readers_and_exits_0(tmp_path: Path) -> None:
    path = tmp_path / "streams.db"
    with ServerProcess(path) as server:
        httpx.put(f"{server.url}/v1/stream/a", headers=TEXT, content=b"x")
        ended: list[object] = []

        def poll() -> None:
            ended.append(httpx.get(f"{server.url}/v1/stream/a", params={"offset": "now", "live": "long-poll"}, timeout=30).status_code)

        def follow() -> None:
            ended.append("upToDate" in httpx.get(f"{server.url}/v1/stream/a", params={"offset": "-1", "live": "sse"}, timeout=30).text)

        readers = [threading.Thread(target=poll), threading.Thread(target=follow)]
        for reader in readers:
            reader.start()
        time.sleep(0.5)
        begun = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - begun < 5
        for reader in readers:
            reader.join()
        assert sorted(map(str, ended)) == ["204", "True"]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_sigterm_lets_an_append_under_way_finish() -> None:
    with ServerProcess() as server:
        httpx.put(f"{server.url}/v1/stream/a", headers=TEXT)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"POST /v1/stream/a HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: 8\r\n\r\nhalf")
            time.sleep(0.3)
            ending = threading.Thread(target=server.terminate)
            ending.start()
            time.sleep(0.3)
            connection.sendall(b"half")
            assert b" 204 " in connection.recv(4096)
        ending.join()


def test_memory_and_data_exclude_each_other(tmp_path: Path) -> None:
    result = run_serve("--memory", "--data", str(tmp_path / "x.db"))
    assert result.returncode == 2
    assert "exclude" in result.stderr


@pytest.mark.parametrize(
    ("options", "word"),
    [(("--allow-webhook", "http://x/"), "neither a host nor a network"), (("--public-url", "x"), "must begin with http")],
)
def test_webhook_options_that_make_no_sense_are_refused(options: tuple[str, ...], word: str) -> None:
    result = run_serve("--memory", *options)
    assert result.returncode == 2
    assert word in result.stderr


@pytest.mark.parametrize(
    ("options", "allowed"), [((), False), (("--allow-http-webhooks",), True), (("--allow-webhook", "127.0.0.0/8"), True)]
)
def test_webhooks_go_to_this_machine_only_by_option(options: tuple[str, ...], allowed: bool) -> None:
    with ServerProcess(options=(*options, "--public-url", "https://sync.example/")) as server:
        webhook = {"type": "webhook", "pattern": "*", "webhook": {"url": "http://127.0.0.1:9/"}}
        answer = httpx.put(f"{server.url}/v1/stream/__ds/subscriptions/s", json=webhook)
    if allowed:
        assert answer.status_code == 201
        assert answer.json()["webhook"]["signing"]["jwks_url"] == "https://sync.example/v1/stream/__ds/jwks.json"
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "WEBHOOK_URL_REJECTED")


def test_a_bound_on_what_streams_keep_is_an_option() -> None:
    with ServerProcess(options=("--retain-bytes", "100")) as server:
        url = f"{server.url}/v1/stream/bounded"
        start = httpx.put(url, headers=TEXT).headers["stream-next-offset"]
        for number in range(5):
            httpx.post(url, content=b"%d" % number * 50, headers=TEXT)
        assert httpx.get(url, params={"offset": start}).json()["error"]["code"] == "OFFSET_EXPIRED"
        assert httpx.get(url).content == b"3" * 50 + b"4" * 50


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ((), 200),
        (("--no-inspect",), 404),
        (("--host", "0.0.0.0"), 404),
        (("--host", "0.0.0.0", "--inspect-token", "sixteen characters"), 401),
        (("--inspect-token", "sixteen characters"), 401),
    ],
)
def test_the_inspector_is_for_this_machine_or_for_a_token(options: tuple[str, ...], status: int) -> None:
    with ServerProcess(options=options) as server:
        assert httpx.get(f"{server.url}/inspect/streams").status_code == status


@pytest.mark.parametrize(
    ("options", "word"), [(("--inspect-token", "x"), "16"), (("--inspect-token", "x" * 16, "--no-inspect"), "exclude")]
)
def test_options_of_the_inspector_that_make_no_sense_are_refused(options: tuple[str, ...], word: str) -> None:
    result = run_serve("--memory", *options)
    assert result.returncode == 2
    assert word in result.stderr
