"""`ds-sync import`: documents from the store of another server, once or as often as one likes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from ds_sync.cli.places import parse_place
from ds_sync.crdt import CrdtAdapter, load_adapter
from ds_sync.exceptions import DsSyncError, SourceError
from ds_sync.replica.importing import Imported
from ds_sync.replica.places import SECONDS, OpenPlace, Place
from ds_sync.replica.records import DocumentKey
from ds_sync.replica.replica import check_name
from ds_sync.sources import DocumentSource, SourceOptions, open_source


@dataclass(frozen=True, slots=True)
class _Plan:
    source: DocumentSource
    adapter: CrdtAdapter
    place: Place
    keys: dict[str, DocumentKey | ValueError]
    """By the name in the source; why it can't have that name here, if so."""
    dry_run: bool


@click.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("target")
@click.option("--service", default="default", show_default=True, help="The documents' service on the server.")
@click.option("--document", "documents", multiple=True, metavar="NAME", help="Only this one of SOURCE. Repeatable.")
@click.option("--as", "renamed", metavar="PATH", help="Call it so in TARGET, if it is one document.")
@click.option("--dry-run", is_flag=True, help="Read and compare; change nothing.")
@click.option("--node-modules", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where npm has y-leveldb.")
@click.option("--token", envvar="DS_SYNC_TOKEN", metavar="TEXT", help="Send it as a bearer token.  [env var: DS_SYNC_TOKEN]")
@click.option("--timeout", default=SECONDS, show_default=True, type=click.FloatRange(min=0.1), help="Seconds to wait for the server.")
def import_(
    source: Path,
    target: str,
    service: str,
    documents: tuple[str, ...],
    renamed: str | None,
    dry_run: bool,
    node_modules: Path | None,
    token: str | None,
    timeout: float,
) -> None:
    """Bring documents from SOURCE to TARGET, and prove that all of each is there.

    SOURCE is a folder of y-leveldb, an SQLite file of pycrdt-store (ystore.db) or of Hocuspocus, or a file with one Yjs update. It is only
    read. TARGET is a server's URL, a document's URL (<server>/v1/yjs/<service>/docs/<path>) or a replica's file.

    A document comes as one update, whole or not at all. What TARGET has already is not added again: a second run adds nothing.
    Exit codes: 0 everything is there, 1 some documents are not, 2 nothing could be done.
    """
    place, key = parse_place(target, token=token, seconds=timeout)
    with closing(open_source(source, SourceOptions(node_modules=node_modules))) as store:
        there = list(store.names())
        names = _choose(there, documents)
        if key is not None and renamed is not None:
            raise click.UsageError("TARGET names the document already: leave out --as")
        if (key is not None or renamed is not None) and len(names) != 1:
            raise click.UsageError(f"SOURCE has {len(names)} documents: choose one by --document, or leave the name out of TARGET and --as")
        keys = {name: key or _name(store.crdt, service, renamed or name, () if renamed else there) for name in names}
        if key is not None and key.crdt != store.crdt:
            raise click.UsageError(f"TARGET is a document of {key.crdt!r}, SOURCE has {store.crdt!r}")
        plan = _Plan(store, load_adapter(store.crdt), place, keys, dry_run)
        click.echo(f"{source}: {store.kind}, {len(names)} document{'' if len(names) == 1 else 's'}")
        failed = asyncio.run(_import(plan))
    if failed:
        click.echo(f"ds-sync import: {failed} of {len(names)} not imported", err=True)
        sys.exit(1)


def _choose(there: Sequence[str], chosen: tuple[str, ...]) -> list[str]:
    lacking = [name for name in chosen if name not in there]
    if lacking:
        bare = lacking[0].strip("/")
        raise SourceError(f"SOURCE has no document {lacking[0]!r}" + (f": it is {bare!r} here" if bare in there else ""))
    return [name for name in there if not chosen or name in chosen]


def _name(crdt: str, service: str, path: str, there: Sequence[str]) -> DocumentKey | ValueError:
    try:
        return DocumentKey(crdt, check_name(service, "service"), check_name(path, "path"))
    except ValueError as error:
        bare = path.strip("/")
        if bare != path and bare in there:
            return ValueError(f"without slashes around it {path!r} is {bare!r}, and SOURCE has a document of that name, too")
        return error


async def _import(plan: _Plan) -> int:
    failures: dict[str, str] = {}
    news: dict[str, bool] = {}
    if not plan.dry_run:
        async with plan.place.writing() as place:
            for name, key in _progress("importing", plan.keys):
                with _noting(name, failures):
                    imported = await _load(plan, name)
                    news[name] = not imported.empty and await imported.write(place, _require_key(key))
    lines = []  # printed at the end: on a terminal the bar would stand in the same line
    async with plan.place.reading() as place:
        for name, key in _progress("comparing" if plan.dry_run else "verifying", plan.keys):
            if name in failures:
                continue
            with _noting(name, failures):
                lines.append(f"  {_label(name, key)}: {await _compare(plan, place, name, news.get(name, False))}")
    lines += [f"  {_label(name, plan.keys[name])}: FAILED: {reason}" for name, reason in failures.items()]
    for line in lines:
        click.echo(line)
    return len(failures)


async def _compare(plan: _Plan, place: OpenPlace, name: str, added: bool) -> str:
    """Return how the place stands to this document, in words. Raises SourceError if it lacks some of what was written."""
    imported = await _load(plan, name)
    found = await imported.compare(place, _require_key(plan.keys[name]))
    if not plan.dry_run and not found.complete:
        raise SourceError("it was written, and is not there as a whole now")
    if imported.empty:
        return "empty, left out"
    if plan.dry_run:
        missing = "to be added" if found.exists else "new"
        told = "there already" if found.complete else missing
    else:
        told = "added" if added else "there already"
    more = "" if found.equal or not found.complete else "; TARGET has more"
    return f"{imported.size:,} bytes, {told}{more}"


async def _load(plan: _Plan, name: str) -> Imported:
    return Imported(plan.adapter, await asyncio.to_thread(plan.source.read, name))


def _label(name: str, key: DocumentKey | ValueError) -> str:
    # A name may hold what a terminal obeys.
    shown = name if name.isprintable() else repr(name)
    return shown if isinstance(key, ValueError) or key.path == name else f"{shown} as {key.path}"


def _require_key(key: DocumentKey | ValueError) -> DocumentKey:
    if isinstance(key, ValueError):
        raise SourceError(f"{key}; give it another with --document and --as")
    return key


@contextmanager
def _noting(name: str, failures: dict[str, str]) -> Iterator[None]:
    """Note that this document failed, and let the others go on."""
    try:
        yield
    except DsSyncError as error:
        failures[name] = " ".join(str(error).split())


def _progress(what: str, keys: dict[str, DocumentKey | ValueError]) -> Iterator[tuple[str, DocumentKey | ValueError]]:
    """Go through the documents; show on a terminal how far that is."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(list(keys.items()), description=what, console=console, transient=True, disable=not console.is_terminal)
