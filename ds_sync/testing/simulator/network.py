"""A network with weather between the replicas and the server: `ds_sync.client.transport.Transport`, without sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

from ds_sync.client.transport import Response
from ds_sync.exceptions import ClosedError, DsSyncError, TransportError, TransportTimeoutError
from ds_sync.protocol.headers import QUERY_OFFSET, STREAM_UP_TO_DATE
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.server.requests import STREAM_MOUNT
from ds_sync.testing.simulator.process import Process, ProcessDiedError
from ds_sync.testing.simulator.server import Call, Server
from ds_sync.testing.simulator.trace import Trace

REFUSALS = (401, 403, 413, 429, 500, 502, 503)
"""What something on the way may answer by itself; 204 to an append as well, if it lies."""

LATEST = 60.0
"""Seconds after which no packet arrives any more."""

MAX_RETRY_AFTER = 300.0
"""Seconds: more patience than this is not demanded of anybody (`ds_sync.client.retry.RetryPolicy`)."""


@dataclass(frozen=True, slots=True)
class Weather:
    """How likely is what, for each request; the rest goes well. `latency`: the mean, in seconds, one way."""

    latency: float = 0.02
    drop: float = 0.0
    """It never arrives."""
    lose_answer: float = 0.0
    """The server acts, and nobody hears of it."""
    late: float = 0.0
    """It arrives when its sender has given up on it, and has sent others since."""
    duplicate: float = 0.0
    """It arrives once more, at once or much later; a proxy does that, to a PUT as well."""
    slow_answer: float = 0.0
    """The server acts, and its answer takes so long that its sender may have given up."""
    cut_body: float = 0.0
    """Only the beginning of its body arrives, and then the connection is lost."""
    truncate: float = 0.0
    """The answer is cut off in the middle."""
    refuse: float = 0.0
    """Something on the way refuses it, with one of REFUSALS; sometimes it says for how long."""
    gateway: float = 0.0
    """The server acts, and something on the way answers 502."""
    lie: float = 0.0
    """Something on the way answers an append with 204, and the server never hears of it."""

    def calmed(self) -> Weather:
        """Return the same without faults."""
        return Weather(latency=self.latency)


FAULTS = ("drop", "lose_answer", "late", "duplicate", "slow_answer", "cut_body", "truncate", "refuse", "gateway", "lie")


class Network:
    """Carries requests to one server, and draws what becomes of each."""

    def __init__(self, server: Server, weather: Weather, random: random.Random, trace: Trace) -> None:
        self.server = server
        self.weather = weather
        self.random = random
        self.trace = trace
        self.apart: set[str] = set()
        """The machines that can't reach the server."""
        self.spell = 0
        """For a while, this is the answer to everything; 204 and 413 only to appends. 0: there is no such spell."""
        self.barred: dict[str, int] = {}
        """By the stream's URL: what every append to it is answered, while everything else goes its way."""
        self.token = "token 0"
        """What the server wants to see; without it the answer is 401."""
        self.tokens: dict[str, str] = {}
        """What each machine was given last, if it was given another than the first."""
        self._calm = False
        self.patience: dict[tuple[Process, str], float] = {}
        """Until when a process was asked to append nothing to a stream."""
        self.quiet_at = 0.0
        """When the last of what is late will have arrived."""
        self.bodies: dict[tuple[str, str, str], bytes] = {}
        """What went out under each producer stamp."""
        self.copied: set[str] = set()
        """The producers that more than one replica has, because a file was copied."""
        self.stamps: dict[tuple[str, bytes], tuple[str, str, str]] = {}
        """By machine and body: the stamp it goes out under now."""
        self.producers: dict[tuple[str, str], str] = {}
        """By machine and URL: the producer it sends as now."""
        self.numbers: dict[bytes, set[tuple[str, str, str]]] = {}
        """By body, the producer numbers it was sent under."""
        self.senders: dict[bytes, set[str]] = {}
        self.late: dict[bytes, int] = {}
        """Bodies that arrived under a stamp that their sender had given up, or gave up before it could know."""
        self._arrived: dict[tuple[str, str, str], float | None] = {}
        """By stamp that arrived: when, in seconds, if what came first was a late copy."""
        self._seen_at: dict[tuple[str, str], float] = {}
        """By machine and URL of a stream: when the request arrived whose answer last showed it the stream's end; in seconds."""
        self.read_at: dict[tuple[str, str], float] = {}
        """By machine and stream: when a request for the stream from its beginning reached the server, last; in seconds."""

    def calm(self) -> None:
        """End all faults."""
        self.weather = self.weather.calmed()
        self.apart.clear()
        self.spell = 0
        self._calm = True

    def change_token(self, machines: Collection[str]) -> None:
        """Take only a new token from now on. The machines are given it later, each at its time."""
        self.token = f"token {self.random.getrandbits(20)}"
        for machine in machines:
            asyncio.get_running_loop().call_later(self.random.uniform(0.0, LATEST), self.tokens.__setitem__, machine, self.token)

    async def find_token(self, machine: str) -> str:
        """Return the token that a machine has."""
        return self.token if self._calm else self.tokens.get(machine, "token 0")

    def cast_spell(self, status: int, seconds: float) -> None:
        """Let everything be answered with `status` for a while."""
        self.spell = status
        asyncio.get_running_loop().call_later(seconds, self._end_spell, status)

    def _end_spell(self, status: int) -> None:
        if self.spell == status:
            self.spell = 0

    def draw(self, method: str) -> str:
        """Return what becomes of a request."""
        chance = self.random.random()
        for fault in FAULTS:
            chance -= getattr(self.weather, fault)
            if chance < 0:
                return "" if fault in ("lie", "cut_body") and method != "POST" else fault
        return ""

    def latency(self) -> float:
        """Return how long a packet takes, in seconds; packets overtake each other."""
        return self.random.expovariate(1.0 / self.weather.latency)

    def refuse(self, method: str, url: str) -> Response | None:
        """Return the answer of the spell, or of what bars this stream, if there is one and it is about such a request."""
        if method == "POST" and url in self.barred:
            return self.make_refusal(self.barred[url])
        return None if not self.spell or (self.spell in (204, 413) and method != "POST") else self.make_refusal(self.spell)

    def make_refusal(self, status: int) -> Response:
        """Return an answer that the server did not give."""
        if status == 204:
            return Response(204, {"stream-next-offset": "0000000000000001_0000000000000001"})
        wait = self.random.choice(("1", "5", "40", None)) if status in (429, 503) else None
        return Response(status, {} if wait is None else {"retry-after": wait})

    def send(self, process: Process, method: str, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Write down what a process sends. The same number never stands for two different bodies, and nobody comes before the time."""
        stamp, sender = _stamp(headers), process.name
        if method != "POST" or stamp is None:
            return
        now, until = asyncio.get_running_loop().time(), self.patience.pop((process, url), 0.0)
        if now < until:
            self.trace.accuse("Retry-After is honoured", f"{sender} appends {until - now:.1f} seconds too early")
        before = self.bodies.setdefault(stamp, body)
        if before != body and stamp[0] not in self.copied:
            self.trace.accuse("one number, one body", f"{sender} sends {body!r} as {stamp}, which was {before!r}")
        given_up = self.stamps.get((sender, body), stamp)
        arrived = self._arrived.get(given_up)
        if given_up != stamp and arrived is not None and self._seen_at.get((sender, url), -1.0) < arrived:
            self.late[body] = self.late.get(body, 0) + 1
            self._arrived[given_up] = None  # counted
        self.stamps[sender, body] = stamp
        self.producers[sender, url] = stamp[0]
        self.senders.setdefault(body, set()).add(sender)
        self.numbers.setdefault(body, set()).add(stamp)

    def heed(self, process: Process, method: str, url: str, answer: Response) -> None:
        """Write down how long a process was asked to wait. Whoever connects anew may try at once (`excuse`)."""
        if method == "POST" and (wait := answer.headers.get("retry-after")) is not None:
            self.patience[process, url] = asyncio.get_running_loop().time() + min(float(wait), MAX_RETRY_AFTER)

    def excuse(self, process: Process) -> None:
        """Somebody told the process to connect, or to open a document: it does not have to wait for that."""
        for key in [key for key in self.patience if key[0] is process]:
            del self.patience[key]

    def read(self, sender: str, method: str, url: str) -> None:
        """Write down that a request arrives whose answer the sender may read."""
        parts = urlsplit(url)
        if method == "GET" and parse_qs(parts.query)[QUERY_OFFSET] == [BEGINNING]:
            self.read_at[sender, parts.path.encode().removeprefix(STREAM_MOUNT).decode()] = asyncio.get_running_loop().time()

    def show(self, sender: str, url: str, answer: Response, arrived: float) -> None:
        """Write down that the sender has the answer to a request that arrived at `arrived`, in seconds."""
        if answer.headers.get(STREAM_UP_TO_DATE) == "true":
            self._seen_at[sender, url.partition("?")[0]] = arrived

    def deliver(
        self, sender: str, method: str, url: str, headers: Mapping[str, str], body: bytes, *, missing: int = 0, late: bool = False
    ) -> Call:
        """Bring a request to the server, but for its last `missing` bytes. Raises TransportError if it can't be reached.

        `late`: it is a copy, or its sender does not wait any more.
        """
        if sender in self.apart:
            raise TransportError("no connection")
        stamp = _stamp(headers)
        if headers.get("authorization", "Bearer token 0") != f"Bearer {self.token}":
            return Call(b"").answer(401, {})
        now = (self.stamps.get((sender, body)), self.producers.get((sender, url)))
        if method == "POST" and stamp is not None and now != (stamp, stamp[0]):
            self.late[body] = self.late.get(body, 0) + 1
            late = False  # counted
        call = self.server.open(method, url, headers, body, missing=missing)
        if stamp is not None and not missing:
            self._arrived.setdefault(stamp, asyncio.get_running_loop().time() if late else None)
        return call


class SimulatedTransport:
    """One process's access to the network."""

    def __init__(self, process: Process, network: Network) -> None:
        self._process = process
        self._network = network
        self._closed = False

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"", timeout: float | None) -> Response:
        network, name = self._network, self._process.name
        fate = self._begin(method, url, headers, body)
        await asyncio.sleep(network.latency())
        try:
            answer = await self._exchange(fate, method, url, headers, body, timeout)
        except DsSyncError as error:
            network.trace.note(name, f"  {method} {_short(url)}: {error}{f' [{fate}]' if fate else ''}")
            raise
        stamp = _stamp(headers)
        number = f" as {stamp[0][:4]}/{stamp[2]}" if stamp else ""
        network.trace.note(name, f"  {method} {_short(url)}{number}: {answer.status}{f' [{fate}]' if fate else ''}")
        network.heed(self._process, method, url, answer)
        self._process.step(f"with an answer to {method}")
        return answer

    async def _exchange(self, fate: str, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout: float | None) -> Response:
        network, name = self._network, self._process.name
        if fate == "drop":
            raise await self._nothing(timeout)
        if fate == "late":
            self._come_again(method, url, headers, body)
            raise await self._nothing(timeout)
        if (refusal := network.refuse(method, url)) is not None:
            return refusal
        if fate == "refuse":
            return network.make_refusal(network.random.choice(REFUSALS))
        if fate == "lie":
            return network.make_refusal(204)
        missing = network.random.randint(1, len(body)) if fate == "cut_body" else 0
        call = network.deliver(name, method, url, headers, body, missing=missing)
        network.read(name, method, url)
        arrived = asyncio.get_running_loop().time()
        try:
            if missing:
                raise await self._nothing(timeout)
            if fate == "duplicate":
                self._come_again(method, url, headers, body)
            try:
                async with asyncio.timeout(timeout):
                    while not call.ended and not call.cut:
                        await call.wait()
            except TimeoutError:
                raise TransportTimeoutError("no answer in time") from None
        finally:
            call.hang_up()
        await asyncio.sleep(network.latency())
        if not call.ended:
            raise TransportError("the connection was lost")
        if fate == "lose_answer" or name in network.apart:
            raise await self._nothing(timeout)
        if fate == "slow_answer":
            takes = network.random.uniform(0.0, LATEST)
            await asyncio.sleep(takes if timeout is None else min(takes, timeout))
            if timeout is not None and takes > timeout:
                raise TransportTimeoutError("no answer in time")
        if fate == "truncate":
            raise TransportError("the connection was cut off in the middle of an answer")
        if fate == "gateway":
            return Response(502, {})
        answer = Response(call.status, call.headers, b"".join(call.chunks))
        network.show(name, url, answer, arrived)
        return answer

    def stream(
        self, method: str, url: str, *, headers: Mapping[str, str], timeout: float | None
    ) -> AbstractAsyncContextManager[_Streaming]:
        return self._open(method, url, headers, timeout)

    async def aclose(self) -> None:
        self._closed = True

    @asynccontextmanager
    async def _open(self, method: str, url: str, headers: Mapping[str, str], timeout: float | None) -> AsyncIterator[_Streaming]:
        network, name = self._network, self._process.name
        fate = self._begin(method, url, headers, b"")
        await asyncio.sleep(network.latency())
        if fate in ("drop", "late", "lose_answer", "slow_answer"):
            error = await self._nothing(timeout)
            network.trace.note(name, f"  {method} {_short(url)}: {error} [{fate}]")
            raise error
        refusal = network.refuse(method, url)
        if refusal is None and fate in ("refuse", "gateway"):
            refusal = network.make_refusal(network.random.choice((401, 403, 429, 500, 502, 503)))
        if refusal is not None:
            call = Call(b"").answer(refusal.status, refusal.headers)
        else:
            call = network.deliver(name, method, url, headers, b"")
            network.read(name, method, url)
        try:
            while not call.status and not call.cut:
                await call.wait()
            await asyncio.sleep(network.latency())
            if not call.status:
                raise TransportError("the connection was lost")
            network.trace.note(name, f"  {method} {_short(url)}: {call.status}{f' [{fate}]' if fate else ''}")
            cut = network.random.randint(0, 400) if fate == "truncate" else None
            yield _Streaming(call, network, self._process, timeout, cut)
        finally:
            call.hang_up()

    def _begin(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> str:
        if self._process.dead:
            raise ProcessDiedError(self._process.name)
        if self._closed:
            raise ClosedError("the transport is closed")
        self._network.send(self._process, method, url, headers, body)
        fate = self._network.draw(method)
        if fate:
            self._network.trace.count(fate)
        return fate

    async def _nothing(self, timeout: float | None) -> TransportError:
        """Wait as one does to whom nobody answers; return the error."""
        if timeout is None or self._network.random.random() < 0.5:
            await asyncio.sleep(self._network.latency())
            return TransportError("the connection was reset")
        await asyncio.sleep(timeout)
        return TransportTimeoutError("no answer in time")

    def _come_again(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Let the request arrive later: now and then at once, now and then after much else has happened."""
        delay = self._network.random.choice((0.01, 1.0, LATEST)) * self._network.random.random()
        loop = asyncio.get_running_loop()
        self._network.quiet_at = max(self._network.quiet_at, loop.time() + delay)
        loop.call_later(delay, self._deliver_late, method, url, headers, body)

    def _deliver_late(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> None:
        try:
            self._network.deliver(self._process.name, method, url, headers, body, late=True)
            self._network.trace.note(self._process.name, f"  {method} {_short(url)} arrives late, or again")
        except TransportError as error:
            self._network.trace.note(self._process.name, f"  {method} {_short(url)} would arrive late: {error}")


class _Streaming:
    """An answer on its way. After `cut` bytes of it (None: never) the connection is lost."""

    def __init__(self, call: Call, network: Network, process: Process, timeout: float | None, cut: int | None) -> None:
        self.status = call.status
        self.headers: Mapping[str, str] = call.headers
        self._call = call
        self._network = network
        self._process = process
        self._timeout = timeout
        self._left = cut

    async def chunks(self) -> AsyncIterator[bytes]:
        call, network = self._call, self._network
        while True:
            while call.chunks:
                await asyncio.sleep(network.latency())
                if self._process.name in network.apart:
                    await asyncio.sleep(self._timeout or 0.0)
                    raise TransportTimeoutError("no answer in time")
                yield self._take()
                self._process.step("with a piece of a live answer")
            if call.ended:
                return
            if call.cut:
                raise TransportError("the connection was lost")
            try:
                async with asyncio.timeout(self._timeout):
                    await call.wait()
            except TimeoutError:
                raise TransportTimeoutError("no answer in time") from None

    def _take(self) -> bytes:
        """Return the next piece: packets know nothing of the chunks they carry."""
        chunk = self._call.chunks.pop(0)
        if len(chunk) > 1 and self._network.random.random() < 0.2:
            at = self._network.random.randrange(1, len(chunk))
            self._call.chunks.insert(0, chunk[at:])
            chunk = chunk[:at]
        if self._left is not None:
            chunk, self._left = chunk[: self._left], self._left - len(chunk)
            if self._left <= 0:
                self._call.chunks.clear()
                self._call.ended, self._call.cut = False, True
        return chunk


def _stamp(headers: Mapping[str, str]) -> tuple[str, str, str] | None:
    name = headers.get("producer-id")
    return None if name is None else (name, headers["producer-epoch"], headers["producer-seq"])


def _short(url: str) -> str:
    stream, mark, query = url.partition("?")
    return stream.removesuffix("/.updates").rpartition("/")[2] + mark + query


def draw_weather(random: random.Random) -> Weather:
    """Return the weather of one run: some of the faults, each at its own rate, so that runs differ in kind."""
    if random.random() < 0.15:
        return Weather(latency=random.choice((0.001, 0.02, 0.3)))
    faults = {fault: random.choice((0.0, 0.0, 0.02, 0.1)) for fault in FAULTS}
    return replace(Weather(latency=random.choice((0.001, 0.02, 0.3))), **faults)
