"""Text and values that were written piece by piece, in one struct each, put together as a document itself would write them.

yrs puts the pieces together after it has integrated them, from the last to the first, each time into a new copy, and keeps all copies
until the end: pycrdt 0.14.13 takes 2.3 GB for 10,000 values that were appended one by one (240 kB), and all 24 GB that there were for
10,000 lines of 1 kB. Put together before, they take what they weigh. Applied one after the other they would take no memory, and much
time: the whole text is measured at each.
"""

from __future__ import annotations

from collections.abc import Iterator

from ds_sync.protocol.framing import build_varint
from ds_sync_yjs.wire import Id, Reader, Struct, join_ranges, read_struct

SMALL = 16 * 1024
"""Bytes of an update that is left as it is: at its worst it costs tens of MB, for a moment."""

_RUNS = (4, 8)
"""Kinds of structs that are a row of things: text, values. Their content is a count, in bytes or in values, and what is counted."""


def squash_update(update: bytes) -> bytes:
    """Return `update`, which has passed `check_update`, in as few structs as its text and its values need.

    What belongs together stays apart where a deletion or a struct of this update would part it again.
    """
    if len(update) < SMALL:
        return update
    reader = Reader(update)
    cuts: set[Id] = set()
    sections = [_Section(reader, cuts) for _ in range(reader.varint())]
    deletions = reader.at
    _read_deletions(reader, cuts)
    joined = [section.joints.keys() - cuts for section in sections]
    if not any(joined):
        return update
    written = [build_varint(len(sections))]
    for section, joints in zip(sections, joined, strict=True):
        written += section.write(update, {section.joints[joint] for joint in joints})
    return b"".join((*written, update[deletions:]))


class _Section:
    """The structs of one client."""

    def __init__(self, reader: Reader, cuts: set[Id]) -> None:
        """Read them, and add to `cuts` the ids before which they part others."""
        count, start = reader.varint(), reader.at
        client, clock = reader.varint(), reader.varint()
        self.header = reader.data[start : reader.at]
        self.structs: list[Struct] = []
        self.joints: dict[Id, int] = {}
        """Ids of structs that only go on with the one before them, and where they are in `structs`."""
        before = None
        for index in range(count):
            struct = kind, length, origin, right, *_ = read_struct(reader, client, clock)
            follows = origin == (client, clock - 1)
            if origin is not None and not follows:
                cuts.add((origin[0], origin[1] + 1))
            if right is not None:
                cuts.add(right)
            this = (kind, right) if kind in _RUNS and length else None
            if follows and this is not None and this == before:
                self.joints[client, clock] = index
            before = this
            self.structs.append(struct)
            clock += length

    def write(self, update: bytes, joined: set[int]) -> Iterator[bytes]:
        """Give the section as bytes, where each struct of `joined` is one with that before it."""
        yield build_varint(len(self.structs) - len(joined))
        yield self.header
        ends = [index for index in range(1, len(self.structs) + 1) if index not in joined]
        for start, end in zip([0, *ends], ends, strict=False):
            yield _write_run(update, self.structs[start:end])


def _write_run(update: bytes, run: list[Struct]) -> bytes:
    """Put the contents of a run behind the ids of its first struct."""
    *_, start, content, end = run[0]
    if len(run) == 1:
        return update[start:end]
    total, contents = 0, []
    for *_, body, after in run:
        reader = Reader(update, body)
        total += reader.varint()
        contents.append(update[reader.at : after])
    return b"".join((update[start:content], build_varint(total), *contents))


def _read_deletions(reader: Reader, cuts: set[Id]) -> None:
    for _ in range(reader.varint()):
        client, ranges = reader.varint(), []
        for _ in range(reader.varint()):
            first = reader.varint()
            ranges.append((first, first + reader.varint()))
        for first, after in join_ranges(ranges):
            if first < after:
                cuts |= {(client, first), (client, after)}
