"""What `ds-sync import` and `ds-sync export` take for a place: a replica's file, a server's URL, a document's URL."""

from __future__ import annotations

from pathlib import Path

import click

from ds_sync.replica.places import FilePlace, Place, ServerPlace, parse_document_url
from ds_sync.replica.records import DocumentKey


def parse_place(text: str, *, token: str | None, seconds: float) -> tuple[Place, DocumentKey | None]:
    """Return the place, and the document if the text names one. Raises click.UsageError."""
    if "://" not in text:
        return FilePlace(Path(text)), None
    try:
        url, key = parse_document_url(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return ServerPlace(url, token=token, seconds=seconds), key
