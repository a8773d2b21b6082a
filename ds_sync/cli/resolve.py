"""`ds-sync resolve`: decide what becomes of a document that was deleted or made anew on the server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import get_args

import click

from ds_sync.replica.document import Choice
from ds_sync.replica.replica import Replica


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("document")
@click.argument("choice", type=click.Choice(get_args(Choice)))
@click.option("--service", default="default", show_default=True, help="The namespace of the document.")
@click.option("--crdt", default="yjs", show_default=True, help="The adapter that reads it.")
def resolve(file: Path, document: str, choice: Choice, service: str, crdt: str) -> None:
    """Decide what becomes of DOCUMENT in a replica's FILE that is diverged, deleted or local. No network is needed.

    both: its content goes to the server, merged with what is there. theirs: it becomes what the server has; what it was is kept as a
    local document, whose name is printed. Both take effect when the replica is online the next time.
    """
    try:
        copy = asyncio.run(_resolve(file, document, choice, service, crdt))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if copy is not None:
        click.echo(copy)


async def _resolve(file: Path, path: str, choice: Choice, service: str, crdt: str) -> str | None:
    async with Replica(file, service=service) as replica:
        # Opening makes what is not there.
        if (path, service, crdt) not in {(info.path, info.service, info.crdt) for info in replica.documents()}:
            raise click.UsageError(f"{file} has no document {path!r} of the service {service!r}")
        copy = await (await replica.open(path, crdt=crdt)).resolve(choice)
        return None if copy is None else copy.path
