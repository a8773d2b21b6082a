"""A replica in a process of its own, to be killed: it edits by itself, or is told what to do by JSON lines.

It writes a journal: one line before an edit, one when the edit has returned. `os.write` to a file survives SIGKILL, so the journal is
what a witness saw: whatever it says has returned must never be lost.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
from dataclasses import replace
from typing import Any

from pycrdt import Text

from ds_sync import Document, Replica
from ds_sync.client.stream import StreamClient
from ds_sync.exceptions import TransportError
from ds_sync.replica.local import LocalDocument, Tuning
from ds_sync.replica.store import LocalStore

TUNING = Tuning(max_batch=2_000, compact_after=3_000, store_retry=0.2, heal_jitter=0.1)
"""Small, so that batches are many and compaction happens all the time."""

CROWDED = 150
"""Tokens of a document from which on more are deleted than inserted."""


def parse_tokens(text: str) -> list[str]:
    """Return the tokens of a document's text; each ends with a semicolon."""
    return text.split(";")[:-1] + ([text.rsplit(";", 1)[-1]] if text and not text.endswith(";") else [])


class Worker:
    """One replica with its documents, and the journal."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._rng = random.Random(config["seed"])
        self._journal = os.open(config["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._made = 0
        self._online = False
        self._acknowledged: dict[str, int] = {}
        self._edits: dict[str, int] = {}
        self._roaming: asyncio.Task[None] | None = None

    def note(self, *words: str) -> None:
        """Write a line of the journal."""
        os.write(self._journal, (" ".join(words) + "\n").encode())

    async def run(self) -> None:
        """Open the file, say what is in it, and go on until standard input ends."""
        config = self._config
        async with Replica(config["file"], tuning=TUNING) as self._replica:
            self._documents = [await self._replica.open(name) for name in config["documents"]]
            self.note("opened", json.dumps(self.contents()))
            if config["roam"]:
                self._roaming = asyncio.create_task(self._roam())
            while line := await asyncio.to_thread(sys.stdin.readline):
                request = json.loads(line)
                self.note("answer", json.dumps([request["number"], await self._act(request)]))
            if self._roaming is not None:
                self._roaming.cancel()

    def contents(self) -> dict[str, str]:
        return {document.path: str(document.doc.get("body", type=Text)) for document in self._documents}

    async def _act(self, request: dict[str, Any]) -> dict[str, str]:
        match request["do"]:
            case "edit":
                for _ in range(request["count"]):
                    self._edit(self._rng.choice(self._documents))
            case "connect":
                await self._connect()
            case "disconnect":
                await self._disconnect()
            case "settle":
                if self._roaming is not None:
                    self._roaming.cancel()
                    await asyncio.wait((self._roaming,))
                    if not self._roaming.cancelled():
                        self._roaming.result()
                    self._roaming = None
                await self._connect()
            case "sync":
                async with asyncio.timeout(request["seconds"]):
                    for document in self._documents:
                        await document.synced()
            case "say":
                pass
        return self.contents()

    async def _connect(self) -> None:
        await self._replica.connect(self._config["url"])
        self._online = True

    async def _disconnect(self) -> None:
        await self._replica.disconnect()
        self._online = False

    async def _roam(self) -> None:
        """Edit without end, online and offline."""
        while True:
            if self._rng.random() < (0.02 if self._online else 0.15):
                await (self._disconnect() if self._online else self._connect())
            for _ in range(self._rng.choice((1, 1, 1, 5))):
                self._edit(self._rng.choice(self._documents))
            await asyncio.sleep(self._rng.uniform(0, 0.02))
            self._note_acknowledged()

    def _edit(self, document: Document) -> None:
        text = document.doc.get("body", type=Text)
        tokens = parse_tokens(str(text))
        at = self._rng.randint(0, len(tokens))
        before = len("".join(f"{token};" for token in tokens[:at]).encode())
        count = self._rng.randint(1, 3)
        if at < len(tokens) and self._rng.random() < (0.7 if len(tokens) > CROWDED else 0.3):
            chosen = tokens[at : at + count]
            self.note("deleting", document.path, *chosen)
            del text[before : before + len("".join(f"{token};" for token in chosen).encode())]
            self.note("deleted", document.path, *chosen)
        else:
            chosen = [f"{self._config['name']}.{self._made + number}{self._rng.choice(('', '', 'é', '😀'))}" for number in range(count)]
            self._made += count
            self.note("inserting", document.path, *chosen)
            text.insert(before, "".join(f"{token};" for token in chosen))
            self.note("inserted", document.path, *chosen)
        self._edits[document.path] = self._edits.get(document.path, 0) + 1

    def _note_acknowledged(self) -> None:
        for document in self._documents:
            made = self._edits.get(document.path, 0)
            if made > self._acknowledged.get(document.path, 0):
                status = document.status
                if not status.unsaved and not status.unsent and not status.sent:
                    self._acknowledged[document.path] = made
                    self.note("acknowledged", document.path)


def die_at(method: str, call: int, statement: int) -> None:
    """Die by SIGKILL in the `call`th call of the store's `method`, before its `statement`th SQL statement, or at its end."""
    original, connect = getattr(LocalStore, method), LocalStore._connect
    calls, statements, inside = 0, 0, False

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def trace(_: str) -> None:
        nonlocal statements
        if inside:
            if statements == statement:
                die()
            statements += 1

    def connecting(self: LocalStore) -> sqlite3.Connection:
        connection = connect(self)
        connection.set_trace_callback(trace)
        return connection

    def dying(self: LocalStore, *args: Any, **options: Any) -> Any:
        nonlocal calls, inside
        calls += 1
        inside = calls == call
        result = original(self, *args, **options)
        if inside:
            die()
        return result

    LocalStore._connect = connecting  # type: ignore[method-assign]
    setattr(LocalStore, method, dying)


def break_buffer() -> None:
    """Edits wait in memory until eight have come together."""
    enqueue, waiting = LocalStore.enqueue, []

    def buffering(self: LocalStore, *edit: Any) -> None:
        waiting.append(edit)
        if len(waiting) == 8:
            for one in waiting:
                enqueue(self, *one)
            waiting.clear()

    LocalStore.enqueue = buffering  # type: ignore[method-assign]


def break_checkpoint() -> None:
    """The checkpoint goes ahead of the data, which is stored with the next page."""
    advance = LocalStore.advance
    late: dict[int, list[bytes]] = {}

    def ahead(self: LocalStore, document: int, updates: Any, *rest: Any, **options: Any) -> None:
        held, late[document] = late.get(document, []), list(updates)
        advance(self, document, held, *rest, **options)

    LocalStore.advance = ahead  # type: ignore[method-assign]


def break_numbers() -> None:
    """Batches go out without a producer's number, again and again until there is an answer."""
    append = StreamClient.append

    async def bare(self: StreamClient, body: bytes, **options: Any) -> Any:
        while True:
            try:
                return await append(self, body, **{**options, "producer": None})
            except TransportError:
                await asyncio.sleep(0.01)

    StreamClient.append = bare  # type: ignore[method-assign]


def break_doubt() -> None:
    """An answer 204, "have it already", is believed; and nobody looks whether the bytes come back, which would notice it later."""
    append = StreamClient.append

    def settle(self: LocalDocument, batch: Any) -> None:
        self.store.settle(self.record.id, batch)  # without what is expected back
        self._forget_batch(batch)

    async def trusting(self: StreamClient, body: bytes, **options: Any) -> Any:
        return replace(await append(self, body, **options), duplicate=False)

    StreamClient.append = trusting  # type: ignore[method-assign]
    LocalDocument.settle = settle  # type: ignore[method-assign]


def break_healing() -> None:
    """The history is read anew, and nothing is given back."""
    end_heal = LocalDocument.end_heal

    def taking(self: LocalDocument, scratch: Any) -> Any:
        return end_heal(self, self.doc)

    LocalDocument.end_heal = taking  # type: ignore[method-assign]


BROKEN = {
    "buffer": break_buffer,
    "checkpoint": break_checkpoint,
    "numbers": break_numbers,
    "doubt": break_doubt,
    "healing": break_healing,
}


if __name__ == "__main__":
    _config = json.loads(sys.argv[1])
    if _config["broken"] in BROKEN:
        BROKEN[_config["broken"]]()
    if _config["die"]:
        die_at(*_config["die"])
    asyncio.run(Worker(_config).run())
