"""What a Yjs document says to people: its roots, as JSON and as text."""

from __future__ import annotations

from base64 import b64encode
from math import isfinite
from typing import Any

from pycrdt import Array, Doc, Map, Text, XmlElement, XmlFragment, XmlText

from ds_sync_yjs.squash import squash_update
from ds_sync_yjs.updates import refusing, require_update

_XML = (XmlElement, XmlFragment, XmlText)


class YjsContent:
    """`ds_sync.crdt.ContentAdapter` for Yjs.

    An update does not say of which type a root is; the application does, when it asks for it. What stands in a root tells: characters make
    a text, elements make XML, keys alone a map, anything else an array. A root that is empty is left out: it may be any of them.
    """

    def read(self, update: bytes) -> dict[str, Any]:
        """Return each root as JSON values: what `toJSON` of Yjs gives; a text without its formats, XML as text, bytes in base 64.

        Numbers that JSON has no word for (NaN, infinities) are None, as `JSON.stringify` has it. A subdocument is another document, and
        known by its id: `{"subdocument": "..."}`.
        """
        doc = _load(update)
        found = {name: _read(doc, name) for name in sorted(doc.keys())}
        return {name: value for name, (_, value) in found.items() if value}

    def texts(self, update: bytes) -> dict[str, str]:
        """Return the roots that are text or XML."""
        doc = _load(update)
        found = {name: _read(doc, name) for name in sorted(doc.keys())}
        return {name: value for name, (is_text, value) in found.items() if is_text}


def _load(update: bytes) -> Doc[Any]:
    require_update(update)
    doc: Doc[Any] = Doc()
    with refusing(0):
        doc.apply_update(squash_update(update))
    return doc


def _read(doc: Doc[Any], name: str) -> tuple[bool, Any]:
    """Return whether the root is text or XML, and its value."""
    text: Text = doc.get(name, type=Text)
    parts = [part for part, _ in text.diff()]  # as a text, an array of values has no parts
    if any(isinstance(part, _XML) for part in parts):
        return True, str(doc.get(name, type=XmlFragment))
    if any(not isinstance(part, Map | Array | Text) for part in parts):
        return True, str(text)
    listed = doc.get(name, type=Array).to_py()
    return False, _plain(listed or doc.get(name, type=Map).to_py())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}  # pycrdt's order differs from time to time
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes | bytearray):
        return b64encode(value).decode()
    if isinstance(value, float):
        if not isfinite(value):
            return None
        return int(value) if value.is_integer() else value  # numbers of JavaScript are all floats
    if isinstance(value, Doc):
        return {"subdocument": value.guid}
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
