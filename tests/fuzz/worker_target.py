"""Inputs that could end the process they are read in: Yjs updates, files of replicas, of servers and to import, each kind in a worker."""

from __future__ import annotations

import ast
import asyncio
import random
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from findings import HANG_SECONDS, Finding
from import_check import build_sources
from mutator import mutate
from pycrdt import Array, Doc, Map, Text, XmlElement, XmlFragment
from worker import SUFFIXES, join, split

from ds_sync import Replica
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.testing.engine_contract import append, create, delete


class WorkerTarget:
    """One kind of input."""

    def __init__(self, name: str, build_seeds: Callable[[Path], list[bytes]], make: Callable[[random.Random, list[bytes]], bytes]) -> None:
        self.name = name
        self.share = 1.5
        self._build_seeds = build_seeds
        self._make = make
        self._worker: subprocess.Popen[bytes] | None = None

    def open(self, folder: Path) -> None:
        self._seeds = self._build_seeds(folder)

    def make(self, rng: random.Random) -> bytes:
        return self._make(rng, self._seeds)

    def check(self, data: bytes) -> None:
        worker = self._worker
        if worker is None:
            command = [sys.executable, str(Path(__file__).with_name("worker.py")), self.name]
            self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
            worker = self._worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)
        if worker.stdin is None or worker.stdout is None:
            raise AssertionError("both are pipes")
        try:
            worker.stdin.write(len(data).to_bytes(8, "big") + data)
            worker.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        with selectors.DefaultSelector() as selector:
            selector.register(worker.stdout, selectors.EVENT_READ)
            until = time.monotonic() + HANG_SECONDS
            if not selector.select(until - time.monotonic()):
                self.close()
                raise Finding(f"a hang: no end after {HANG_SECONDS} s")
        line = worker.stdout.readline()
        if not line:
            raise self._died()
        said = ast.literal_eval(line.decode())
        if said != "ok":
            raise Finding(said)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.communicate()
            self._errors.close()
            self._worker = None

    def _died(self) -> Finding:
        if self._worker is None:
            raise AssertionError("it was there")
        code = self._worker.wait()
        self._errors.seek(0)
        found = Finding(f"the process ended with {code}: {self._errors.read()[-2000:]}")
        self.close()
        return found


def build_updates(folder: Path) -> list[bytes]:
    """Return a document, and then updates of all kinds for it."""
    doc: Doc[Any] = Doc(client_id=1)
    updates: list[bytes] = []
    doc.observe(lambda event: updates.append(bytes(event.update)))
    text, items, fields = doc.get("text", type=Text), doc.get("items", type=Array), doc.get("fields", type=Map)
    tree = doc.get("tree", type=XmlFragment)
    text += "hello wörld 😀"
    del text[2:5]
    text.format(0, 3, {"bold": True})
    text.insert_embed(1, {"image": "x"})
    items.extend([1, 2.5, None, True, "x", [1, [2]], {"a": b"bytes"}])
    items.append(Map({"k": Array([Text("deep")])}))
    fields["a"] = 1
    fields["a"] = 2
    del fields["a"]
    element = tree.children.append(XmlElement("p", {"class": "x"}))
    element.children.append("inside")
    fields["sub"] = Doc()
    other: Doc[Any] = Doc(client_id=2)
    other.apply_update(doc.get_update())
    other.get("text", type=Text).insert(3, "from another")
    late = other.get_update(doc.get_state())
    return [bytes(doc.get_update()), *updates, bytes(late), b"\x00\x00", bytes(doc.get_state())]


def make_update(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Return a document and an update, damaged."""
    update = rng.choice(seeds)
    return join([rng.choice((seeds[0], b"\x00\x00")), mutate(rng, update, seeds[1:])])


def _with_killed(folder: Path, name: str, run: Callable[[Path, Callable[[], None]], Any]) -> list[bytes]:
    """Return the files as they are while `run` has them open and calls back, and after it has closed them."""
    seeds: list[bytes] = []

    def take() -> None:
        files = [Path(f"{folder / name}{suffix}") for suffix in SUFFIXES]
        copies = [shutil.copyfile(file, f"{file}-copy") if file.exists() else None for file in files]
        seeds.append(join([b"" if copy is None else Path(copy).read_bytes() for copy in copies]))

    asyncio.run(run(folder / name, take))
    take()
    return seeds


async def _use_replica(path: Path, take: Callable[[], None]) -> None:
    async with Replica(path) as replica:
        for name in ("notes/fuzz", "notes/other"):
            document = await replica.open(name)
            text = document.doc.get("text", type=Text)
            for number in range(20):
                text += f"edit {number} of some length "
        take()


async def _use_server(path: Path, take: Callable[[], None]) -> None:
    engine = SqliteEngine(path, settle_rows=20)
    for name in ("a", "b/c", "gone"):
        await create(engine, name)
        for number in range(15):
            await append(engine, name, b"record %d" % number * (number + 1), producer=ProducerStamp("p", 0, number))
    await delete(engine, "gone")
    take()
    await engine.aclose()


def make_file(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Return a database and its log, damaged where it hurts."""
    seed = rng.choice(seeds)
    length = int.from_bytes(seed[:8], "big")
    files = [seed[8 : 8 + length], seed[8 + length :]]
    which = 1 if files[1] and rng.random() < 0.4 else 0
    data = files[which]
    for _ in range(rng.choice((1, 1, 2, 5))):
        page = rng.randrange(max(1, len(data) // 4096)) * 4096
        kind = rng.randrange(6)
        if kind == 0:
            at = page + rng.randrange(100)
            data = data[:at] + rng.randbytes(1) + data[at + 1 :]
        elif kind == 1:
            data = data[:page] + rng.choice((bytes(4096), rng.randbytes(4096))) + data[page + 4096 :]
        elif kind == 2:
            other = rng.randrange(max(1, len(data) // 4096)) * 4096
            data = data[:page] + data[other : other + 4096] + data[page + 4096 :]
        elif kind == 3:
            data = data[:page]
        elif data:
            at = rng.randrange(len(data))
            data = data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :] if kind == 4 else mutate(rng, data, most=1)
    files[which] = data
    if rng.random() < 0.05:
        files[1 - which] = b""
    return join(files)


def make_source(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Return a file to import: one update, or a database, damaged."""
    seed = rng.choice(seeds)
    if seed is seeds[0] or rng.random() < 0.3:
        return mutate(rng, seed, seeds[:1])
    return split(make_file(rng, [join([seed])]))[0]


WORKERS = [
    WorkerTarget("yjs", build_updates, make_update),
    WorkerTarget("replica", lambda folder: _with_killed(folder, "replica.db", _use_replica), make_file),
    WorkerTarget("server", lambda folder: _with_killed(folder, "server.db", _use_server), make_file),
    WorkerTarget("import", build_sources, make_source),
]
