"""What a server has of a document: in its file, or by nothing but HTTP. Where updates were dropped, the snapshot stands for them."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pycrdt import Doc, Text
from verdict import Loss

from ds_sync.environment import Environment
from ds_sync.protocol.framing import parse_frames
from ds_sync.protocol.history import START
from ds_sync.server.documents.snapshots import Snapshots, build_key
from ds_sync.server.engines.sqlite import SqliteEngine

ALL = 1 << 40

PATIENCE = 60.0
"""Seconds for an answer."""


@dataclass(frozen=True)
class Stored:
    """One document."""

    snapshot: bytes | None
    payloads: list[bytes]
    """Of the updates that are kept; those after the snapshot among them."""
    dropped: int = 0
    """Bytes of updates that are not kept."""

    @property
    def text(self) -> str:
        """What plain pycrdt makes of it."""
        doc: Doc[Any] = Doc()
        text = doc.get("body", type=Text)
        for update in (*([] if self.snapshot is None else [self.snapshot]), *self.payloads):
            doc.apply_update(update)
        return str(text)


async def read_file(file: Path, roots: Iterable[str]) -> dict[str, Stored]:
    """Return what a dead server's file has. Raises Loss if it kept less than what follows the last snapshot but one; CorruptFileError."""
    engine = SqliteEngine(file)
    try:
        return {root: await _read_document(engine, root) for root in roots}
    finally:
        await engine.aclose()


async def _read_document(engine: SqliteEngine, root: str) -> Stored:
    path = f"{root}/.updates"
    state = (await engine.read(path, None, 0)).state
    if state is None:
        return Stored(None, [])
    snapshots = Snapshots(engine, Environment())
    made = await snapshots.milestones(root, state.incarnation)
    dropped = 0 if state.earliest is None else state.earliest.position
    if dropped > (made[-2].place.position if len(made) > 1 else 0):
        raise Loss(f"{root}: {dropped} bytes were dropped, and the snapshots end at {[one.place.position for one in made[-2:]]}")
    snapshot = await snapshots.read(root, state.incarnation, build_key(made[-1].place)) if made else None
    records = (await engine.read(path, state.earliest or START, ALL)).records
    return Stored(None if snapshot is None else snapshot.data, split(b"".join(records)), dropped)


def read_server(url: str, root: str) -> Stored:
    """Return what a server gives a newcomer: the newest snapshot, and all updates that are kept."""
    document = f"{url}/v1/{quote(root)}"
    with urllib.request.urlopen(f"{document}?offset=snapshot", timeout=PATIENCE) as answer:
        joined, offset = answer.read(), answer.headers["Stream-Next-Offset"]
        snapshot = joined if answer.url.endswith("_snapshot") else None
    data, up_to_date = (joined if snapshot is None else b""), False
    while not up_to_date:
        with urllib.request.urlopen(f"{document}?offset={offset}", timeout=PATIENCE) as answer:
            data += answer.read()
            offset, up_to_date = answer.headers["Stream-Next-Offset"], answer.headers["Stream-Up-To-Date"] == "true"
    return Stored(snapshot, split(data))


def split(data: bytes) -> list[bytes]:
    """Return the payloads of whole frames."""
    frames = parse_frames(data)
    if frames.rest:
        raise AssertionError("the stream ends inside a frame")
    return list(frames.payloads)
