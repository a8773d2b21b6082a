"""The benchmarks of rooms, part of `make bench`: `rooms.py [--quick] [--rounds N] [--only PREFIX] [--servers NAMES]`.

Ours, started as a user would, beside the servers people move from, in alternating rounds of one run, under one load generator. A whole
run writes its table and drawings into docs/reference/.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import replica
from bench import FailedError, describe_machine, pick, run_load, show
from compaction import LINES, measure_compaction
from pycrdt import Doc, Text
from report import Figures
from room_load import END
from room_report import write_report
from room_rows import MEASUREMENTS, RoomMeasurement
from room_servers import ALL, HOCUSPOCUS, PEERS, find_room, find_servers, serving_rooms
from room_wire import build_string
from rows import Line
from servers import HERE, INTEROP, OURS, Running

from ds_sync.cli.replaying.traces import load_trace

QUICK_EDITS = 2_000
"""Of the recorded session, with --quick."""

COMPACTION: Mapping[str, Any] = {"seconds": 1.5, "size": 100_000_000}
QUICK_COMPACTION: Mapping[str, Any] = {"seconds": 0.1, "size": 20_000_000}
"""Whether everything runs; the lines of the table say 100 MB all the same."""

Results = dict[str, list[dict[str, Any]]]


class Session:
    """The recorded session as files that the load generator pushes: every edit an update of its own, and all as one."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        trace = load_trace(replica.SESSION, verify=False)
        doc: Doc[Text] = Doc()
        text = doc.get("text", type=Text)
        updates: list[bytes] = []
        subscription = doc.observe(lambda event: updates.append(event.update))
        patches = [patch for transaction in trace.in_bytes() for patch in transaction]
        replica.type_session(text, patches[:QUICK_EDITS] if quick else patches)
        text += END
        doc.unobserve(subscription)
        self.length = len(str(text))
        """Characters of the text at the end."""
        self._folder = folder
        (folder / "edits").write_bytes(b"".join(map(build_string, updates)))
        (folder / "state").write_bytes(build_string(doc.get_update()))

    def fill_in(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Return a job with the paths of its files."""
        files = {name: str(self._folder / name) for name in ("edits", "state")}
        return {**job, **files, "file": files[job.get("file", "state")], "length": self.length}


def load(server: Running, room: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Put a room under load. Raises FailedError."""
    return run_load(server, {**job, **find_room(server.name, room)}, "room_load.py")


def cold_join(name: str, folder: Path, node: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Enter a server that has just started, by a browser's provider. The first time, push the session into it before."""
    if not folder.exists():
        with serving_rooms(name, folder, node) as server:
            # Single updates take Hocuspocus over a minute, and it keeps one state all the same; y-leveldb takes longer to read them again.
            load(server, "paper", {**job, "kind": "push", "file": job["edits"] if name == OURS else job["state"]})
            time.sleep(job["settle"])
    seconds = {}
    for figure in ("seconds", "url_seconds") if name == OURS else ("seconds",):
        with serving_rooms(name, folder, node) as server:
            kind, url = "hocuspocus" if name == HOCUSPOCUS else "y-websocket", f"ws://127.0.0.1:{server.port}"
            if name == OURS:
                url += "/v1/ws/bench"
            if figure == "url_seconds":
                kind, url = "document URL", f"http://127.0.0.1:{server.port}/v1/yjs/bench"
            command = [node, "join.mjs", kind, url, "paper", str(job["length"])]
            try:
                done = subprocess.run(command, cwd=PEERS, capture_output=True, text=True, timeout=60)
            except subprocess.TimeoutExpired:
                raise FailedError(f"{name}: the whole text never came") from None
        if done.returncode:
            raise FailedError(f"{name}: {done.stderr.strip() or 'the provider ended'}")
        seconds[figure] = float(done.stdout)
    return {"url_seconds": seconds["seconds"], **seconds}


def kill(name: str, folder: Path, node: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Kill a server that is relaying updates; return which share of those a reader had got is still there after a restart."""
    with serving_rooms(name, folder, node) as server:
        command = [sys.executable, str(HERE / "room_load.py")]
        generator = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            if generator.stdin is None or generator.stdout is None:
                raise AssertionError("both are pipes")
            whole = {"kind": "relay", "per_second": job["per_second"], "port": server.port, **find_room(name, "killed")}
            generator.stdin.write(json.dumps(whole) + "\n")
            generator.stdin.flush()
            if generator.stdout.readline() == "relayed\n":
                time.sleep(job["seconds"])
            os.kill(server.pid, signal.SIGKILL)
            output, errors = generator.communicate(timeout=60)
        finally:
            generator.kill()
    if generator.returncode:
        raise FailedError(f"{name}: {errors.strip()}")
    relayed = json.loads(output)["count"]
    with serving_rooms(name, folder, node) as server:
        found = load(server, "killed", {"kind": "find"})["numbers"]
    return {"count": relayed, "kept": min(found, relayed) / relayed}


SEQUENCES: Mapping[str, Callable[[str, Path, str, Mapping[str, Any]], dict[str, Any]]] = {"cold_join": cold_join, "kill": kill}
"""What is done with a server that is killed and started again."""


def measure(measurement: RoomMeasurement, folder: Path, node: str, session: Session | None, *, rounds: int, quick: bool) -> Results:
    """Return the results of all rounds by server; none for one of the others that failed. Raises FailedError if ours does."""
    results: Results = {name: [] for name in measurement.servers}
    job = {**measurement.job, **(measurement.quick if quick else {})}
    if session is not None:
        job = session.fill_in(job)
    failed: set[str] = set()

    def attempt(name: str, act: Callable[[], dict[str, Any]]) -> None:
        if name in failed:
            return
        try:
            results[name].append(act())
        except FailedError as error:
            if name == OURS:
                raise
            print(f"    failed: {name}: {str(error).splitlines()[-1]}", flush=True)
            failed.add(name)
            results[name].clear()

    def run_alone(name: str, number: int) -> dict[str, Any]:
        place = folder / measurement.key / f"{0 if measurement.kept else number}-{ALL.index(name)}"
        if sequence := SEQUENCES.get(job["kind"]):
            return sequence(name, place, node, job)
        with serving_rooms(name, place, node) as server:
            return load(server, "room", job)

    if measurement.alone:
        for number in range(min(rounds, measurement.rounds)):
            for name in measurement.servers:
                attempt(name, lambda name=name, number=number: run_alone(name, number))
        return results
    with ExitStack() as stack:
        servers = [
            stack.enter_context(serving_rooms(name, folder / measurement.key / str(ALL.index(name)), node)) for name in measurement.servers
        ]
        for number in range(min(rounds, measurement.rounds) + (not quick)):
            for server in servers:
                # JavaScript is compiled while it runs: the first round is not counted.
                attempt(server.name, lambda server=server, number=number: load(server, f"room-{number}", job))
    return results if quick else {name: rounds[1:] for name, rounds in results.items()}


def restrict(measurement: RoomMeasurement, names: Sequence[str]) -> RoomMeasurement:
    """Leave out servers that are not there or not wanted, and the bars against them."""
    servers = tuple(name for name in measurement.servers if name in names)
    lines = tuple(
        replace(line, bars=tuple(bar for bar in line.bars if OURS in servers and (bar.against is None or bar.against in servers)))
        for line in measurement.lines
    )
    return replace(measurement, servers=servers, lines=lines)


def describe_peers() -> str:
    """Return the versions of what is measured beside ours."""
    y_websocket = json.loads((INTEROP / "package.json").read_text())["devDependencies"]
    hocuspocus = json.loads((PEERS / "package.json").read_text())["dependencies"]
    versions = [f"{name} {y_websocket[name]}" for name in ("@y/websocket-server", "y-leveldb")]
    versions += [f"{name} {hocuspocus[name]}" for name in ("@hocuspocus/server", "yjs")]
    return ", ".join(versions + (PEERS / "requirements.txt").read_text().replace("==", " ").splitlines()[:2])


def find_node() -> tuple[str, list[str]]:
    """Return the path of Node.js and the command that is its npm, with the packages of the tests installed. Raises FailedError."""
    done = subprocess.run([sys.executable, str(INTEROP / "node.py"), "--npm"], capture_output=True, text=True)
    if done.returncode:
        raise FailedError(done.stderr.strip())
    node, *npm = done.stdout.splitlines()
    return node, npm


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the rooms of ds-sync beside other servers that speak y-websocket.")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds of each measurement; long ones have fewer")
    parser.add_argument("--quick", action="store_true", help="one round of tiny sizes: does it all still run? Writes nothing")
    parser.add_argument("--only", default="", metavar="PREFIX", help="only the measurements whose key begins so; writes nothing")
    parser.add_argument("--servers", default="", metavar="NAMES", help=f"only these, comma separated: {', '.join(ALL)}; writes nothing")
    parser.add_argument("--folder", type=Path, default=None, help="where the servers keep their files (default: the temporary folder)")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    began = time.monotonic()
    wanted = tuple(options.servers.split(",")) if options.servers else ALL
    if unknown := sorted({*wanted} - {*ALL}):
        parser.error(f"no such server: {', '.join(unknown)}")
    chosen = [restrict(measurement, wanted) for measurement in MEASUREMENTS if measurement.key.startswith(options.only)]
    node = ""
    if {name for measurement in chosen for name in measurement.servers} - {OURS}:
        print("setting up: Node.js and the other servers", flush=True)
        node, npm = find_node()
        chosen = [restrict(measurement, find_servers(npm, wanted)) for measurement in chosen]
    lines: list[tuple[str, Line, Figures]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name).resolve()
        facts = f"Measured on {datetime.now(UTC):%Y-%m-%d}: {describe_machine(folder, node or None)} "
        facts += f"Beside ours: {describe_peers()}. Medians of up to {rounds} alternating rounds, in brackets the range."
        print(facts, flush=True)
        if options.quick:
            print("--quick: sizes are tiny, whatever the lines say, and the figures mean nothing", flush=True)
        session = None
        if not replica.SESSION.exists():
            print(f"missing: {replica.SESSION}; DS_SYNC_TRACES names the folder of the recorded sessions. It is not pushed.")
            chosen = [measurement for measurement in chosen if not measurement.session]
        elif any(measurement.session for measurement in chosen):
            session = Session(folder, quick=options.quick)
        for measurement in chosen:
            results = measure(measurement, folder, node, session, rounds=rounds, quick=options.quick)
            for line in measurement.lines:
                figures = pick(line, results)
                lines.append((measurement.group, line, figures))
                show(line, figures, results)
        compaction: list[tuple[Line, Figures]] = []
        if OURS in wanted and "compaction".startswith(options.only):
            sizes = QUICK_COMPACTION if options.quick else COMPACTION
            found = measure_compaction(folder / "compaction", rounds=rounds, **sizes)
            for line in LINES:
                compaction.append((line, pick(line, found)))
                show(*compaction[-1], found)
    if not options.quick and not options.only and not options.servers:
        write_report(lines, compaction, facts)
    print(f"{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FailedError as error:
        sys.exit(f"the benchmark failed: {error}")
