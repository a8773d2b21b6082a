"""One run: a seed draws a scenario, a director carries it out, and the laws are checked while it runs and at its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ds_sync.exceptions import SyncStoppedError
from ds_sync.replica.store import LocalStore
from ds_sync.testing.simulator.device import Device, Holding
from ds_sync.testing.simulator.disk import Disk, Image
from ds_sync.testing.simulator.laws import Laws
from ds_sync.testing.simulator.ledger import Ledger
from ds_sync.testing.simulator.loop import StuckError, VirtualLoop
from ds_sync.testing.simulator.network import LATEST, REFUSALS, Network
from ds_sync.testing.simulator.process import Process, ProcessDiedError
from ds_sync.testing.simulator.scenario import Scenario, draw_scenario
from ds_sync.testing.simulator.server import Server
from ds_sync.testing.simulator.strangers import Shared, Strangers
from ds_sync.testing.simulator.subjects import Subject
from ds_sync.testing.simulator.text import TextSubject
from ds_sync.testing.simulator.trace import Trace, Violation

SYNC_SECONDS = 900.0
"""Simulated seconds in which everything must be synced once all faults have ended."""

QUIET_SECONDS = 10.0
"""Simulated seconds to wait then for what nobody waits for, once nothing is late any more."""

PAUSE_SECONDS = 100.0
"""Simulated seconds in which a replica that says it is stopped has tried again."""

MAX_DEVICES = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    seed: int
    violations: tuple[Violation, ...]
    trace: str
    lines: int
    simulated: float
    """Seconds."""
    counts: Counter[str]
    """How often what happened."""


class World:
    """Devices, a server, the network between them, and the director."""

    def __init__(self, seed: int, scenario: Scenario, subject: Subject, folder: Path, trace: Trace) -> None:
        self.scenario = scenario
        self.trace = trace
        self.random = random.Random()
        """The running event's."""
        self.server = Server(folder / "server.db", trace, Ledger(), random.Random(f"{seed} server"), scenario.options)
        self.network = Network(self.server, scenario.weather, random.Random(f"{seed} network"), trace)
        adapter = subject.make_adapter(random.Random(f"{seed} laws"))
        self.documents = [
            Shared(
                path,
                Laws(
                    f"{adapter.name}/default/docs/{path}/.updates",
                    subject,
                    adapter,
                    self.network,
                    rows_as_they_are=scenario.tuning.merge_rows > 100,
                ),
            )
            for path in ("doc", *(f"doc{number}" for number in range(2, scenario.documents + 1)))
        ]
        self.devices: list[Device] = []
        self._seed = seed
        self._subject = subject
        self._folder = folder
        self._backups: list[Image] = []
        self._strangers = Strangers(self.server, self.network, subject, seed)

    async def run(self) -> None:
        """Live through the scenario."""
        scenario = self.scenario
        self.trace.note("world", f"{replace(scenario, steps=())}")
        self.server.start()
        if scenario.options.ttl is not None:
            for shared in self.documents:
                await self._strangers.ask("PUT", shared, headers={"stream-ttl": str(scenario.options.ttl)})
        self.random.seed(f"{self._seed} beginning")
        for _ in range(scenario.devices):
            await self._add_device().start(online=self.random.random() < 0.7)
        strangers = self._strangers
        actions: dict[str, Callable[[], Coroutine[Any, Any, bool]]] = {
            "edit": self._edit,
            "burst": self._burst,
            "rest": self._rest,
            "network": self._switch_network,
            "transact": self._transact,
            "reopen": self._reopen,
            "close": self._close,
            "kill": self._kill,
            "kill server": self._kill_server,
            "power cut": self._cut_power,
            "power cut of the server": self._cut_power_of_server,
            "set back": self._set_back,
            "copy": self._copy,
            "delete": lambda: strangers.delete(self.random.choice(self.documents), self.random),
            "full": self._fill_disk,
            "partition": self._part,
            "stray": lambda: strangers.write(self.random.choice(self.documents), self.random),
            "garbage": lambda: strangers.write_garbage(self.random.choice(self.documents), self.random),
            "bar": self._bar,
            "newcomer": self._newcomer,
            "trim": lambda: strangers.trim(self.random.choice(self.documents)),
            "spell": self._cast_spell,
            "token": self._change_token,
            "resolve": self._resolve,
        }
        for step in scenario.steps:
            await asyncio.sleep(step.pause)
            self.random.seed(f"{self._seed} {step.key}")
            if await actions[step.event]():
                self.trace.count(step.event)
            await self._raise_the_dead()
        await self._calm_down()
        for what, times in (("snapshot", self.server.ledger.snapshots), ("updates dropped", len(self.server.ledger.dropped))):
            if times:  # a 0 would say that it may happen in every kind of run
                self.trace.counts[what] += times
        for shared in self.documents:
            holdings = [device.holdings[shared.path] for device in self.devices]
            shared.laws.check_end(holdings, await self._strangers.find_tail(shared), shared.acknowledged)

    def _add_device(self) -> Device:
        name = f"device{len(self.devices) + 1}"
        laws = {shared.path: shared.laws for shared in self.documents}
        device = Device(name, self._folder / f"{name}.db", self._subject, self.network, laws, self.scenario, self._seed)
        shutil.copyfile(self._folder / "empty.db", device.path)
        self.devices.append(device)
        return device

    def _choose(self) -> tuple[Device, Holding]:
        device = self.random.choice(self.devices)
        return device, device.holdings[self.random.choice(self.documents).path]

    # What happens. Each returns whether it did.

    async def _edit(self) -> bool:
        device, holding = self._choose()
        return device.edit(holding)

    async def _burst(self) -> bool:
        device, holding = self._choose()
        for _ in range(self.random.randint(2, 8)):
            device.edit(holding)
        return device.up

    async def _rest(self) -> bool:
        await asyncio.sleep(self.random.choice((2.0, 20.0, 100.0)))
        return True

    async def _switch_network(self) -> bool:
        device = self.random.choice(self.devices)
        return await device.go_online(online=not device.online)

    async def _transact(self) -> bool:
        device, holding = self._choose()
        mean = self.random.choice((0.01, 1.0))
        return device.transact(holding, [self.random.expovariate(1.0 / mean) for _ in range(self.random.randint(1, 3))])

    async def _reopen(self) -> bool:
        device, holding = self._choose()
        return await device.reopen(holding, after=self.random.choice((0.0, 1.0)))

    async def _close(self) -> bool:
        device, holding = self._choose()
        return await device.reopen(holding, after=None)

    async def _kill(self) -> bool:
        return self._light_fuse(self.random.choice(self.devices).process, 12)

    async def _kill_server(self) -> bool:
        return self._light_fuse(self.server.process, 6)

    async def _cut_power(self) -> bool:
        return self._light_fuse(self.random.choice(self.devices).process, 12, power=True)

    async def _cut_power_of_server(self) -> bool:
        return self._light_fuse(self.server.process, 6, power=True)

    def _light_fuse(self, process: Process | None, steps: int, *, power: bool = False) -> bool:
        if process is None or process.dead:
            return False
        process.power_fails = power
        if self.random.random() < 0.2:
            process.die("just so")
        else:
            process.fuse = self.random.randint(0, steps)
        return True

    async def _set_back(self) -> bool:
        if not self.server.up or self.server.process is None:
            return False
        if not self._backups or self.random.random() < 0.6:
            self.trace.note("server", "is backed up")
            self._backups.append(Image.take(self.server.path))
            return False
        self.server.process.power_fails = False
        self.server.process.die("to be set back to an older copy of its file")
        await self.server.bury()
        self.random.choice(self._backups).restore(self.server.path)
        self.server.disk = Disk(self.server.path)
        self.server.start()
        self.server.trimmed.clear()
        for shared in self.documents:
            shared.laws.set_back_at = asyncio.get_running_loop().time()
            shared.laws.restored = True
            if await self._strangers.find_tail(shared) is None:
                shared.laws.made_anew = True  # the backup is older than the stream: whoever is first makes another document
        return True

    async def _copy(self) -> bool:
        original = self.random.choice(self.devices)
        if not original.up or len(self.devices) >= MAX_DEVICES:
            return False
        device = self._add_device()
        self.trace.note(original.name, f"its file is copied; the copy is {device.name}")
        for shared in self.documents:
            shared.laws.copied = True
        original.copy_to(device)
        await device.start(online=self.random.random() < 0.7)
        return True

    async def _cast_spell(self) -> bool:
        """For a while, something on the way gives the same answer to everything."""
        status, seconds = self.random.choice((204, *REFUSALS)), self.random.choice((5.0, LATEST))
        self.trace.note("world", f"for {seconds:.0f} seconds, the answer is {status}")
        self.network.cast_spell(status, seconds)
        return True

    async def _change_token(self) -> bool:
        self.trace.note("world", "the tokens are changed")
        self.network.change_token([device.name for device in self.devices])
        return True

    async def _resolve(self) -> bool:
        """Somebody lets both go on: what is here and what is there."""
        stopped = [(device, holding) for device in self.devices for holding in device.open_holdings if holding.stopped]
        if not stopped:
            return False
        device, holding = self.random.choice(stopped)
        return await device.resolve(holding)

    async def _fill_disk(self) -> bool:
        device = self.random.choice(self.devices)
        if device.process is None or not device.up:
            return False
        device.process.full = self.random.randint(1, 3)
        return True

    async def _part(self) -> bool:
        name = self.random.choice(self.devices).name
        self.trace.note(name, "can reach the server again" if name in self.network.apart else "can't reach the server")
        self.network.apart ^= {name}
        return True

    async def _bar(self) -> bool:
        """Something on the way refuses all that is written to one document, until the end."""
        shared, status = self.random.choice(self.documents), self.random.choice((401, 403, 413, 429, 500))
        self.trace.note("world", f"nothing can be written to {shared.path}: {status}")
        self.network.barred[shared.url] = status
        return True

    async def _newcomer(self) -> bool:
        if len(self.devices) >= MAX_DEVICES:
            return False
        await self._add_device().start(online=True)
        return True

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
        holdings = [holding for device in self.devices for holding in device.holdings.values()]
        for device in self.devices:
            await device.open_all()
            await asyncio.gather(*(holding.transaction for holding in device.holdings.values() if holding.transaction))
            await device.go_online(online=True)  # again, if it was: blocked documents are tried once more
        if self.network.barred:
            free = [shared.path for shared in self.documents if shared.url not in self.network.barred]
            await self._wait_until_synced(device.holdings[path] for device in self.devices for path in free)
            self.trace.note("world", "everything can be written to again")
            self.network.barred.clear()
            for device in self.devices:
                await device.go_online(online=True)
        for _ in range(2):
            going_on = await self._wait_until_synced(holdings)
            late = self.network.quiet_at - asyncio.get_running_loop().time()
            await asyncio.sleep(max(0.0, late) + (QUIET_SECONDS if going_on else PAUSE_SECONDS))
        await self._strangers.finish()
        # A request of theirs that came last may have ended a stream: whoever follows it has to notice, and make it anew.
        for _ in range(2):
            await self._wait_until_synced(holdings)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _wait_until_synced(self, holdings: Iterable[Holding]) -> bool:
        """Return whether nobody said that it can't."""
        return all(await asyncio.gather(*map(self._wait_for_one, holdings)))

    async def _wait_for_one(self, holding: Holding) -> bool:
        if holding.document is None:
            raise AssertionError("no document")
        try:
            async with asyncio.timeout(SYNC_SECONDS):
                await holding.document.synced()
        except TimeoutError:
            self.trace.accuse("everything is synced in the end", f"{holding.name} is not: {holding.document.status}")
        except SyncStoppedError as error:
            self.trace.note(holding.name, f"reports: {error}")
            return False
        return True

    async def end(self) -> None:
        """End all processes, and let go of all files."""
        for process in (self.server.process, *(device.process for device in self.devices)):
            if process is not None:
                process.power_fails = False
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
    with _no_collection(), tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as name:
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
    told = str(trace).replace(f"{folder}/", "")  # its name is another each time
    return Outcome(seed, tuple(trace.violations), told, len(trace.lines), loop.time(), trace.counts)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage meanwhile: when it happens depends on the machine, and it may end generators, which others would notice."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


async def _run(seed: int, scenario: Scenario, subject: Subject, folder: Path, trace: Trace) -> None:
    world = World(seed, scenario, subject, folder, trace)
    try:
        await world.run()
    except StuckError:
        raise
    except Exception as error:
        logging.getLogger(__name__).exception("the run failed")
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
