"""`ds-sync export`: a document as a Yjs update, as JSON or as text."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, cast

import click

from ds_sync.cli.places import parse_place
from ds_sync.crdt import ContentAdapter, load_adapter
from ds_sync.exceptions import CrdtError, NotFoundError
from ds_sync.replica.places import SECONDS, Place
from ds_sync.replica.records import DocumentKey
from ds_sync.replica.replica import check_name


@click.command()
@click.argument("source")
@click.argument("document", required=False)
@click.option(
    "--format", "shape", type=click.Choice(["update", "json", "text"]), default="update", show_default=True, help="Of what is written."
)
@click.option("--root", metavar="NAME", help="Of the document, for json and text: only this.")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="The file to write.  [default: standard output]")
@click.option("--crdt", default="yjs", show_default=True, help="The kind of document.")
@click.option("--service", default="default", show_default=True, help="The document's service.")
@click.option("--token", envvar="DS_SYNC_TOKEN", metavar="TEXT", help="Send it as a bearer token.  [env var: DS_SYNC_TOKEN]")
@click.option("--timeout", default=SECONDS, show_default=True, type=click.FloatRange(min=0.1), help="Seconds to wait for the server.")
def export(
    source: str,
    document: str | None,
    shape: str,
    root: str | None,
    output: Path | None,
    crdt: str,
    service: str,
    token: str | None,
    timeout: float,
) -> None:
    """Write DOCUMENT of SOURCE, as it is now, to standard output or a file.

    SOURCE is a replica's file (it may be in use), a server's URL, or a document's URL, which needs no DOCUMENT. Nothing is changed.
    An update is what Y.applyUpdate of Yjs and ds-sync import take. JSON has each root by its name. Text is that of the one root that is
    text, or of --root.
    """
    place, key = parse_place(source, token=token, seconds=timeout)
    if key is None:
        if document is None:
            raise click.UsageError("which DOCUMENT?")
        try:
            key = DocumentKey(crdt, check_name(service, "service"), check_name(document, "path"))
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    elif document is not None:
        raise click.UsageError("SOURCE names the document already")
    update = asyncio.run(_read(place, key))
    _write(update if shape == "update" else _show(key.crdt, update, shape, root).encode(), output)


async def _read(place: Place, key: DocumentKey) -> bytes:
    async with place.reading() as opened:
        update = await opened.read(key)
        if update is None:
            keys = opened.keys()
            there = "" if keys is None else f"; there are: {', '.join(f'{each.service}/{each.path}' for each in keys) or 'none'}"
            raise NotFoundError(f"there is no document {key.service}/{key.path}{there}")
        return update


def _show(crdt: str, update: bytes, shape: str, root: str | None) -> str:
    content = cast("ContentAdapter | None", getattr(load_adapter(crdt), "content", None))
    if content is None:
        raise CrdtError(f"the adapter {crdt!r} can't show what a document says: export it as an update")
    held: dict[str, Any] = dict(content.read(update) if shape == "json" else content.texts(update))
    if root is not None and root not in held:
        raise CrdtError(f"no root {root!r} to be written as {shape}; there are: {', '.join(held) or 'none'}")
    if shape == "json":
        return json.dumps(held if root is None else held[root], ensure_ascii=False, allow_nan=False, indent=2) + "\n"
    if root is None and len(held) != 1:
        raise CrdtError(f"choose by --root which text: {', '.join(held) or 'there is none'}")
    text: str = held[root] if root is not None else next(iter(held.values()))
    return text


def _write(data: bytes, output: Path | None) -> None:
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise click.FileError(str(output), error.strerror) from error
