import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

HERE = Path(__file__).parent


def test_the_whole_way_with_tiny_sizes() -> None:
    command = [sys.executable, str(HERE / "bench.py"), "--quick", "--servers", "ds-sync", "--only", "append-64-hot"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "appends, 64 connections, one stream (appends/s)" in lines
    [figures] = [line.split() for line in lines if line.startswith("    ds-sync")]
    assert float(figures[1].replace(",", "")) > 0


class FaultyServer(BaseHTTPRequestHandler):
    """A server of one stream that acknowledges everything, as long as its fault does not show."""

    protocol_version = "HTTP/1.1"
    fault = ""
    stored = b""
    appends = 0

    def do_PUT(self) -> None:
        self._answer(201)

    def do_POST(self) -> None:
        kind = type(self)
        body = self.rfile.read(int(self.headers["content-length"]))
        kind.appends += 1
        if kind.appends == 5 and kind.fault == "refuses one":
            self._answer(503)
            return
        if not (kind.appends == 5 and kind.fault == "loses one"):
            kind.stored += b"z" * len(body) if kind.appends == 5 and kind.fault == "spoils one" else body
        self._answer(204)

    def do_GET(self) -> None:
        self._answer(200, type(self).stored)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response_only(status)
        self.send_header("stream-next-offset", "1")
        self.send_header("stream-up-to-date", "true")
        if status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def faulty_server(fault: str) -> Iterator[int]:
    handler = type("Handler", (FaultyServer,), {"fault": fault})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def put_under_load(port: int) -> subprocess.CompletedProcess[str]:
    job: dict[str, Any] = {"kind": "append", "port": port, "path": "/v1/stream/x", "connections": 1, "streams": 1, "seconds": 0.2}
    return subprocess.run([sys.executable, str(HERE / "load.py")], input=json.dumps(job), capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [("refuses one", "503"), ("loses one", "were acknowledged"), ("spoils one", "nobody appended")],
)
def test_a_faulty_server_fails(fault: str, complaint: str) -> None:
    with faulty_server(fault) as port:
        done = put_under_load(port)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_a_faultless_server_passes() -> None:
    with faulty_server("") as port:
        done = put_under_load(port)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["count"] >= 2


def test_the_report_judges_medians_and_names_what_failed() -> None:
    program = """
from xml.dom.minidom import parseString
from report import build_table, draw_bars
from rows import Bar, Line
from servers import FILES, MEMORY, OURS
line = Line("a & b", "rate", "appends/s", bars=(Bar(6, FILES), Bar(0.8, MEMORY), Bar(100)))
lines = [(line, {OURS: [30.0, 90.0, 50.0], FILES: [10.0, 10.0, 5.0], MEMORY: []})]
print(build_table(lines).splitlines()[-1])
print(len(parseString(draw_bars("t", "u", lines)).getElementsByTagName("rect")))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    row, rectangles = done.stdout.splitlines()
    assert row == (
        "| a & b | appends/s | 50 (30–90) | 10 (5–10) | failed | 9 (3–10) |  | ds-sync; reference, files |"
        " at least 6 × reference, files: met; at least 100: **missed** |"
    )
    assert int(rectangles) == 1 + 3 + 2  # the ground, the legend, the bars
