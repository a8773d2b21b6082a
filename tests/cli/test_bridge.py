"""What `ds-sync bridge` refuses, and how it ends; what it does is in tests/interop/test_bridge.py."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ds_sync.cli.main import main
from ds_sync.testing.server_process import ServerProcess


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("http://old/room", "http://new/v1/yjs/s/docs/a"), "a room is ws://"),
        (("ws://old/", "http://new/v1/yjs/s/docs/a"), "a room is ws://"),
        (("ws://old/room", "http://new"), "a document's URL is"),
        (("ws://old/room", "http://new/v1/loro/s/docs/a"), "a document's URL is"),
        (("ws://old/room", "ftp://new/v1/yjs/s/docs/a"), "not the http(s) URL"),
        (("ws://old/room", "http://new/v1/yjs/s/docs/a", "-H", "Authorization SECRET"), "'Name: value'"),
        (("wss:/ann:SECRET@old/room?key=SECRET", "http://new/v1/yjs/s/docs/a"), "not 'wss:/old/room?key=***'"),
        (("ws://ann:SECRET@[old/room", "http://new/v1/yjs/s/docs/a"), "not a URL"),
        (("ws://old/room", "http://ann:SECRET@new/v1/yjs/s?x=SECRET"), "'http://new/v1/yjs/s?x=***'"),
        (("ws://old/room", "http://ann:SECRET@new/v1/loro/s/docs/a"), "'http://new/v1/loro/s/docs/a'"),
    ],
)
def test_wrong_arguments_are_exit_2(arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["bridge", *arguments])
    assert (done.exit_code, said in " ".join(done.output.split())) == (2, True), done.output
    assert "SECRET" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_replica_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no replica")
    done = CliRunner().invoke(main, ["bridge", "ws://127.0.0.1:1/room", "http://127.0.0.1:1/v1/yjs/s/docs/a", "--file", str(file)])
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert file.read_text() == "no replica"


def test_two_rooms_of_servers_of_ours_can_be_bridged(tmp_path: Path) -> None:
    update = tmp_path / "a.bin"
    update.write_bytes(b"\x01\x01\x05\x00\x04\x01\x04body\x05hello\x00")
    with ServerProcess() as one, ServerProcess() as two:
        invoke = CliRunner().invoke
        assert invoke(main, ["import", str(update), one.url]).exit_code == 0
        room, url = f"{one.url.replace('http', 'ws', 1)}/v1/ws/default/a", f"{two.url}/v1/yjs/work/docs/b"
        done = invoke(main, ["bridge", room, url, "--once", "--file", str(tmp_path / "bridge.db")])
        assert done.exit_code == 0, done.output
        assert done.output.endswith(" room: live, has everything; document: live, nothing to send\n")
        assert invoke(main, ["export", url, "--format", "text"]).output == "hello"
