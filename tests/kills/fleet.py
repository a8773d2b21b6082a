"""Replicas and a server as processes, on real files, that can be killed, copied and set back."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kill_worker import parse_tokens
from stored import PATIENCE, read_file, read_server
from verdict import Loss, Witness, check_acknowledged, check_content, check_equal, check_everywhere, check_frames, parse_journal

from ds_sync.cli.ports import pick_port
from ds_sync.exceptions import CorruptFileError

HERE = Path(__file__).parent
DOCUMENTS = ("notes/kills", "täglich")


class StrangeEndError(Exception):
    """A process ended, and not by SIGKILL; or it does not do what it was told."""


def find_root(document: str) -> str:
    """Return what the paths of a document's streams begin with."""
    return f"yjs/default/docs/{document}"


def copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite file and its write-ahead log as they are."""
    for suffix in ("", "-wal"):
        Path(f"{target}{suffix}").unlink(missing_ok=True)
        if Path(f"{source}{suffix}").exists():
            shutil.copyfile(f"{source}{suffix}", f"{target}{suffix}")
    Path(f"{target}-shm").unlink(missing_ok=True)


class Process:
    """A script of ours, with its standard error kept in a file."""

    def __init__(self, name: str, script: str, config: dict[str, Any], *arguments: str, folder: Path) -> None:
        self.name = name
        self.armed = bool(config["die"])
        self._output = folder / f"{name}.out"
        self._errors = folder / f"{name}.err"
        command = [sys.executable, str(HERE / script), json.dumps(config), *arguments]
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=errors)

    @property
    def dead(self) -> bool:
        """Whether SIGKILL has ended it. Raises StrangeEndError if something else has."""
        code = self._process.poll()
        if code not in (None, -signal.SIGKILL):
            raise StrangeEndError(f"{self.name} ended with {code}: {self.complaint()}")
        return code is not None

    @property
    def output(self) -> str:
        return self._output.read_text()

    def complaint(self) -> str:
        """Return the end of what it wrote to standard error."""
        return self._errors.read_text()[-3_000:]

    def tell(self, request: dict[str, Any]) -> None:
        """Write a JSON line to its standard input."""
        if self._process.stdin is None:
            raise AssertionError("stdin is a pipe")
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise StrangeEndError(f"{self.name} is gone: {self.complaint()}") from None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if not self.dead:
            self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:  # what it was never to read
                return


class Fleet:
    """One server, some replicas, and everything they ever wrote in their journals."""

    def __init__(self, folder: Path, seed: int, *, broken: str = "", trimming: bool = False) -> None:
        """`trimming`: the server makes snapshots all the time, and keeps few of the updates before them."""
        self.rng = random.Random(seed)
        self.kills = 0
        self.dropped = 0
        """Bytes of updates of a document that the server has kept no longer, at most; where it was looked at."""
        self.folder = folder
        self.replicas: dict[str, Process] = {}
        self.server: Process | None = None
        self.server_file = folder / "server.db"
        self._broken = broken
        self._trimming = trimming
        self._port = pick_port()
        self._lives: dict[str, int] = {}
        self._inherited: dict[str, dict[str, list[Witness]]] = {}
        self._asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running():
            process._process.kill()
            process._process.communicate()

    def _running(self) -> list[Process]:
        return [*self.replicas.values(), *([self.server] if self.server else [])]

    # Starting

    def start_server(self, die: list[Any] | None = None) -> None:
        """Start it where it was, and return when it serves. `die`: see kill_server; if it dies too soon it is started unharmed."""
        self.kill_server()
        life = self._lives["server"] = self._lives.get("server", 0) + 1
        arguments: tuple[str, ...] = ("--port", str(self._port), "--data", str(self.server_file), "--long-poll-timeout", "5")
        if self._trimming:
            arguments += ("--compact-after", "1500", "--keep-updates", "300")
        config = {"die": die, "broken": self._broken, "trimming": self._trimming}
        process = self.server = Process(f"server-{life}", "kill_server.py", config, *arguments, folder=self.folder)
        self.wait(lambda: process.dead or " (" in process.output, process)
        if process.dead:
            process.kill()
            self.start_server()
            return

    def start_replica(self, name: str, *, roam: bool = True, die: list[Any] | None = None) -> None:
        """Start a replica on its file, or on a new one. `die`: see kill_worker."""
        if name in self.replicas:
            self.replicas[name].kill()
        life = self._lives[name] = self._lives.get(name, 0) + 1
        config = {
            "name": f"{name}{life}",
            "file": str(self.file(name)),
            "journal": str(self.folder / f"{name}-{life}.journal"),
            "documents": DOCUMENTS,
            "url": self.url,
            "seed": self.rng.getrandbits(32),
            "roam": roam,
            "die": die,
            "broken": self._broken,
        }
        self.replicas[name] = Process(f"{name}-{life}", "kill_worker.py", config, folder=self.folder)

    def file(self, name: str) -> Path:
        """Return a replica's file."""
        return self.folder / f"{name}.db"

    # Copying

    def copy_replica(self, name: str, copy: str) -> None:
        """Copy a replica's file as it is at this moment, be the replica alive or dead, for `copy` to start from."""

        def call() -> None:
            copy_database(self.file(name), self.file(copy))
            self._inherited[copy] = {document: self._own(document, name) for document in DOCUMENTS}

        process = self.replicas[name]
        if process.dead:
            call()
        else:
            pause(process, call)

    def _own(self, document: str, name: str) -> list[Witness]:
        """Return the witnesses of a replica's file: its own lives, and those of the file that it was copied from."""
        return self._inherited.get(name, {}).get(document, []) + self.witnesses(document, name)

    # Journals

    def _lines(self, name: str, life: int) -> list[str]:
        path = self.folder / f"{name}-{life}.journal"
        text = path.read_text() if path.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    def witnesses(self, document: str, name: str | None = None) -> list[Witness]:
        """Return what the journals of all lives say of a document; of one replica, if it is named."""
        lives = [
            (replica, life)
            for replica, count in self._lives.items()
            if replica != "server" and name in (None, replica)
            for life in range(1, count + 1)
        ]
        return [parse_journal(self._lines(*life)).get(document, Witness()) for life in lives]

    def opened(self, name: str) -> dict[str, str] | None:
        """Return what was in the file when the replica was started last; None if it is not open yet."""
        first = next((line for line in self._lines(name, self._lives[name]) if line.startswith("opened ")), None)
        return first and json.loads(first.partition(" ")[2])

    def wait_opened(self, name: str) -> None:
        """Return when the replica is open; if it dies before, it is started unharmed."""
        process = self.replicas[name]
        self.wait(lambda: process.dead or self.opened(name) is not None, process)
        if self.opened(name) is None:
            process.kill()
            self.start_replica(name)
            self.wait_opened(name)

    # Talking

    def ask(self, name: str, do: str, **request: Any) -> dict[str, str]:
        """Have a replica do something, and return the contents of its documents after it."""
        return self.ask_all([name], do, **request)[name]

    def ask_all(self, names: list[str], do: str, **request: Any) -> dict[str, dict[str, str]]:
        """Have replicas do something at the same time; return the contents of their documents."""
        numbers = {}
        for name in names:
            self._asked += 1
            numbers[name] = self._asked
            self.replicas[name].tell({"do": do, "number": self._asked, **request})
        return {name: self._answer(name, number) for name, number in numbers.items()}

    def _answer(self, name: str, number: int) -> dict[str, str]:
        process, found = self.replicas[name], []

        def answered() -> bool:
            for line in reversed(self._lines(name, self._lives[name])):
                if line.startswith(f"answer [{number}, "):
                    found.append(json.loads(line.partition(" ")[2])[1])
                    return True
            return process.dead

        self.wait(answered, process)
        if not found:
            raise StrangeEndError(f"{process.name} was killed before it answered")
        contents: dict[str, str] = found[0]
        return contents

    @staticmethod
    def wait(condition: Callable[[], bool], process: Process) -> None:
        """Return when `condition` holds. Raises StrangeEndError, which blames `process`, if that takes too long."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise StrangeEndError(f"{process.name} did not do its part within {PATIENCE:g} s: {process.complaint()}")
            time.sleep(0.01)

    # Killing

    def play_round(self) -> None:
        """Let them live for a moment, kill somebody, check what is left in the files, and start again whoever is dead."""
        rng, names = self.rng, list(self.replicas)
        if self.server is None:
            raise AssertionError("a round begins with a server")
        victims = rng.choice(([rng.choice(names)], [rng.choice(names)], ["server"], ["server"], names, [*names, "server"]))
        time.sleep(rng.uniform(0.05, 0.4))
        processes = [self.server if victim == "server" else self.replicas[victim] for victim in victims]
        for process in processes:
            self.linger(process, 0.5)
        for process in processes:
            process.kill()
        self.restart()

    @staticmethod
    def linger(process: Process, seconds: float) -> None:
        """Give a process that is to die at some point the time to come there."""
        until = time.monotonic() + seconds
        while process.armed and not process.dead and time.monotonic() < until:
            time.sleep(0.01)

    def restart(self, *, harmless: bool = False) -> None:
        """Check the files of the dead, and start them again."""
        rng = self.rng
        dead = [name for name, process in self.replicas.items() if process.dead]
        for name in dead:
            self.kills += 1
            self.replicas[name].kill()
            self.start_replica(name, die=None if harmless or rng.random() < 0.5 else choose_replica_death(rng))
        if self.server is None or self.server.dead:
            self.kills += 1
            self.kill_server()
            self.check_server_file()
            time.sleep(0 if harmless else rng.uniform(0, 0.3))
            self.start_server(None if harmless or rng.random() < 0.4 else choose_server_death(rng, trimming=self._trimming))
        for name in dead:
            self.wait_opened(name)
            self.check_opened(name)

    def kill_server(self) -> None:
        """SIGKILL, if it runs."""
        if self.server is not None:
            self.server.kill()

    # Checking

    def check_opened(self, name: str) -> None:
        """Everything that had returned in this file must have been in it when it was opened again."""
        for document, text in (self.opened(name) or {}).items():
            mine = self._own(document, name)[:-1]
            check_content(
                f"{name}, reopened, {document}",
                parse_tokens(text),
                everybody=self.witnesses(document),
                inserted=[token for witness in mine for token in witness.inserted],
                deleted=[token for witness in mine for token in witness.deleted],
            )

    def check_server_file(self) -> None:
        """Everything that was acknowledged must be in the file of the dead server."""
        copy = self.folder / "server-copy.db"
        copy_database(self.server_file, copy)
        if copy.exists():
            try:
                found = asyncio.run(read_file(copy, map(find_root, DOCUMENTS)))
            except CorruptFileError as error:  # a file that can't be read has lost what was acknowledged
                raise Loss(f"the dead server: {error}") from error
            for document in DOCUMENTS:
                tokens = parse_tokens(found[find_root(document)].text)
                check_acknowledged(f"the dead server, {document}", tokens, self.witnesses(document))
                self.dropped = max(self.dropped, found[find_root(document)].dropped)

    def settle(self) -> dict[str, dict[str, str]]:
        """Have everybody end editing and sync, until each has what all others have; return their contents."""
        names = list(self.replicas)
        self.ask_all(names, "settle")
        self.ask_all(names, "sync", seconds=PATIENCE)
        return self.ask_all(names, "sync", seconds=PATIENCE)

    def check_end(self, *, once: bool = True) -> None:
        """Settle, and check: all replicas, a fresh one and a rebuild from the raw stream have the same, and just what was written.

        `once`: no batch stands in a stream twice.
        """
        for process in self._running():
            if process.armed:
                process.kill()
        self.restart(harmless=True)
        contents = self.settle()
        self.start_replica("fresh", roam=False)
        self.ask("fresh", "connect")
        contents["fresh"] = self.ask("fresh", "sync", seconds=PATIENCE)
        self.replicas.pop("fresh").kill()
        for document in DOCUMENTS:
            stored = read_server(self.url, find_root(document))
            texts = {name: texts[document] for name, texts in contents.items()}
            for name, text in texts.items():
                check_everywhere(f"{name}, {document}", parse_tokens(text), self.witnesses(document))
            check_equal({**texts, "the server": stored.text})
            if once:
                check_frames(document, stored.payloads, len(self.replicas))


def choose_replica_death(rng: random.Random) -> list[Any]:
    """Return a point at which a replica dies: which method of its store, in which call, before which statement."""
    method, calls = rng.choice((("enqueue", 40), ("seal", 6), ("settle", 4), ("advance", 6), ("compact", 2), ("begin_heal", 1)))
    return [method, rng.randint(1, calls), rng.randint(0, 9)]


def choose_server_death(rng: random.Random, *, trimming: bool) -> list[Any]:
    """Return a point at which the server dies: between a commit and its answer, inside a commit, or between two steps of compaction."""
    points = (("answer", 12), ("answer", 12), ("write_commit", 12), ("write_settlement", 1))
    if trimming:
        points = (("step", 40), ("step", 40), ("step", 40), ("write_commit", 40), ("remove_before", 2), ("remove_life", 4))
    kind, calls = rng.choice(points)
    return [kind, rng.randint(1, calls), rng.randint(0, 7)]


def pause(process: Process, call: Callable[[], None]) -> None:
    """Call while a process stands still: what a snapshot of its disk would see."""
    process.signal(signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, process._process.pid, os.WSTOPPED | os.WNOWAIT)
        call()
    finally:
        process.signal(signal.SIGCONT)
