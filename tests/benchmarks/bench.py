"""The benchmarks: `make bench`, or `python tests/benchmarks/bench.py [--quick] [--rounds N] [--only PREFIX]`.

Ours beside the official reference server, in alternating rounds of one run: the servers of a measurement stand next to each other, and one
after the other is put under load by the same load generator. A whole run writes its table and drawings into docs/reference/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from report import Figures, build_table, draw_bars, judge, write_part
from rows import MEASUREMENTS, REPLICA_LINES, Line, Measurement
from servers import FILES, FSYNCS, HERE, MEMORY, OURS, OURS_MEMORY, Running, serving, serving_nothing

from ds_sync import __version__

ROOT = HERE.parents[1]
REFERENCE = ROOT / "docs" / "reference"

SMALL: Mapping[str, Any] = {"seconds": 0.2, "size": 1_000_000, "connections": 100, "readers": 20, "streams": 50}
"""What --quick makes of jobs that are larger."""


WARM_UP_SECONDS = 0.6
"""How long every server is put under load before its first round."""


HELD = ("idle", "hold")
"""The jobs that say when they hold all connections, and wait until the server's memory was read."""


class FailedError(Exception):
    """Something went wrong that is no matter of speed: a wrong answer, a lost append, a server that died."""


def run_load(server: Running, job: Mapping[str, Any], program: str = "load.py") -> dict[str, Any]:
    """Put one server under load, by one of the load generators. Raises FailedError, with what the load generator says."""
    before, cpu = server.memory(), server.cpu()
    process = subprocess.Popen(
        [sys.executable, str(HERE / program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both are pipes")
        process.stdin.write(json.dumps({**job, "port": server.port}) + "\n")
        process.stdin.flush()
        held = 0
        if job["kind"] in HELD and process.stdout.readline():
            held = server.memory()
            process.stdin.write("\n")
        output, errors = process.communicate(timeout=180)
    finally:
        process.kill()
    if process.returncode:
        raise FailedError(f"{server.name}: {errors.strip() or 'no answer'}")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    result["server_cpu"] = (server.cpu() - cpu) / result["count"]
    result["memory_each"] = ((held or server.memory()) - before) / result["count"]
    return result


def shrink(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job for --quick."""
    return {name: min(value, SMALL[name]) if name in SMALL else value for name, value in job.items()}


def measure(measurement: Measurement, folder: Path, node: str | None, *, rounds: int, quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Return the results of all rounds by server; none for one of the others that failed. Raises FailedError if ours does."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in measurement.servers}
    job, prepare = dict(measurement.job), dict(measurement.prepare)
    if quick:
        job, prepare = shrink(job), shrink(prepare)
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(name, folder / measurement.key / name, node)) for name in measurement.servers]
        if prepare:
            filled = f"/v1/stream/{measurement.key}"
            servers = [server for server in servers if try_load(server, {**prepare, "path": filled}) is not None]
        if not measurement.once and not quick:
            # JavaScript is compiled while it runs: the first second of a server says little about the next.
            warming = {**job, "seconds": min(job["seconds"], WARM_UP_SECONDS)}
            warm = f"/v1/stream/{measurement.key}" + ("" if prepare else "/warm")
            servers = [server for server in servers if try_load(server, {**warming, "path": warm}) is not None]
        for number in range(1 if measurement.once else rounds):
            path = f"/v1/stream/{measurement.key}" + ("" if prepare else f"/{number}")
            for server in tuple(servers):
                result = try_load(server, {**job, "path": path})
                if result is None:
                    servers.remove(server)
                    results[server.name].clear()
                else:
                    results[server.name].append(result)
    return results


def try_load(server: Running, job: Mapping[str, Any]) -> dict[str, Any] | None:
    """Put one server under load. Another's failure is told, and None if it fails twice; ours is an error. Raises FailedError."""
    for path in (job["path"], job["path"] if job["kind"] in ("catch_up", "fill") else f"{job['path']}-again"):
        try:
            return run_load(server, {**job, "path": path})
        except FailedError as error:
            if server.name in (OURS, OURS_MEMORY):
                raise
            lines = str(error).splitlines()
            print(f"    failed: {lines[0]} ... {lines[-1]}", flush=True)
    return None


def pick(line: Line, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figures:
    """Return the figures of a line, in its unit."""
    return {server: [result[line.figure] * line.scale for result in rounds] for server, rounds in results.items()}


def measure_replica(rounds: int) -> list[tuple[Line, Figures]]:
    """Return the figures of replicas, or nothing where the recorded sessions are missing."""
    from replica import SESSION

    if not SESSION.exists():
        print(f"missing: {SESSION}; DS_SYNC_TRACES names the folder of the recorded sessions. The replica is not measured.")
        return []
    done = subprocess.run([sys.executable, str(HERE / "replica.py"), str(rounds)], capture_output=True, text=True)
    if done.returncode:
        raise FailedError(f"replica: {done.stderr.strip()}")
    figures: dict[str, list[float]] = json.loads(done.stdout)
    return [(line, {OURS: [value * line.scale for value in figures[name]]}) for name, line in REPLICA_LINES.items()]


def measure_ceiling(quick: bool) -> str:
    """Return what the load generator itself can do: by 64 connections, and by one, where two processes wake each other in turn."""
    with serving_nothing() as server:
        many, one = (
            run_load(server, {"kind": "flood", "connections": connections, "seconds": 0.2 if quick else 2.0, "path": "/"})
            for connections in (64, 1)
        )
    return (
        f"The load generator alone, against a server that does nothing: {many['rate']:,.0f} requests/s with {many['generator_cpu']:.0%} of "
        f"a core; by one connection, which waits for each answer, {one['rate']:,.0f}."
    )


def describe_machine(folder: Path, node: str | None) -> str:
    """Return the facts the figures depend on."""
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    _, point, kind = max((mount for mount in mounts if folder.is_relative_to(mount[1])), key=lambda mount: len(mount[1]))
    seconds = []
    with (folder / "fsync").open("wb") as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - began)
    programs = f"Python {platform.python_version()}, ds-sync {__version__}"
    if node is not None:
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        packages = json.loads((HERE.parent / "interop" / "package.json").read_text())["devDependencies"]
        programs += f", Node.js {version}, @durable-streams/server {packages['@durable-streams/server']}"
    return (
        f"{os.cpu_count()} cores ({model}), {platform.system()} {platform.release()}, {programs}. Files on {kind} ({point}), where "
        f"fdatasync of 4 kB takes {median(seconds) * 1000:.2f} ms. Load average before the run: {os.getloadavg()[0]:.1f}."
    )


def find_node() -> str:
    """Return the path of Node.js, with the reference server installed. Raises FailedError."""
    done = subprocess.run([sys.executable, str(HERE.parent / "interop" / "node.py")], capture_output=True, text=True)
    if done.returncode:
        raise FailedError(done.stderr.strip())
    return done.stdout.strip()


def write_report(lines: Sequence[tuple[str, Line, Figures]], facts: str) -> None:
    """Write table and drawings into the documentation."""
    drawings = REFERENCE / "measurements"
    drawings.mkdir(exist_ok=True)
    text = f"{facts}\n\n"
    for group, unit, title in (
        ("appends", "appends/s", "Appends of 100 bytes"),
        ("reads", "reads/s", "Catch-up reads, from the beginning to the tail"),
        ("fan-out", "ms", "One writer, many readers: latency"),
    ):
        chosen = [(line, figures) for name, line, figures in lines if name == group and line.unit == unit]
        if group == "reads":
            # One scale can't show 100 bytes beside 50 MB.
            chosen = [(line, figures) for line, figures in chosen if " MB" in line.what]
        if chosen:
            (drawings / f"{group}.svg").write_text(draw_bars(title, unit, chosen), "utf-8")
            text += f"![{title}](measurements/{group}.svg)\n\n"
    text += build_table([(line, figures) for _, line, figures in lines]) + "\n"
    write_part(REFERENCE / "measurements.md", text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure ds-sync beside the reference server.")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds of each measurement")
    parser.add_argument("--quick", action="store_true", help="one round of tiny sizes: does it all still run? Writes nothing")
    parser.add_argument("--only", default="", metavar="PREFIX", help="only the measurements whose key begins so; writes nothing")
    parser.add_argument(
        "--servers", default="", metavar="NAMES", help=f"only these, comma separated: {OURS!r}, {FILES!r}, {MEMORY!r}; writes nothing"
    )
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the servers keep their files (default: the system's temporary folder)"
    )
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    began = time.monotonic()
    names = tuple(options.servers.split(",")) if options.servers else tuple(FSYNCS)
    if unknown := sorted({*names} - {*FSYNCS}):
        parser.error(f"no such server: {', '.join(unknown)}")
    node = None
    if FILES in names or MEMORY in names:
        print("setting up: Node.js and the reference server", flush=True)
        node = find_node()
    lines: list[tuple[str, Line, Figures]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name).resolve()
        facts = describe_machine(folder, node)
        facts = (
            f"Measured on {datetime.now(UTC):%Y-%m-%d}: {facts} {measure_ceiling(options.quick)} Medians of {rounds} alternating rounds, "
            "in brackets the range; ratios are taken round by round. Every server was warmed up."
        )
        print(facts, flush=True)
        if options.quick:
            print("--quick: sizes are tiny, whatever the lines say, and the figures mean nothing", flush=True)
        for measurement in MEASUREMENTS:
            if not measurement.key.startswith(options.only):
                continue
            chosen = restrict(measurement, names)
            results = measure(chosen, folder, node, rounds=rounds, quick=options.quick)
            for line in chosen.lines:
                figures = pick(line, results)
                lines.append((measurement.group, line, figures))
                show(line, figures, results)
    if not options.quick and not options.servers and "replica".startswith(options.only):
        for line, figures in measure_replica(min(rounds, 3)):
            lines.append(("replica", line, figures))
            show(line, figures, {})
    if not options.quick and not options.only and not options.servers:
        write_report(lines, facts)
    print(f"{time.monotonic() - began:.0f} s")
    return 0


def restrict(measurement: Measurement, names: Sequence[str]) -> Measurement:
    """Leave out servers that are not wanted, and the bars against them."""
    servers = tuple(name for name in measurement.servers if name in names)
    lines = tuple(
        replace(line, bars=tuple(bar for bar in line.bars if OURS in servers and (bar.against is None or bar.against in servers)))
        for line in measurement.lines
    )
    return replace(measurement, servers=servers, lines=lines)


def show(line: Line, figures: Figures, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print a line while the run goes on."""
    print(f"{line.what} ({line.unit})", flush=True)
    for server, values in figures.items():
        if not values:
            print(f"    {server:18} failed", flush=True)
            continue
        cpu = (
            f"  server {median(r['server_cpu'] for r in results[server]) * 1e6:.0f} µs of processor each"
            if "server_cpu" in results.get(server, [{}])[0]
            else ""
        )
        print(f"    {server:18} {median(values):12,.2f} ({min(values):,.2f} to {max(values):,.2f}){cpu}", flush=True)
    for words, met in judge(line, figures):
        print(f"    bar: {words}: {'met' if met else 'MISSED'}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FailedError as error:
        sys.exit(f"the benchmark failed: {error}")
