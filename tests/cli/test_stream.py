"""`ds-sync stream`: what each command sends, prints, and exits with, against a real server."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest
from click.testing import CliRunner, Result

from ds_sync.cli.stream import stream
from ds_sync.testing.server_process import ServerProcess

START = "0" * 16 + "_" + "0" * 16

ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nstream-next-offset: 1_1\r\nstream-up-to-date: true\r\ncontent-length: 4\r\n\r\nkept"
)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as running:
        yield running


@pytest.fixture
def url(server: ServerProcess, request: pytest.FixtureRequest) -> str:
    return f"{server.url}/v1/stream/{request.node.name.replace('[', '/').replace(']', '')}"


def run(*arguments: str, given: bytes = b"", code: int = 0) -> Result:
    result = CliRunner().invoke(stream, [*arguments, "--attempts", "1"], input=given)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_the_life_of_a_stream(url: str) -> None:
    assert run("create", url, "--content-type", "text/plain", "one\n").stdout.endswith("\n")
    again = run("create", url, "--content-type", "text/plain", "one\n")
    assert again.stderr == "ds-sync stream: the stream was there already\n"
    tail = run("append", url, "two\n").stdout.strip()
    assert run("append", url, given="drei ü\n".encode()).stdout.strip() != tail
    assert run("read", url).stdout_bytes == "one\ntwo\ndrei ü\n".encode()
    assert run("read", url, "--offset", tail).stdout_bytes == "drei ü\n".encode()
    closed = run("close", url, "end").stdout.strip()
    assert run("follow", url).stdout_bytes == "one\ntwo\ndrei ü\nend".encode()
    fields = json.loads(run("head", url, "--json").stdout)
    assert (fields["tail"], fields["closed"], fields["content_type"]) == (closed, True, "text/plain")
    assert f"tail: {closed}\ncontent_type: text/plain\nclosed: true\n" in run("head", url).stdout
    assert run("delete", url).output == ""
    assert httpx.head(url).status_code == 404


def test_bytes_pass_as_they_are(url: str) -> None:
    data = bytes(range(256)) * 300
    run("create", url)
    run("append", url, given=data)
    assert run("read", url).stdout_bytes == data


def test_lines_are_appended_each_for_itself(url: str) -> None:
    run("create", url, "--content-type", "text/plain")
    tail = run("append", url, "--lines", given=b"a\n\nb\nrest").stdout.strip()
    assert httpx.get(url).text == "a\n\nb\nrest"
    assert httpx.head(url).headers["stream-next-offset"] == tail
    assert run("append", url, "--lines", "--close", given=b"").stdout.strip() == tail
    assert httpx.head(url).headers["stream-closed"] == "true"


def test_json_lines_are_messages_and_come_back_spelled_as_they_were(url: str) -> None:
    run("create", url, "--json")
    run("append", url, "--json", '[{"a": 1.10}, [1,\n2]]')
    run("append", url, "--lines", given=b'1e999\n\n"\\u00fc"\n')
    assert run("read", url, "--json").stdout == '{"a": 1.10}\n[1, 2]\n1e999\n"\\u00fc"\n'
    run("close", url)
    assert run("follow", url, "--json", "--live", "long-poll").stdout.count("\n") == 4


def test_whole_lines_only(url: str) -> None:
    run("create", url, "--content-type", "text/plain", "a\nb")
    result = run("read", url, "--lines", "--next-offset")
    assert result.stdout == "a\nb"
    assert result.stderr == f"ds-sync stream: next offset {httpx.head(url).headers['stream-next-offset']}\n"


def test_a_fork_names_its_source_by_url_or_path(server: ServerProcess, url: str) -> None:
    run("create", url, "--content-type", "text/plain", "abc")
    run("fork", f"{url}/by-url", url)
    run("fork", f"{url}/by-path", url.removeprefix(server.url), "--offset", START, "--sub-offset", "2")
    assert httpx.get(f"{url}/by-url").text == "abc"
    assert httpx.get(f"{url}/by-path").text == "ab"


def test_the_streams_of_a_server_are_listed(server: ServerProcess, url: str) -> None:
    name = url.removeprefix(f"{server.url}/v1/stream/")
    for child in ("b", "a", "a/deep"):
        run("create", f"{url}/{child}")
    assert run("list", server.url, "--pattern", f"{name}/*").stdout == f"{name}/a\n{name}/b\n"
    assert run("list", f"{server.url}/v1/stream/", "--pattern", f"{name}/**").stdout.count("\n") == 3
    run("delete", f"{url}/b")
    assert run("list", server.url, "--pattern", f"{name}/?").stdout == ""


def test_settings_go_out(url: str) -> None:
    run("create", url, "--ttl", "60", "--closed", "all")
    answer = httpx.head(url)
    assert (answer.headers["stream-ttl"], answer.headers["stream-closed"]) == ("60", "true")


@pytest.mark.parametrize(("options", "environment"), [(("--token", "secret"), {}), ((), {"DS_SYNC_TOKEN": "secret"})])
def test_headers_and_the_token_go_out(options: tuple[str, ...], environment: dict[str, str]) -> None:
    requests: list[bytes] = []

    def answer(listener: socket.socket) -> None:
        with listener.accept()[0] as client:
            requests.append(client.recv(65536))
            client.sendall(ANSWER)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = threading.Thread(target=answer, args=(listener,))
        answering.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        result = CliRunner(env=environment).invoke(stream, ["read", url, "-H", "X-Shelf: left: top", *options])
        answering.join()
    assert (result.exit_code, result.stdout) == (0, "kept")
    lines = requests[0].decode().lower().split("\r\n")
    assert {"authorization: bearer secret", "x-shelf: left: top"} <= {*lines}


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("read", "URL"), 4, "404"),
        (("delete", "URL"), 4, "404"),
        (("create", "URL", "--ttl", "1", "--expires-at", "2030-01-01T00:00:00Z"), 1, "400"),
        (("read", "http://127.0.0.1:1/x"), 3, "connection"),
        (("append", "http://127.0.0.1:1/x", "data"), 3, "connection"),
        (("head", "localhost:80/x"), 2, "http://"),
        (("head", "URL", "-H", "no colon"), 2, "Name: value"),
        (("append", "URL", "data", "--lines"), 2, "--lines"),
    ],
)
def test_exit_codes(arguments: tuple[str, ...], code: int, word: str, url: str) -> None:
    result = run(*(url if argument == "URL" else argument for argument in arguments), code=code)
    assert word in result.stderr
    assert result.stdout == ""
    assert code == 2 or result.stderr.count("\n") == 1


def test_a_gone_offset_is_4_and_an_append_to_the_wrong_kind_is_1(url: str) -> None:
    run("create", url)
    assert "HISTORY_DIVERGED" in run("read", url, "--offset", "0000000000000009_0000000000000009", code=4).stderr
    assert "CONTENT_TYPE_MISMATCH" in run("append", url, "x", "--content-type", "text/html", code=1).stderr


def test_progress_is_shown_on_standard_error_only(url: str) -> None:
    run("create", url, "--content-type", "text/plain", "x" * 5000)
    result = run("read", url, "--progress")
    assert result.stdout == "x" * 5000
    assert "5.0/? kB" in result.stderr
    assert run("read", url).stderr == ""


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "ds_sync.cli.main", "stream", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,
    )


@pytest.mark.parametrize("live", ["sse", "long-poll"])
def test_following_shows_what_comes_at_once_and_ends_quietly_at_ctrl_c(url: str, live: str) -> None:
    httpx.put(url, headers={"content-type": "text/plain"}, content=b"old\n")
    with start("follow", url, "--live", live, "--next-offset") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"old\n"
        tail = httpx.post(url, headers={"content-type": "text/plain"}, content=b"new\n").headers["stream-next-offset"]
        assert process.stdout.readline() == b"new\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.decode().startswith("ds-sync stream: next offset ")
    assert errors.decode().split()[-1] <= tail


def test_lines_go_out_while_more_are_to_come(url: str) -> None:
    httpx.put(url, headers={"content-type": "text/plain"})
    with start("append", url, "--lines") as process:
        assert process.stdin is not None
        process.stdin.write(b"first\nsecond")
        process.stdin.flush()
        answer = httpx.get(url, params={"offset": START, "live": "long-poll"}, timeout=30)
        assert answer.text == "first\n"
        output, _ = process.communicate(timeout=20)
    assert httpx.get(url).text == "first\nsecond"
    assert output.decode().strip() == httpx.head(url).headers["stream-next-offset"]


def test_a_reader_that_has_enough_is_no_error(url: str) -> None:
    httpx.put(url, headers={"content-type": "text/plain"}, content=b"x" * 2_000_000)
    with start("read", url) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == b"x" * 10
        process.stdout.close()
        assert process.wait(timeout=20) == 141
        assert process.stderr.read() == b""


def test_reading_takes_up_a_broken_connection() -> None:
    def hang_up_once(listener: socket.socket) -> None:
        listener.accept()[0].close()
        with listener.accept()[0] as client:
            client.recv(65536)
            client.sendall(ANSWER)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = threading.Thread(target=hang_up_once, args=(listener,))
        answering.start()
        result = CliRunner().invoke(stream, ["read", f"http://127.0.0.1:{listener.getsockname()[1]}/a", "--attempts", "3"])
        answering.join()
    assert (result.exit_code, result.stdout) == (0, "kept")
    assert "again in" in result.stderr
