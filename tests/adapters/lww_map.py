"""A last-writer-wins map in pure Python: the port knows no Yjs. Update: JSON [[key, value or null, clock, writer], ...]."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from ds_sync.exceptions import InvalidUpdateError

Entry = tuple[int, str, Any]


class LwwDoc:
    def __init__(self) -> None:
        self.writer = secrets.token_hex(8)
        self.entries: dict[str, Entry] = {}
        self.observers: list[Callable[[bytes], None]] = []

    def set(self, key: str, value: Any) -> None:
        clock = 1 + max((entry[0] for entry in self.entries.values()), default=0)
        self.entries[key] = (clock, self.writer, value)
        for observer in tuple(self.observers):
            observer(encode({key: self.entries[key]}))

    def to_py(self) -> dict[str, Any]:
        return {key: entry[2] for key, entry in sorted(self.entries.items()) if entry[2] is not None}


def encode(entries: dict[str, Entry]) -> bytes:
    return json.dumps([[key, *entry] for key, entry in sorted(entries.items())]).encode()


def decode(update: bytes, index: int = 0) -> dict[str, Entry]:
    try:
        return {str(key): (int(clock), str(writer), value) for key, clock, writer, value in json.loads(update)}
    except (ValueError, TypeError) as error:
        raise InvalidUpdateError(f"not a map update: {error}", index=index) from error


def join(into: dict[str, Entry], entries: dict[str, Entry]) -> bool:
    newer = {key: entry for key, entry in entries.items() if key not in into or entry[:2] > into[key][:2]}
    into.update(newer)
    return bool(newer)


class LwwMapAdapter:
    name, format, content_type = "lww", "lww-v1", "application/json-lww"

    def new(self) -> LwwDoc:
        return LwwDoc()

    def apply(self, doc: LwwDoc, updates: Sequence[bytes]) -> bool:
        return sum(join(doc.entries, decode(update, index)) for index, update in enumerate(updates)) > 0

    def version(self, doc: LwwDoc) -> bytes:
        return encode({key: (entry[0], entry[1], None) for key, entry in doc.entries.items()})

    def missing(self, doc: LwwDoc, since: bytes | None) -> bytes:
        known = {} if since is None else decode(since)
        return encode({key: entry for key, entry in doc.entries.items() if key not in known or entry[:2] > known[key][:2]})

    def snapshot(self, doc: LwwDoc) -> bytes:
        return self.missing(doc, None)

    def merge(self, updates: Sequence[bytes]) -> bytes:
        merged: dict[str, Entry] = {}
        for index, update in enumerate(updates):
            join(merged, decode(update, index))
        return encode(merged)

    def observe(self, doc: LwwDoc, callback: Callable[[bytes], None]) -> Callable[[], None]:
        doc.observers.append(callback)
        return lambda: doc.observers.remove(callback)
