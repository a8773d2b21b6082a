"""`ds-sync inspect`: what stands in a replica's file, for people on a terminal or as JSON."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ds_sync.ownership import FileOwner
from ds_sync.replica.inspection import DocumentView, FileView, inspect_file

if TYPE_CHECKING:
    from rich.console import Console

SHOWN: Final = 20
"""Things put aside that are listed of a document; --json has all."""


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Write JSON: times are seconds since 1970, sizes bytes.")
@click.option("--document", metavar="PATH", help="Only this document.")
def inspect(file: Path, as_json: bool, document: str | None) -> None:
    """Show what stands in a replica's FILE: its documents, the edits that no server has yet, and what was put aside.

    FILE is only read. It may be in use: then this is what stands in it at this moment.
    """
    view = inspect_file(file)
    documents = tuple(found for found in view.documents if document in (None, found.path))
    if as_json:
        click.echo(json.dumps({**asdict(view), "documents": [asdict(found) for found in documents]}, indent=2))
        return
    _print(view, documents, time.time())


def _print(view: FileView, documents: tuple[DocumentView, ...], now: float) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(
        f"[bold]{_safe(view.path)}[/bold]  {_size(view.bytes)}, {_count(len(view.documents), 'document')}, {_describe(view.owner)}"
    )
    if not documents:
        return
    _print_documents(console, documents, now)
    for document in documents:
        if document.batch is not None:
            batch = document.batch
            what = "what the server had lost" if batch.healing and not batch.edits else _count(batch.edits, "edit")
            console.print(
                f"\n{_safe(document.path)}: a batch is on its way: {what}, {_size(batch.bytes)}, "
                f"number {batch.seq} of producer {_safe(batch.producer)}, sealed at {_safe(batch.sealed_at)}"
            )
        if document.quarantine:
            _print_quarantine(console, document, now)


def _print_documents(console: Console, documents: tuple[DocumentView, ...], now: float) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("document", "service", "phase", "server"):
        table.add_column(title, overflow="fold", no_wrap=title == "phase")
    for title in ("size", "durable", "in the outbox", "oldest", "put aside"):
        table.add_column(title, justify="right", no_wrap=True)
    for found in documents:
        waiting = f"{found.outbox.edits} ({_size(found.outbox.bytes)})" if found.outbox.edits else "0"
        table.add_row(
            _safe(found.path),
            _safe(found.service),
            _safe(found.phase),
            _safe(found.server or "none yet"),
            _size(found.snapshot_bytes + found.log_bytes),
            str(found.durable),
            waiting,
            "" if found.outbox.oldest is None else _age(now - found.outbox.oldest),
            str(len(found.quarantine)),
        )
    if console.measure(table, options=console.options.update(max_width=sys.maxsize)).maximum > console.width:
        # Narrow what has words, so that only names and URLs are folded.
        table.padding = (0, 1, 0, 0)
        for column in table.columns:
            column.header = "\n".join(str(column.header).rsplit(" ", 1))
    console.print()
    console.print(table)


def _print_quarantine(console: Console, document: DocumentView, now: float) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", title_justify="left")
    for title in ("put aside", "after offset", "size", "reason", "first bytes"):
        table.add_column(title, overflow="fold")
    for culprit in document.quarantine[-SHOWN:]:
        table.add_row(
            f"{_age(now - culprit.at)} ago", _safe(culprit.offset), _size(culprit.bytes), _safe(culprit.reason), culprit.head[:47]
        )
    console.print(f"\n{_safe(document.path)}: put aside, because it could not be used:")
    console.print(table)
    if len(document.quarantine) > SHOWN:
        console.print(f"and {len(document.quarantine) - SHOWN} earlier ones: --json has them all")


def _describe(owner: FileOwner | None) -> str:
    if owner is None:
        return "nobody has ever had it open"
    who = f"process {owner.pid} ({_safe(owner.role)}: {_safe(owner.command)}) since {_safe(owner.since)}"
    ending = {True: ", which runs", False: ", which has ended", None: ""}[owner.running]
    return f"last opened by {who}{ending}"


def _safe(text: str) -> str:
    """What strangers wrote, without what a terminal or rich would take for a command."""
    from rich.markup import escape

    return escape("".join(character if character.isprintable() else repr(character)[1:-1] for character in text))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _age(seconds: float) -> str:
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
