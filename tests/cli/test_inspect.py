"""`ds-sync inspect`: a replica's file on the terminal and as JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.offsets import BEGINNING, Offset
from ds_sync.replica.records import Batch, DocumentKey, Phase, Quarantined
from ds_sync.replica.store import LocalStore

HOSTILE = "[red]x[/red] \x1b]0;owned\x07 \u202egnp.exe"


def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ds_sync.cli.main", "inspect", *map(str, arguments)]
    environment = {"COLUMNS": "200", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "FORCE_COLOR": "1", **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "notes.db"
    store = LocalStore(made)
    for name in ("today", HOSTILE):
        document = store.open_document(DocumentKey("yjs", "default", name), format="yjs-v1", producer_id="maker").id
        store.enqueue(document, b"an edit", 1.0)
        store.seal(document, Batch(ProducerStamp("maker", 0, 4), 1, 1, BEGINNING, None, b"it"), phase=Phase.FOLLOW)
        store.advance(document, [], b"", Offset("9"), quarantined=[Quarantined(Offset("7"), 5.0, HOSTILE, b"\xff\x00")])
    store.close()
    return made


def test_outbox_batch_and_quarantine_are_shown(path: Path) -> None:
    done = run(path)
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "2 documents",
        "last opened by process",
        "today",
        "follow",
        "1 (7 B)",
        "number 4 of producer maker",
        "ff 00",
        "put aside",
    ):
        assert words in done.stdout


def test_what_strangers_wrote_is_no_command_for_the_terminal(path: Path) -> None:
    shown = run(path).stdout
    assert "[red]x[/red]" in shown
    assert r"\x1b]0;owned\x07" in shown
    assert r"\u202egnp.exe" in shown
    assert "\x1b]" not in shown
    assert "\x07" not in shown
    assert "\u202e" not in shown


def test_at_80_columns_only_names_and_urls_are_folded(tmp_path: Path) -> None:
    made, url, name = tmp_path / "notes.db", "https://notes.example.com:8443/sync", "plans/2026/what we want to do in the summer"
    store = LocalStore(made)
    for number, phase in enumerate(Phase):
        document = store.open_document(DocumentKey("yjs", "default", f"{name} {number}"), format="yjs-v1", producer_id="maker").id
        if number:
            store.set_server(document, url)
        for _ in range(101):
            store.enqueue(document, bytes(9_999), 1.0)
        store.seal(document, Batch(ProducerStamp("maker", 0, 4), 100, 1, BEGINNING, None, b"it"), phase=phase)
    store.close()
    done = run(made, COLUMNS="80", FORCE_COLOR="", TERM="dumb")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    table = done.stdout.split("\n\n")[1].splitlines()
    head = "document service phase server size durable in the outbox oldest put aside"
    assert sorted(" ".join(table[:2]).split()) == sorted(head.split())
    words = " ".join(table[2:]).split()
    for phase in Phase:
        assert phase.value in words
    assert words.count("default") == len(Phase)
    assert sum(line.count("101 (1.0 MB)") for line in table) == len(Phase)
    server = table[1].index("server")
    assert "".join(line[server:].split(" ")[0] for line in table[2:]) == "none" + url * (len(Phase) - 1)


def test_json_has_the_same(path: Path) -> None:
    whole = json.loads(run(path, "--json").stdout)
    assert {document["path"] for document in whole["documents"]} == {"today", HOSTILE}
    (one,) = json.loads(run(path, "--json", "--document", "today").stdout)["documents"]
    assert one["outbox"] == {"edits": 1, "bytes": 7, "oldest": 1.0, "newest": 1.0}
    assert one["batch"]["seq"] == 4
    assert one["quarantine"] == [
        {"id": one["quarantine"][0]["id"], "at": 5.0, "offset": "7", "reason": HOSTILE, "bytes": 2, "head": "ff 00"}
    ]
    assert whole["owner"]["role"] == "replica"


def test_what_is_no_replica_is_one_line_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("hello")
    for file in ("x.db", "none.db"):
        done = run(tmp_path / file)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert file in done.stderr
