"""Trace files, as `ds-sync replay` reads them."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

from findings import Finding, no_longer_than
from mutator import mutate

from ds_sync.cli.replaying.traces import SharedTrace, load_shared_trace, load_trace
from ds_sync.exceptions import TraceError

SESSION: dict[str, Any] = {
    "startContent": "aé",
    "endContent": "hello aé😀",
    "txns": [{"time": "x", "patches": [[0, 0, "hello "]]}, {"patches": [[8, 0, "😀"], [0, 0, ""]]}],
}
SHARED: dict[str, Any] = {
    "kind": "concurrent",
    "numAgents": 2,
    "endContent": "ab",
    "txns": [
        {"parents": [], "agent": 0, "numChildren": 1, "patches": [[0, 0, "a"]]},
        {"parents": [0], "agent": 1, "numChildren": 0, "patches": [[1, 0, "b"]]},
        {"parents": [0, 1], "agent": 0, "numChildren": 0, "patches": [[1, 1, "b"]]},
    ],
}
WORDS = [b'"parents":[', b'"patches":[[', b'"agent":', b"[0,0,", b'"txns":[', b"null", b"true", b"[]", b'"\\ud800"', b"4294967296"]


class TraceTarget:
    """Files of both kinds, damaged inside and outside of their compression."""

    name = "traces"
    share = 0.4

    def open(self, folder: Path) -> None:
        self._path = folder / "trace.json.gz"

    def make(self, rng: random.Random) -> bytes:
        text = json.dumps(rng.choice((SESSION, SHARED)), ensure_ascii=False, separators=(",", ":")).encode()
        if rng.random() < 0.8:
            return gzip.compress(mutate(rng, text, WORDS), 1, mtime=0)
        return mutate(rng, gzip.compress(text, mtime=0))

    def check(self, data: bytes) -> None:
        self._path.write_bytes(data)
        with no_longer_than():
            for load in (load_trace, load_shared_trace):
                try:
                    trace = load(self._path)
                except TraceError as error:
                    if len(str(error).splitlines()) != 1:
                        raise Finding(f"the error is not one line: {error!r}") from error
                    continue
                if not isinstance(trace, SharedTrace):
                    list(trace.in_bytes())

    def close(self) -> None:
        """Nothing to clean up."""
