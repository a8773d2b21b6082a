import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pycrdt import Doc, Text
from websockets.sync.server import ServerConnection, serve

from ds_sync.testing.server_process import ServerProcess

HERE = Path(__file__).parent


def run(program: str, *arguments: str, words: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, program, *arguments]
    return subprocess.run(command, cwd=HERE, input=words, capture_output=True, text=True, timeout=60)


def put_under_load(port: int, kind: str, **job: Any) -> subprocess.CompletedProcess[str]:
    return run("room_load.py", words=json.dumps({"kind": kind, "port": port, "path": "/v1/ws/bench/x", "envelope": "", **job}))


def test_the_whole_way_with_tiny_sizes() -> None:
    done = run("rooms.py", "--quick", "--servers", "ds-sync", "--only", "room-100")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "1 writer (20/s), 100 readers: latency p99 (ms)" in lines
    figures = [float(line.split()[1]) for line in lines if line.startswith("    ds-sync")]
    assert len(figures) == 4  # p50 and p99 with 100 readers, and with 1,000
    assert all(0 < figure < 10_000 for figure in figures)


def test_a_server_that_is_killed_has_everything_it_has_relayed() -> None:
    done = run("rooms.py", "--quick", "--servers", "ds-sync", "--only", "room-kill")
    assert done.returncode == 0, done.stderr
    [figures] = [line.split() for line in done.stdout.splitlines() if line.startswith("    ds-sync")]
    assert float(figures[1]) == 100


def test_a_push_is_found_by_a_newcomer(tmp_path: Path) -> None:
    doc: Doc[Text] = Doc()
    text = doc.get("text", type=Text)
    text += "a word<that was all>"
    update = doc.get_update()
    (tmp_path / "state").write_bytes(bytes((len(update),)) + update)
    with ServerProcess(tmp_path / "rooms.db") as server:
        good = put_under_load(server.port, "push", file=str(tmp_path / "state"), length=20)
        bad = put_under_load(server.port, "push", path="/v1/ws/bench/y", file=str(tmp_path / "state"), length=21)
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["count"] == 1
    assert bad.returncode != 0
    assert "20 characters are there, 21 were pushed" in bad.stderr


@contextmanager
def faulty_room(fault: str) -> Iterator[int]:
    """A room that relays everything to everybody, as long as its fault does not show."""
    clients: list[ServerConnection] = []
    relayed = 0

    def talk(client: ServerConnection) -> None:
        nonlocal relayed
        clients.append(client)
        for message in client:
            if message[:2] == b"\x00\x00":
                client.send(b"\x00\x01\x02\x00\x00")
            elif message[:2] == b"\x00\x02":
                relayed += 1
                if relayed == 2 and fault == "hangs up":
                    client.close()
                    return
                times = {"loses one": 0, "says one twice": 2}.get(fault, 1) if relayed == 2 else 1
                for other in clients * times:
                    other.send(message)

    with serve(talk, "127.0.0.1", 0, compression=None, close_timeout=0.1) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            for client in clients:
                client.close()
            thread.join()


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("", ""),
        ("loses one", "a reader has not got every update once, in order"),
        ("says one twice", "a reader has not got every update once, in order"),
        ("hangs up", "the server hung up"),
    ],
)
def test_what_is_relayed_is_counted(fault: str, complaint: str) -> None:
    with faulty_room(fault) as port:
        done = put_under_load(port, "flood", readers=1, updates=5)
    assert (done.returncode == 0) is (not fault), done.stderr
    assert complaint in done.stderr


def test_the_report_gives_ratios_and_names_who_fsyncs() -> None:
    program = """
from xml.dom.minidom import parseString
from report import draw_bars
from room_report import COLOURS, LEGENDS, build_table
from room_rows import Line
from room_servers import ALL, FSYNCS, HOCUSPOCUS, Y_MEMORY
from rows import Bar
from servers import OURS
line = Line("a & b", "p50", "ms", higher=False, bars=(Bar(1.5, Y_MEMORY), Bar(2)))
lines = [(line, {OURS: [3.0, 9.0, 5.0], Y_MEMORY: [1.0, 1.0, 5.0], HOCUSPOCUS: []})]
print(build_table(lines, FSYNCS).splitlines()[-1])
print(len(parseString(draw_bars("t", "u", lines, COLOURS, LEGENDS)).getElementsByTagName("rect")))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    row, rectangles = done.stdout.splitlines()
    assert row == (
        "| a & b | ms | 5 (3–9) | 1 (1–5); ours: × 3 (1–9) |  | failed |  |"
        " ds-sync: before the relay; y-websocket (memory): never; Hocuspocus: 2–10 s later |"
        " at most 1.5 × y-websocket (memory): **missed**; at most 2: **missed** |"
    )
    assert int(rectangles) == 1 + 3 + 2  # the ground, the legend, the bars
