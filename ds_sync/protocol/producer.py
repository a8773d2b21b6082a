"""What a server remembers of an idempotent producer, and what it makes of the next append (PROTOCOL.md section 5.2.1).

For one (id, epoch) the numbers run 0, 1, 2, ... What comes next is accepted, what came is a duplicate, what lies further
ahead is a gap; a later epoch starts at 0 and fences the earlier ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from ds_sync.exceptions import InvalidRequestError, SequenceGapError, StaleEpochError
from ds_sync.protocol.messages import ProducerStamp


@dataclass(frozen=True, slots=True)
class ProducerState:
    """The last append that was accepted from one producer."""

    epoch: int
    seq: int
    digest: bytes
    """Of the body accepted at number 0 of this epoch: a *different* body at (epoch, 0) is another producer of the same name."""


def digest_body(body: bytes) -> bytes:
    """Return the 16 bytes by which a body is recognised when it comes again."""
    return blake2b(body, digest_size=16).digest()


def decide_producer(state: ProducerState | None, stamp: ProducerStamp, body: bytes, *, rescue: bool = False) -> ProducerState | None:
    """Return what to remember if the append goes through, or None if it is a duplicate.

    `rescue`: another body at number 0 of the current epoch comes from a producer that began again under its old name. It is told to
    claim the next epoch (StaleEpochError) instead of being taken for a duplicate, and dropped.

    Raises StaleEpochError, SequenceGapError, or InvalidRequestError for a new epoch that does not start at 0.
    """
    if state is None or stamp.epoch > state.epoch:
        if stamp.seq == 0:
            return ProducerState(stamp.epoch, 0, digest_body(body))
        if state is None:
            raise SequenceGapError("an unknown producer starts at 0", expected=0, received=stamp.seq)
        raise InvalidRequestError("a new epoch starts at Producer-Seq 0", code="INVALID_EPOCH_SEQ")
    if stamp.epoch < state.epoch:
        raise StaleEpochError("a later epoch was claimed", current_epoch=state.epoch)
    if stamp.seq <= state.seq:
        if rescue and stamp.seq == 0 and digest_body(body) != state.digest:
            raise StaleEpochError("another append had this number: the producer began again", current_epoch=state.epoch)
        return None
    if stamp.seq == state.seq + 1:
        return ProducerState(state.epoch, stamp.seq, state.digest)
    raise SequenceGapError("appends are missing before this one", expected=state.seq + 1, received=stamp.seq)
