from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ds_sync import ownership
from ds_sync.exceptions import FileInUseError, StoreError
from ds_sync.ownership import Ownership, find_owner

HOLDER = """
import sys, time
from ds_sync.ownership import Ownership, find_owner
owner = Ownership(sys.argv[1], "replica")
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_told_who_the_first_is_until_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FileInUseError, match=f"notes.db is in use by process {holder.pid} ") as caught:
            Ownership(path, "server")
        assert caught.value.owner.startswith(f"process {holder.pid} (replica: -c) since 20")
        holder.kill()
    owner = Ownership(path, "server")
    note = json.loads(Path(f"{path}-owner").read_bytes())
    assert (note["pid"], note["role"]) == (os.getpid(), "server")
    owner.release()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ds-sync", "bridge", "ws://old/room?key=SECRET", "--token", "SECRET"], "ds-sync bridge"),
        (["/usr/bin/app.py", "--token=SECRET"], "/usr/bin/app.py"),
        (["app.py", "http://ann:SECRET@host"], "app.py"),
        ([""], ""),
    ],
)
def test_the_note_has_no_arguments_which_may_be_secret(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    owner = Ownership(tmp_path / "notes.db", "replica")
    note = (tmp_path / "notes.db-owner").read_text()
    owner.release()
    assert json.loads(note)["command"] == told
    assert "SECRET" not in note


def test_the_same_process_can_not_have_it_twice(tmp_path: Path) -> None:
    first = Ownership(tmp_path / "notes.db", "replica")
    with pytest.raises(FileInUseError, match=f"process {os.getpid()} "):
        Ownership(tmp_path / "notes.db", "replica")
    first.release()
    first.release()
    Ownership(tmp_path / "notes.db", "replica").release()


def test_a_link_leads_to_the_same_lock(tmp_path: Path) -> None:
    """SQLite follows links, so two names would be two writers on one file."""
    (tmp_path / "link.db").symlink_to(tmp_path / "notes.db")
    first = Ownership(tmp_path / "link.db", "replica")
    with pytest.raises(FileInUseError):
        Ownership(tmp_path / "notes.db", "replica")
    first.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.db", "notes.db-owner"]


@pytest.mark.parametrize("note", [b"", b"not json", b"[]", b"{}", b"\xff\xfe"])
def test_a_note_that_says_nothing_is_another_process(tmp_path: Path, note: bytes) -> None:
    first = Ownership(tmp_path / "notes.db", "replica")
    (tmp_path / "notes.db-owner").write_bytes(note)
    with pytest.raises(FileInUseError) as caught:
        Ownership(tmp_path / "notes.db", "replica")
    assert caught.value.owner == "another process"
    first.release()


def test_a_shorter_note_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    (tmp_path / "notes.db-owner").write_bytes(b"x" * 3000)
    first = Ownership(tmp_path / "notes.db", "replica")
    assert json.loads((tmp_path / "notes.db-owner").read_bytes())["pid"] == os.getpid()
    first.release()


def test_where_nothing_can_be_locked_nobody_is_accused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(ownership, "_lock", refuse)
    with pytest.raises(StoreError, match=r"can't be locked: No locks available") as caught:
        Ownership(tmp_path / "notes.db", "replica")
    assert not isinstance(caught.value, FileInUseError)


def test_a_full_disk_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "ds_sync.ownership"):
        patch.setattr(os, "write", refuse)
        first = Ownership(tmp_path / "notes.db", "replica")
    assert "No space left on device" in caplog.text
    with pytest.raises(FileInUseError, match="another process"):
        Ownership(tmp_path / "notes.db", "replica")
    first.release()


def test_a_directory_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Ownership(tmp_path / "nowhere" / "notes.db", "replica")


def test_who_owns_a_file_is_told_without_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    assert find_owner(path) is None
    first = Ownership(path, "replica")
    told = find_owner(path)
    assert told is not None
    assert (told.pid, told.role, told.running) == (os.getpid(), "replica", True)
    with pytest.raises(FileInUseError):
        Ownership(path, "replica")
    first.release()


@pytest.mark.parametrize("note", [b"", b"[]", b"\xff", b'{"pid": "x"}', b'{"pid": 1}'])
def test_a_note_that_says_nothing_names_nobody(tmp_path: Path, note: bytes) -> None:
    (tmp_path / "notes.db-owner").write_bytes(note)
    assert find_owner(tmp_path / "notes.db") is None


@pytest.mark.parametrize(("pid", "running"), [(2**22 + 5, False), (0, None), (-1, None), (2**70, False)])
def test_whether_the_owner_runs(tmp_path: Path, pid: int, running: bool | None) -> None:
    (tmp_path / "notes.db-owner").write_text(json.dumps({"pid": pid, "role": "replica", "command": "x", "since": "now"}))
    told = find_owner(tmp_path / "notes.db")
    assert told is not None
    assert told.running is running
