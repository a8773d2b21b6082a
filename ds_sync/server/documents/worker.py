"""The process that makes snapshots: it holds documents, and the CRDT library's lock, so that the server need not.

python -m ds_sync.server.documents.worker <adapter>    reads requests on standard input, answers on standard output

Each message is a letter, the number of bytes that follow (8 bytes, big-endian), and those bytes. `U` brings a run of whole frames and has
no answer. `S` asks for the snapshot: `S` with it, after `R` with how many updates were refused (in decimal). `V` brings a snapshot as it
was stored, and is answered by `V` with "same" or "other". `C` asks what the document says to people: `C` with JSON, as `Compaction.content`
describes it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

from ds_sync.crdt import CrdtAdapter, load_adapter
from ds_sync.exceptions import InvalidUpdateError
from ds_sync.protocol.framing import parse_frames

SHOWN_ROOTS: Final = 100
"""Parts of a document that are shown at most."""

SHOWN_CHARACTERS: Final = 200_000
"""Of one part."""


class Compaction:
    """A document while its snapshot is made."""

    def __init__(self, adapter: CrdtAdapter) -> None:
        self._adapter = adapter
        self._doc: Any = adapter.new()
        self.refused = 0
        """How many updates the library could not read. They are not in the snapshot."""

    def feed(self, frames: bytes) -> None:
        """Apply a run of whole frames."""
        self._apply(parse_frames(frames).payloads)

    def snapshot(self) -> bytes:
        """Return the whole document as one update, what waits included."""
        return self._adapter.snapshot(self._doc)

    def is_same(self, stored: bytes) -> bool:
        """Whether these bytes, loaded on their own, are the document: neither has anything that is news to the other."""
        other = self._adapter.new()
        try:
            self._adapter.apply(other, [stored])
            return not (self._adapter.apply(other, [self.snapshot()]) or self._adapter.apply(self._doc, [stored]))
        except InvalidUpdateError:
            return False

    def content(self) -> bytes:
        """Return JSON: `roots`, the first of the document's parts with `name`, `text` and `length` (characters, before it was cut);
        how many there are (`count`), and how many updates were `refused`. Where that can't be told, an `error`.
        """
        reader = getattr(self._adapter, "content", None)
        if reader is None:
            return json.dumps({"error": f"the adapter {self._adapter.name!r} does not show what documents say"}).encode()
        try:
            roots = reader.read(self.snapshot())
        except InvalidUpdateError as error:
            return json.dumps({"error": str(error)}).encode()
        shown = []
        for name, value in list(roots.items())[:SHOWN_ROOTS]:
            text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
            shown.append({"name": name, "text": text[:SHOWN_CHARACTERS], "length": len(text)})
        return json.dumps({"roots": shown, "count": len(roots), "refused": self.refused}).encode()

    def _apply(self, updates: Sequence[bytes]) -> None:
        while updates:
            try:
                self._adapter.apply(self._doc, updates)
            except InvalidUpdateError as error:
                self.refused += 1
                updates = updates[error.index + 1 :]
            else:
                return


def write_message(stream: BinaryIO, kind: bytes, data: bytes = b"") -> None:
    """Write one message; flush."""
    stream.write(kind + len(data).to_bytes(8, "big") + data)
    stream.flush()


def serve(adapter: CrdtAdapter, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the requests end."""
    compaction = Compaction(adapter)
    while kind := requests.read(1):
        data = requests.read(int.from_bytes(requests.read(8), "big"))
        if kind == b"U":
            compaction.feed(data)
        elif kind == b"S":
            snapshot = compaction.snapshot()
            write_message(answers, b"R", b"%d" % compaction.refused)
            write_message(answers, b"S", snapshot)
        elif kind == b"V":
            write_message(answers, b"V", b"same" if compaction.is_same(data) else b"other")
        elif kind == b"C":
            write_message(answers, b"C", compaction.content())
        else:
            raise ValueError(f"no request is called {kind!r}")


if __name__ == "__main__":
    serve(load_adapter(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
