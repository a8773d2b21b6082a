"""`ds-sync bridge`: a room of a y-websocket server and a document of ours, kept in step for as long as a move takes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from ds_sync.exceptions import SyncStoppedError
from ds_sync.peers import Peer, load_peer
from ds_sync.protocol.urls import redact_url, split_url
from ds_sync.replica.document import Document
from ds_sync.replica.places import parse_document_url
from ds_sync.replica.records import DocumentKey
from ds_sync.replica.replica import Replica

KIND: Final = "y-websocket"

ENDED: Final = frozenset({"diverged", "deleted", "local", "blocked", "closed"})
"""States of the document in which the bridge ends: somebody has to decide."""

CATCH_UP_SECONDS: Final = 10.0
"""For which our server is waited for at first. Without it what the room says is kept in the bridge's file."""

LOOK_SECONDS: Final = 0.25
"""Between two looks at how both sides stand. What lasts shorter is not worth a line."""


@dataclass(frozen=True, slots=True)
class _Ends:
    """What is to be bridged."""

    room: str
    headers: dict[str, str]
    server: str
    key: DocumentKey
    token: str | None
    file: Path


@click.command()
@click.argument("room")
@click.argument("url")
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("ds-sync-bridge.db"),
    show_default=True,
    help="The bridge's own copy; made if it does not exist. One bridge, one file.",
)
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Send this header to the room's server. Repeatable."
)
@click.option("--token", envvar="DS_SYNC_TOKEN", metavar="TEXT", help="Send it to our server as a bearer token.  [env var: DS_SYNC_TOKEN]")
@click.option("--once", is_flag=True, help="End when both have shown that they hold the same.")
def bridge(room: str, url: str, file: Path, headers: tuple[str, ...], token: str | None, once: bool) -> None:
    """Keep ROOM, ws://old-server/room, and the document at URL in step, both ways, until SIGTERM or SIGINT.

    ROOM is on any server that speaks the y-websocket protocol. URL is <server>/v1/yjs/<service>/docs/<path>. Either server, and the
    bridge, may die and come back at any time: what one lacks is found from what it holds. Who is there (presence) is not carried over.
    """
    ends = _parse_ends(room, url, file, headers, token)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_bridge(ends, once=once))


def _parse_ends(room: str, url: str, file: Path, headers: tuple[str, ...], token: str | None) -> _Ends:
    try:
        parts = split_url(room)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.path in ("", "/"):
        raise click.UsageError(f"a room is ws://server/room or wss://server/room, not {redact_url(room)!r}")
    try:
        server, key = parse_document_url(url)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if key is None or key.crdt != "yjs":
        raise click.UsageError(f"a document's URL is <server>/v1/yjs/<service>/docs/<path>, not {redact_url(url)!r}")
    sent = {}
    for text in headers:
        name, colon, value = text.partition(":")
        if not colon or not name.strip() or not text.isprintable():
            raise click.UsageError("a --header must be 'Name: value'")
        sent[name.strip()] = value.strip()
    return _Ends(room, sent, server, key, token, file)


async def _bridge(ends: _Ends, *, once: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows has no such handlers; there SIGINT is a KeyboardInterrupt
            loop.add_signal_handler(number, stop.set)
    async with Replica(ends.file, server=ends.server, service=ends.key.service, token=ends.token) as replica:
        document = await replica.open(ends.key.path, crdt=ends.key.crdt)
        await _catch_up(document, stop)
        async with load_peer(KIND)(document, ends.room, ends.headers) as peer:
            tasks = [
                asyncio.ensure_future(work) for work in (stop.wait(), _tell(document, peer), *((_meet(document, peer),) if once else ()))
            ]
            await _until_one_ends(tasks)
            _print(_describe(document, peer))


async def _catch_up(document: Document, stop: asyncio.Event) -> None:
    """Read what our server has, if it answers: what the room then says of the same is no news, and not written a second time."""
    tasks = [asyncio.ensure_future(document.synced()), asyncio.ensure_future(stop.wait())]
    await _until_one_ends(tasks, CATCH_UP_SECONDS)


async def _until_one_ends(tasks: Sequence[asyncio.Future[Any]], seconds: float | None = None) -> None:
    """Wait for the first of them, or for `seconds`; end the others. Raises what it raised."""
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _meet(document: Document, peer: Peer) -> None:
    await peer.synced()  # what the room has is here
    await document.synced()  # and on our server; what that has is here
    await peer.synced()  # and in the room


async def _tell(document: Document, peer: Peer) -> None:
    """Print how both sides stand, whenever that changes. Raises SyncStoppedError when the document can't go on."""
    told = ""
    while True:
        if document.status.state in ENDED:
            raise SyncStoppedError(f"{document.path} is {document.status.state}: {document.status.last_error}", state=document.status.state)
        line = _describe(document, peer)
        if line != told:
            told = line
            _print(line)
        await asyncio.sleep(LOOK_SECONDS)


def _describe(document: Document, peer: Peer) -> str:
    room, ours = peer.status, document.status
    held = "has everything" if room.confirmed else "is not known to have everything"
    waiting = ours.unsaved + ours.unsent + ours.sent
    sides = (
        f"room: {room.state}, {held}" + (f" ({room.last_error})" if room.last_error else ""),
        f"document: {ours.state}, {waiting or 'nothing'} to send" + (f" ({ours.last_error})" if ours.last_error else ""),
    )
    return "; ".join(sides)


def _print(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {line}")
