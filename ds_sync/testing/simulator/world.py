"""One run: a seed draws a scenario, a director carries it out, and the laws are checked while it runs and at its end."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ds_sync.exceptions import SyncStoppedError
from ds_sync.protocol.framing import build_frame
from ds_sync.replica.local import Tuning
from ds_sync.replica.store import LocalStore
from ds_sync.testing.simulator.device import DOCUMENT, SERVER, Device, seams
from ds_sync.testing.simulator.laws import Laws
from ds_sync.testing.simulator.ledger import Ledger
from ds_sync.testing.simulator.loop import StuckError, VirtualLoop
from ds_sync.testing.simulator.network import Network, Weather, draw_weather
from ds_sync.testing.simulator.process import Image, ProcessDiedError
from ds_sync.testing.simulator.server import Server, ServerOptions
from ds_sync.testing.simulator.subjects import Subject
from ds_sync.testing.simulator.text import TextSubject
from ds_sync.testing.simulator.trace import Trace, Violation

SYNC_SECONDS = 900.0
"""Simulated seconds in which everything must be synced once all faults have ended."""

QUIET_SECONDS = 100.0
"""Simulated seconds for what is still on its way then: the latest packet takes 60."""

MAX_DEVICES = 5

EVENTS = {
    "edit": 40,
    "burst": 8,
    "rest": 8,
    "network": 8,
    "reopen": 2,
    "kill": 8,
    "kill server": 5,
    "set back": 3,
    "copy": 2,
    "delete": 1,
    "full": 4,
    "partition": 4,
    "stray": 4,
    "newcomer": 1,
}
"""What may happen, and how often. Each run has only some of it, so that rare things meet (swarm testing, Groce et al. 2012)."""

ALWAYS = ("edit", "burst", "rest", "network")


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a seed draws before anything happens."""

    devices: int
    steps: int
    events: tuple[str, ...]
    weather: Weather
    options: ServerOptions
    tuning: Tuning
    merge_rows: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    seed: int
    violations: tuple[Violation, ...]
    trace: str
    lines: int
    simulated: float
    """Seconds."""


def draw_scenario(random: random.Random) -> Scenario:
    """Return the scenario of a run."""
    optional = [event for event in EVENTS if event not in ALWAYS]
    return Scenario(
        devices=random.choice((1, 2, 2, 3)),
        steps=random.randint(8, 45),
        events=(*ALWAYS, *(event for event in optional if random.random() < 0.4)),
        weather=draw_weather(random),
        options=ServerOptions(page_bytes=random.choice((64, 1024 * 1024)), settle_rows=random.choice((3, 10_000))),
        tuning=Tuning(
            max_batch=random.choice((100, 4 * 1024 * 1024)), compact_after=random.choice((150, 600, 1024 * 1024)), heal_jitter=1.0
        ),
        merge_rows=random.choice((256, 256, 2)),
    )


def draw_backups(random: random.Random) -> Scenario:
    """Return a scenario in which little happens but that the server is set back, again and again."""
    events = ("edit", "burst", "rest", "network", "network", *["set back"] * 8)
    return replace(draw_scenario(random), devices=3, steps=40, events=events, weather=Weather())


class World:
    """Devices, a server, the network between them, and the director."""

    def __init__(self, seed: int, scenario: Scenario, subject: Subject, folder: Path, trace: Trace) -> None:
        self.scenario = scenario
        self.trace = trace
        self.random = random.Random(f"{seed} director")
        self.ledger = Ledger()
        self.server = Server(folder / "server.db", trace, self.ledger, random.Random(f"{seed} server"), scenario.options)
        self.network = Network(self.server, scenario.weather, random.Random(f"{seed} network"), trace)
        adapter = subject.make_adapter(random.Random(f"{seed} laws"))
        self.laws = Laws(subject, adapter, self.network, rows_as_they_are=scenario.merge_rows > 100)
        self.devices: list[Device] = []
        self.acknowledged: list[bytes] = []
        """Updates of strangers that the server has confirmed."""
        self._seed = seed
        self._subject = subject
        self._folder = folder
        self._backups: list[Image] = []
        self._strangers: list[asyncio.Task[None]] = []
        self._url = f"{SERVER}/v1/stream/{self.laws.adapter.name}/default/docs/{DOCUMENT}/.updates"

    async def run(self) -> None:
        """Live through the scenario."""
        scenario, draw = self.scenario, self.random
        self.trace.note("world", f"{scenario}")
        self.server.start()
        for _ in range(scenario.devices):
            await self._add_device().start(online=draw.random() < 0.7)
        actions: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "edit": self._edit,
            "burst": self._burst,
            "rest": self._rest,
            "network": self._switch_network,
            "reopen": self._reopen,
            "kill": self._kill,
            "kill server": self._kill_server,
            "set back": self._set_back,
            "copy": self._copy,
            "delete": self._delete,
            "full": self._fill_disk,
            "partition": self._part,
            "stray": self._let_stranger_write,
            "newcomer": self._newcomer,
        }
        weights = [EVENTS[event] for event in scenario.events]
        for _ in range(scenario.steps):
            await asyncio.sleep(draw.choice((0.0, draw.expovariate(10.0), draw.expovariate(1.0))))
            await actions[draw.choices(scenario.events, weights)[0]]()
            await self._raise_the_dead()
        await self._calm_down()
        self.laws.check_end(self.devices, await self._tail(), self.acknowledged)

    def _add_device(self) -> Device:
        name = f"device{len(self.devices) + 1}"
        device = Device(name, self._folder / f"{name}.db", self._subject, self.network, self.laws, self.scenario.tuning, str(self._seed))
        shutil.copyfile(self._folder / "empty.db", device.path)
        self.devices.append(device)
        return device

    # What happens

    async def _edit(self) -> None:
        self.random.choice(self.devices).edit()

    async def _burst(self) -> None:
        device = self.random.choice(self.devices)
        for _ in range(self.random.randint(2, 8)):
            device.edit()

    async def _rest(self) -> None:
        await asyncio.sleep(self.random.choice((2.0, 20.0, 100.0)))

    async def _switch_network(self) -> None:
        device = self.random.choice(self.devices)
        await device.go_online(online=not device.online)

    async def _reopen(self) -> None:
        await self.random.choice(self.devices).reopen()

    async def _kill(self) -> None:
        device = self.random.choice(self.devices)
        if device.up and device.process is not None:
            if self.random.random() < 0.2:
                device.process.die("killed")
            else:
                device.process.fuse = self.random.randint(0, 12)

    async def _kill_server(self) -> None:
        process = self.server.process
        if process is not None and self.server.up:
            if self.random.random() < 0.2:
                process.die("killed")
            else:
                process.fuse = self.random.randint(0, 6)

    async def _set_back(self) -> None:
        if not self.server.up or self.server.process is None:
            return
        if not self._backups or self.random.random() < 0.6:
            self.trace.note("server", "is backed up")
            self._backups.append(Image.take(self.server.path))
            return
        self.server.process.die("to be set back to an older copy of its file")
        await self.server.bury()
        self.laws.rewritten = True
        self.random.choice(self._backups).restore(self.server.path)
        self.server.start()
        if await self._tail() is None:
            self.laws.deleted = True  # the backup is older than the stream: whoever is first makes another document

    async def _copy(self) -> None:
        original = self.random.choice(self.devices)
        if original.up and len(self.devices) < MAX_DEVICES:
            device = self._add_device()
            self.trace.note(original.name, f"its file is copied; the copy is {device.name}")
            self.laws.copied = True
            original.copy_to(device)
            await device.start(online=self.random.random() < 0.7)

    async def _delete(self) -> None:
        if self.server.up:
            self.laws.rewritten = self.laws.deleted = True
            self.trace.note("world", f"the stream is deleted: {(await self._call('DELETE'))[0]}")

    async def _fill_disk(self) -> None:
        device = self.random.choice(self.devices)
        if device.process is not None and device.up:
            device.process.full = self.random.randint(1, 3)

    async def _part(self) -> None:
        name = self.random.choice(self.devices).name
        self.trace.note(name, "can reach the server again" if name in self.network.apart else "can't reach the server")
        self.network.apart ^= {name}

    async def _newcomer(self) -> None:
        if len(self.devices) < MAX_DEVICES:
            await self._add_device().start(online=True)

    async def _let_stranger_write(self) -> None:
        """Somebody else's program makes two edits, the second on top of the first, and sends the second first."""
        tail = await self._tail()
        if tail is None:
            return
        adapter = self._subject.make_adapter(random.Random(f"{self._seed} stranger {self.random.random()}"))
        doc, updates = adapter.new(), list[bytes]()
        adapter.apply(doc, self.ledger.frames(tail))
        unobserve = adapter.observe(doc, updates.append)
        while len(updates) < 2:
            self._subject.edit(doc, self.random)
        unobserve()
        self.trace.note("stranger", "writes two edits and sends the second")
        await self._append_stranger(updates[1])
        self._strangers.append(asyncio.create_task(self._append_later(updates[0], self.random.choice((0.5, 10.0, 60.0)))))

    async def _append_later(self, update: bytes, delay: float) -> None:
        await asyncio.sleep(delay)
        self.trace.note("stranger", "sends the first")
        await self._append_stranger(update)

    async def _append_stranger(self, update: bytes) -> None:
        body = build_frame(update)
        self.network.senders.setdefault(body, set()).add(f"stranger {len(self.acknowledged)}")
        status, _ = await self._call("POST", body)
        if status in (200, 204):
            self.acknowledged.append(update)

    async def _call(self, method: str, body: bytes = b"") -> tuple[int, dict[str, str]]:
        """Ask the server directly; the status is 0 if it does not answer."""
        if not self.server.up:
            return 0, {}
        call = self.server.open(method, self._url, {"content-type": self.laws.adapter.content_type}, body)
        while not call.ended and not call.cut:
            await call.wait()
        return (0, {}) if call.cut else (call.status, call.headers)

    async def _tail(self) -> str | None:
        status, headers = await self._call("HEAD")
        return headers["stream-next-offset"] if status == 200 else None

    async def _raise_the_dead(self, *, all: bool = False) -> None:
        if not self.server.up and (all or self.random.random() < 0.3):
            if self.server.process is not None:
                await self.server.bury()
            self.server.start()
        for device in self.devices:
            if device.process is not None and device.process.dead:
                await device.bury()
            while device.process is None and (all or self.random.random() < 0.4):
                await device.start(online=all or self.random.random() < 0.8)

    # The end

    async def _calm_down(self) -> None:
        """End all faults, and give everybody time."""
        self.trace.note("world", "calms down")
        self.network.calm()
        for process in (self.server.process, *(device.process for device in self.devices)):
            if process is not None:
                process.fuse = None
        for device in self.devices:
            if device.process is not None:
                device.process.full = 0
        await self._raise_the_dead(all=True)
        for device in self.devices:
            await device.go_online(online=True)  # again, if it was: blocked documents are tried once more
        for _ in range(2):
            await asyncio.gather(*map(self._wait_until_synced, self.devices))
            await asyncio.sleep(QUIET_SECONDS)
        await asyncio.gather(*self._strangers)
        await asyncio.gather(*map(self._wait_until_synced, self.devices))
        await asyncio.sleep(1.0)

    async def _wait_until_synced(self, device: Device) -> None:
        if device.document is None:
            raise AssertionError("no document")
        try:
            async with asyncio.timeout(SYNC_SECONDS):
                await device.document.synced()
        except TimeoutError:
            self.trace.accuse("everything is synced in the end", f"{device.name} is not: {device.document.status}")
        except SyncStoppedError as error:
            self.trace.note(device.name, f"reports: {error}")

    async def end(self) -> None:
        """End all processes, and let go of all files."""
        for process in (self.server.process, *(device.process for device in self.devices)):
            if process is not None:
                process.die("the run is over")
        if self.server.process is not None:
            await self.server.bury()
        for device in self.devices:
            if device.process is not None:
                await device.bury()


def run_seed(seed: int, *, subject: Subject | None = None, scenario: Scenario | None = None) -> Outcome:
    """Live through one seed. The outcome depends on nothing but the arguments and the code."""
    subject = subject or TextSubject()
    scenario = scenario or draw_scenario(random.Random(f"{seed} scenario"))
    trace = Trace()
    loop = VirtualLoop()
    shared = Path("/dev/shm")
    handler = _LogHandler(trace)
    logger = logging.getLogger("ds_sync")
    propagate = logger.propagate
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as name, seams(merge_rows=scenario.merge_rows):
        folder = Path(name)
        (folder / "empty.db").write_bytes(_empty_replica())
        logger.addHandler(handler)
        logger.propagate = False
        loop.set_exception_handler(lambda _, context: _receive_stray_error(trace, context))
        try:
            loop.run_until_complete(_run(seed, scenario, subject, folder, trace))
        except StuckError as error:
            trace.violations.append(Violation("nothing hangs", str(error)))
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagate
            _end_tasks(loop)
            loop.close()
    return Outcome(seed, tuple(trace.violations), str(trace), len(trace.lines), loop.time())


async def _run(seed: int, scenario: Scenario, subject: Subject, folder: Path, trace: Trace) -> None:
    world = World(seed, scenario, subject, folder, trace)
    try:
        await world.run()
    except StuckError:
        raise
    except Exception as error:
        logging.getLogger("ds_sync.testing.simulator").exception("the run failed")
        trace.accuse("nothing unforeseen happens", f"{type(error).__name__}: {error}")
    finally:
        await world.end()


def _end_tasks(loop: VirtualLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks and not loop.is_closed():
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


def _receive_stray_error(trace: Trace, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if not _is_death(error):
        trace.accuse("nothing unforeseen happens", f"{context.get('message')}: {error!r}")


def _is_death(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_death, error.exceptions))
    return isinstance(error, ProcessDiedError)


class _LogHandler(logging.Handler):
    """Puts what the program logs into the trace; an exception there is one that nobody foresaw."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(logging.WARNING)
        self._trace = trace

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self._trace.note("log", text)
        if record.exc_info:
            self._trace.note("log", logging.Formatter().formatException(record.exc_info))
            self._trace.accuse("nothing unforeseen happens", f"{text}: {record.exc_info[1]!r}")


_EMPTY: list[bytes] = []


def _empty_replica() -> bytes:
    """Return the bytes of a new replica's file, made once by the real store: making one takes longer than a whole run."""
    if not _EMPTY:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "empty.db"
            LocalStore(path).close()
            _EMPTY.append(path.read_bytes())
    return _EMPTY[0]
