"""A last-writer-wins map in pure Python: the port knows no Yjs. Update: JSON [[key, clock, writer, value or null], ...]."""

import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from ds_sync.exceptions import InvalidUpdateError


class LwwDoc:
    def __init__(self) -> None:
        self.writer = secrets.token_hex(8)
        self.entries: dict[str, tuple[int, str, Any]] = {}
        self.observers: list[Callable[[bytes], None]] = []

    def set(self, key: str, value: Any) -> None:
        clock = 1 + max((entry[0] for entry in self.entries.values()), default=0)
        self.entries[key] = (clock, self.writer, value)
        for observer in tuple(self.observers):
            observer(encode({key: self.entries[key]}))

    def to_py(self) -> dict[str, Any]:
        return {key: entry[2] for key, entry in sorted(self.entries.items()) if entry[2] is not None}


def encode(entries: dict[str, tuple[int, str, Any]]) -> bytes:
    return json.dumps([[key, *entry] for key, entry in sorted(entries.items())]).encode()


def decode_newer(update: bytes, known: dict[str, tuple[int, str, Any]], index: int = 0) -> dict[str, tuple[int, str, Any]]:
    try:
        entries = {str(key): (int(clock), str(writer), value) for key, clock, writer, value in json.loads(update)}
    except (ValueError, TypeError) as error:
        raise InvalidUpdateError(f"not a map update: {error}", index=index) from error
    return {key: entry for key, entry in entries.items() if key not in known or entry[:2] > known[key][:2]}


class LwwMapAdapter:
    name, format, content_type, new = "lww", "lww-v1", "application/json-lww", LwwDoc

    def apply(self, doc: LwwDoc, updates: Sequence[bytes]) -> bool:
        before = dict(doc.entries)
        for index, update in enumerate(updates):
            doc.entries |= decode_newer(update, doc.entries, index)
        return doc.entries != before

    def missing(self, doc: LwwDoc, since: bytes | None = None) -> bytes:
        return encode(decode_newer(encode(doc.entries), decode_newer(since or b"[]", {})))

    snapshot = version = missing

    def merge(self, updates: Sequence[bytes]) -> bytes:
        self.apply(doc := LwwDoc(), updates)
        return encode(doc.entries)

    def observe(self, doc: LwwDoc, callback: Callable[[bytes], None]) -> Callable[[], None]:
        doc.observers.append(callback)
        return lambda: doc.observers.remove(callback)
