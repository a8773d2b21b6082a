"""What the local store keeps, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final

from ds_sync.protocol.framing import build_frame
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.offsets import Offset


class Phase(StrEnum):
    """What a document does when it is online. Kept in the file."""

    FOLLOW = "follow"
    """Send what is new, read what is new."""
    HEAL = "heal"
    """The stream's history is not the one we read: read all of it again, then give back what it lacks."""
    DIVERGED = "diverged"
    """Somebody made the document anew: neither read nor send until somebody decides."""
    DELETED = "deleted"
    """Somebody deleted the document on the server: likewise."""
    LOCAL = "local"
    """Ours alone: it is on no server, and goes to none until somebody decides."""
    BLOCKED = "blocked"
    """The server refuses a batch for good: read on, send nothing. Tried again at the next connect."""


@dataclass(frozen=True, slots=True)
class DocumentKey:
    """Which document: it is the stream /v1/stream/<crdt>/<service>/docs/<path>/.updates."""

    crdt: str
    service: str
    path: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A frozen run of outbox rows, worth one update; sent byte for byte under one stamp until it is settled."""

    stamp: ProducerStamp
    through: int
    """The last outbox row it covers; 0 for a batch of healing that covers none."""
    edits: int
    sealed_at: Offset
    """The checkpoint when it was sealed: it can only stand in the stream after this."""
    version: bytes | None
    """The CRDT version the stream holds once this is settled; None if that is not known."""
    payload: bytes
    healing: bool = False
    """What the stream lacked: more than the rows it covers, so it can't be cut up into them."""

    @property
    def body(self) -> bytes:
        """The bytes of the request: one whole frame, so that seeing it in the stream is comparing one payload."""
        return build_frame(self.payload)


DIGEST_BYTES: Final = 32


def build_digest(payload: bytes) -> bytes:
    """Return what a settled batch is remembered by until its payload is read back: it may have megabytes."""
    return blake2b(payload, digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Something a server sent that could not be used: kept, reported, skipped."""

    offset: Offset
    """The checkpoint before the page it came in."""
    at: float
    """Seconds since 1970."""
    reason: str
    data: bytes


@dataclass(frozen=True, slots=True)
class StoredContent:
    """What makes a document when it is opened."""

    snapshot: bytes | None
    updates: list[bytes]
    loose: int
    """Bytes outside the snapshot: what compaction would fold in."""


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """A document's row and what hangs on it."""

    id: int
    key: DocumentKey
    format: str
    phase: Phase
    server: str | None
    incarnation: str | None
    checkpoint: Offset
    partial: bytes
    server_version: bytes | None
    producer: ProducerStamp
    """The number the next batch takes."""
    batch: Batch | None
    durable: int
    expected: tuple[bytes, ...]
    """Digests of the batches that the server said it has, and that have not come back from the stream yet, oldest first."""
    outbox: int
    """Rows, the sealed ones included."""
    oldest: float | None
    """When the oldest row was made, seconds since 1970."""
    quarantined: int
