"""The load generator for rooms, in a process of its own: reads one job as a line of JSON, prints its result as another.

Used by rooms.py, the same for every server. Updates are those of real documents; what they insert is found again in what arrives, however
the server has packed it, and is counted: whatever is missing ends the process with an error.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from load import quantiles, run_job
from pycrdt import Doc, Text
from room_wire import RoomClient, read_varint
from wire import BrokenAnswerError

C = TypeVar("C", bound=RoomClient)

STAMP = re.compile(rb"<(\d{19})>")
"""When an update was made, in nanoseconds; the update inserts this."""

NUMBER = re.compile(rb"<(\d{8})>")

END = "<that was all>"

PATIENCE = 90.0
"""Seconds after which what is awaited does not come any more."""

AT_ONCE = 50
"""Connections that are made at a time, and updates that are sent between two looks at whether the server takes them."""


class Follower(RoomClient):
    """Notes when each of `expected` stamped updates comes."""

    def __init__(self, path: str, envelope: str, expected: int) -> None:
        super().__init__(path, envelope)
        self._rest = b""
        self._expected = expected
        self.latencies: list[float] = []

    def receive(self, data: bytes) -> None:
        now = time.time_ns()
        end = 0
        data = self._rest + data
        for match in STAMP.finditer(data):
            self.latencies.append((now - int(match[1])) / 1e9)
            end = match.end()
        self._rest = data[max(end, len(data) - 20) :]
        if len(self.latencies) == self._expected:
            self.finish()


class Collector(RoomClient):
    """Keeps everything that comes, until the end has come."""

    def __init__(self, path: str, envelope: str) -> None:
        super().__init__(path, envelope)
        self.parts: list[bytes] = []
        self._tail = b""

    def receive(self, data: bytes) -> None:
        self.parts.append(data)
        if END.encode() in (seen := self._tail + data):
            self.finish()
        self._tail = seen[-len(END) :]


class Writer(Doc[Text]):
    """A document, and the updates its edits make."""

    def __init__(self) -> None:
        super().__init__()
        self._text = self.get("text", type=Text)
        self._made = b""
        self._subscription = self.observe(self._note)

    def write(self, words: str) -> bytes:
        """Insert at the end; return the update."""
        self._text += words
        return self._made

    def _note(self, event: Any) -> None:
        self._made = event.update


async def enter(job: dict[str, Any], count: int, make: Callable[[str, str], C], *, rooms: int = 1) -> list[C]:
    """Return clients that have what the room holds, in turn in one of so many rooms."""
    loop = asyncio.get_running_loop()
    clients: list[C] = []
    async with asyncio.timeout(PATIENCE):
        while len(clients) < count:
            numbers = range(len(clients), min(count, len(clients) + AT_ONCE))
            suffixes = [f"-{number % rooms}" if rooms > 1 else "" for number in numbers]
            new = [
                make(job["path"] + ("" if job["envelope"] else suffix), job["envelope"] and job["envelope"] + suffix) for suffix in suffixes
            ]
            for client in new:
                await loop.create_connection(lambda client=client: client, "127.0.0.1", job["port"])
            await asyncio.gather(*(client.ready for client in new))
            clients += new
    return clients


async def wait_for(clients: Sequence[RoomClient], writer: RoomClient) -> None:
    """Wait until all are done. Raises what a broken one ran into, the writer too, and BrokenAnswerError if some never are."""
    everybody = asyncio.gather(*(client.done for client in clients))
    done, _ = await asyncio.wait((everybody, writer.done), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    if not done:
        missing = sum(not client.done.done() for client in clients)
        raise BrokenAnswerError(f"{missing} of {len(clients)} clients have not got everything after {PATIENCE:.0f} s")
    for future in done:
        future.result()


async def fan_out(job: dict[str, Any]) -> dict[str, Any]:
    """One writer, `per_second` updates a second, and many readers; latency from making an update to its arrival."""
    count = round(job["per_second"] * job["seconds"])
    readers = await enter(job, job["readers"], lambda path, envelope: Follower(path, envelope, count))
    [writer] = await enter(job, 1, RoomClient)
    doc = Writer()
    await asyncio.sleep(0.2)
    started = time.perf_counter()
    for number in range(count):
        await asyncio.sleep(max(0.0, started + number / job["per_second"] - time.perf_counter()))
        writer.write(writer.frame_update(doc.write(f"<{time.time_ns()}>")))
    await wait_for(readers, writer)
    latencies = [latency for reader in readers for latency in reader.latencies]
    return {"count": len(latencies), **quantiles(latencies)}


async def flood(job: dict[str, Any]) -> dict[str, Any]:
    """One writer that does not wait, and readers: updates delivered a second, until the last reader has the last one."""
    readers = await enter(job, job["readers"], Collector)
    [writer] = await enter(job, 1, RoomClient)
    doc = Writer()
    frames = [writer.frame_update(doc.write(f"<{number:08d}>")) for number in range(job["updates"])]
    frames.append(writer.frame_update(doc.write(END)))
    started = time.perf_counter()
    await send_all(writer, frames)
    await wait_for(readers, writer)
    seconds = time.perf_counter() - started
    for reader in readers:
        if [int(number) for number in NUMBER.findall(b"".join(reader.parts))] != list(range(job["updates"])):
            raise BrokenAnswerError("a reader has not got every update once, in order")
    count = job["updates"] * len(readers)
    return {"count": count, "rate": count / seconds}


async def send_all(writer: RoomClient, frames: Sequence[bytes]) -> None:
    """Send as fast as the server takes them."""
    for start in range(0, len(frames), AT_ONCE):
        writer.write(b"".join(frames[start : start + AT_ONCE]))
        await writer.drain()
        await asyncio.sleep(0)


def read_updates(file: Path) -> Iterator[bytes]:
    """Return the updates of a file, each with its length before it."""
    data, start = file.read_bytes(), 0
    while start < len(data):
        size, start = read_varint(data, start)
        yield data[start : start + size]
        start += size


async def push(job: dict[str, Any]) -> dict[str, Any]:
    """Send the updates of a file, and wait until the last one has come back; then a newcomer must find the whole text."""
    [writer] = await enter(job, 1, Collector)
    frames = [writer.frame_update(update) for update in read_updates(Path(job["file"]))]
    started = time.perf_counter()
    await send_all(writer, frames)
    await wait_for([writer], writer)
    seconds = time.perf_counter() - started
    # The writer stays: whoever leaves a room empty may make the server forget it.
    [reader] = await enter(job, 1, RoomClient)
    doc: Doc[Text] = Doc()
    doc.apply_update(reader.ready.result())
    length = len(str(doc.get("text", type=Text)))
    if length != job["length"]:
        raise BrokenAnswerError(f"{length} characters are there, {job['length']} were pushed")
    return {"count": len(frames), "seconds": seconds}


async def find(job: dict[str, Any]) -> dict[str, Any]:
    """Enter, and count the numbered updates that are there, or come within a second: some servers let people in before they have read."""
    [reader] = await enter(job, 1, Collector)
    await asyncio.sleep(1.0)
    return {"count": 1, "numbers": len(set(NUMBER.findall(b"".join((reader.ready.result(), *reader.parts)))))}


async def hold(job: dict[str, Any]) -> dict[str, Any]:
    """Hold many connections, in rooms of `per_room`, until a line comes on standard input. `words` are written into each room."""
    rooms = max(1, job["connections"] // job["per_room"])
    clients = await enter(job, job["connections"], RoomClient, rooms=rooms)
    if job["words"]:
        for client in clients:
            client.write(client.frame_update(Writer().write("x" * job["words"])))
    await asyncio.sleep(1.0)
    print("held", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    held = sum(not client.done.done() for client in clients)
    if held != len(clients):
        raise BrokenAnswerError(f"{held} of {len(clients)} connections were still open")
    return {"count": held}


async def relay(job: dict[str, Any]) -> dict[str, Any]:
    """One writer, one reader, until the server dies: how many updates the reader has got by then. Says "relayed" when some have come."""
    [reader], [writer] = await enter(job, 1, Collector), await enter(job, 1, RoomClient)
    doc = Writer()
    started = time.perf_counter()
    number = 0
    while not reader.done.done() and not writer.done.done():
        await asyncio.sleep(max(0.0, started + number / job["per_second"] - time.perf_counter()))
        writer.write(writer.frame_update(doc.write(f"<{number:08d}>")))
        number += 1
        if number == job["per_second"] // 2 and reader.parts:
            print("relayed", flush=True)
        if number > job["per_second"] * PATIENCE:
            raise BrokenAnswerError("the server was never killed")
    numbers = NUMBER.findall(b"".join(reader.parts))
    return {"count": len(set(numbers))}


JOBS = {"fan_out": fan_out, "flood": flood, "push": push, "find": find, "hold": hold, "relay": relay}


if __name__ == "__main__":
    run_job(JOBS)
