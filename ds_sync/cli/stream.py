"""`ds-sync stream`: a stream from the shell, in the manner of curl. Each command is one call of StreamClient."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any, Final, NoReturn, cast
from urllib.parse import urlsplit, urlunsplit

import click

from ds_sync.cli.stream_output import Meter, Output, read_data, read_lines, say, say_interrupted
from ds_sync.client.credentials import Credentials
from ds_sync.client.retry import RetryPolicy
from ds_sync.client.stream import Interruption, StreamClient
from ds_sync.exceptions import DsSyncError, GoneError, NotFoundError, TransportError
from ds_sync.protocol.headers import media_type
from ds_sync.protocol.json_mode import JSON_MEDIA_TYPE, split_json_page
from ds_sync.protocol.messages import AppendResult, StreamInfo
from ds_sync.protocol.offsets import BEGINNING, Offset
from ds_sync.protocol.tail import Live

REFUSED: Final = 1
NO_ANSWER: Final = 3
NO_STREAM: Final = 4
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141
"""Exit codes; 2 is for a wrong command line. The last two are what a shell says of a process ended by SIGINT and by SIGPIPE."""

LIST_PATH: Final = "/v1/stream/__ds/streams"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def stream() -> None:
    """Make, write, read and end streams, in the manner of curl.

    Exit codes: 0 done, 1 refused, 2 wrong command line, 3 no answer, 4 no such stream (or it is gone, or the offset is).
    """


def _run(main: Callable[[], Any]) -> None:
    try:
        asyncio.run(main())
        sys.stdout.flush()
    except DsSyncError as error:
        code = NO_ANSWER if isinstance(error, TransportError) else NO_STREAM if isinstance(error, NotFoundError | GoneError) else REFUSED
        _end(code, str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has enough. What is left of it must not fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)


def _end(code: int, message: str) -> NoReturn:
    say(message)
    sys.exit(code)


def _check_url(context: click.Context, parameter: click.Parameter, value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.BadParameter("it must begin with http:// or https:// and a host")
    return value


def _parse_headers(texts: tuple[str, ...]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip() or not text.isprintable():
            raise click.UsageError("a --header must be 'Name: value'")
        headers[name.strip()] = value.strip()
    return headers


def _on_stream(command: Callable[..., Awaitable[None]], locate: Callable[[str], str] = str) -> Callable[..., None]:
    """Give a command its URL and the options that all of them have; it gets a StreamClient of what `locate` makes of the URL."""

    @click.argument("url", metavar="URL", callback=_check_url)
    @click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Send this header too. Repeatable.")
    @click.option("--token", envvar="DS_SYNC_TOKEN", metavar="TEXT", help="Send it as a bearer token.  [env var: DS_SYNC_TOKEN]")
    @click.option(
        "--attempts",
        default=5,
        show_default=True,
        type=click.IntRange(1, 100),
        help="How often a request is tried; `follow` goes on for ever.",
    )
    @wraps(command)
    def run(url: str, headers: tuple[str, ...], token: str | None, attempts: int, **options: Any) -> None:
        async def main() -> None:
            retry = RetryPolicy(max_attempts=attempts)
            sent = _parse_headers(headers)
            async with StreamClient(locate(url), headers=sent, credentials=Credentials(token=token), retry=retry) as client:
                await command(client, **options)

        _run(main)

    return run


@stream.command()
@_on_stream
@click.argument("data", required=False)
@click.option("--content-type", metavar="TYPE", help="Of the stream.  [default: application/octet-stream]")
@click.option("--json", "as_json", is_flag=True, help="The same as --content-type application/json.")
@click.option("--ttl", type=click.IntRange(0), metavar="SECONDS", help="The stream goes when nobody has used it for so long.")
@click.option("--expires-at", metavar="TIME", help="The stream goes then; RFC 3339.")
@click.option("--closed", is_flag=True, help="DATA is all that will ever be in it.")
async def create(
    client: StreamClient, data: str | None, content_type: str | None, as_json: bool, ttl: int | None, expires_at: str | None, closed: bool
) -> None:
    """Make a stream, or find it there with the same settings; print its tail.

    It begins with DATA, or with standard input if DATA is "-".
    """
    kind = JSON_MEDIA_TYPE if as_json else content_type
    body = b"" if data is None else read_data(data)
    _show_made(await client.create(content_type=kind, body=body, closed=closed, ttl=ttl, expires_at=expires_at))


@stream.command()
@_on_stream
@click.argument("data", required=False)
@click.option("--content-type", metavar="TYPE", help="Of the stream; asked for if it is not given.")
@click.option("--json", "as_json", is_flag=True, help="It is a JSON stream: DATA is one message, or an array of them.")
@click.option("--lines", is_flag=True, help="Each line of standard input is appended for itself, as it comes, exactly once.")
@click.option("--close", is_flag=True, help="Nothing may follow.")
async def append(client: StreamClient, data: str | None, content_type: str | None, as_json: bool, lines: bool, close: bool) -> None:
    """Append DATA, or standard input without it; print the new tail.

    It is one append, whole or not at all, sent again only if the server said that it did nothing. With --lines a producer sends
    batches of lines, and repeats them until they are in; a line of a JSON stream is a message, and empty ones do not count.
    """
    kind = JSON_MEDIA_TYPE if as_json else content_type
    if not lines:
        body = read_data(data)
        sent = client.append(body, content_type=kind, close=close) if body or not close else client.close()
        _show_tail(await sent)
        return
    if data is not None:
        raise click.UsageError("--lines reads standard input; it takes no DATA")
    is_json = media_type(kind or await client.find_content_type()) == JSON_MEDIA_TYPE
    last = None
    async with client.producer() as producer:
        async for line in read_lines(sys.stdin.buffer):
            if not is_json or line.strip():
                last = await producer.append(line)
        if close:
            _show_tail(await producer.close())
            return
    if last is not None:
        _show_tail(await last)


def _reading(command: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Give a command the options of reading."""
    options = (
        click.option("--offset", default=BEGINNING, metavar="OFFSET", help='Where to begin; "now": the tail.  [default: the beginning]'),
        click.option("--json", "as_json", is_flag=True, help="It is a JSON stream: write one message a line, spelled as stored."),
        click.option("--lines", is_flag=True, help="Write whole lines only."),
        click.option("--next-offset", is_flag=True, help="Tell at the end, on standard error, where to read on."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@stream.command()
@_on_stream
@_reading
@click.option("--progress/--no-progress", default=None, help="Show how much was read.  [default: if it takes long, on a terminal]")
async def read(client: StreamClient, offset: str, as_json: bool, lines: bool, next_offset: bool, progress: bool | None) -> None:
    """Write what is in a stream to standard output, and end at its tail.

    A connection that breaks is taken up where it broke.
    """
    await _copy(client, Offset(offset), live=False, as_json=as_json, lines=lines, next_offset=next_offset, progress=progress)


@stream.command()
@_on_stream
@_reading
@click.option("--live", type=click.Choice(["auto", "sse", "long-poll"]), default="auto", show_default=True, help="How to wait for more.")
async def follow(client: StreamClient, offset: str, as_json: bool, lines: bool, next_offset: bool, live: str) -> None:
    """Write what is in a stream, and what comes, until it is closed.

    By SSE, but by long-poll for text: an event stream would change its line ends.
    Lost connections are told on standard error, and made again.
    """
    await _copy(client, Offset(offset), live=cast(Live, live), as_json=as_json, lines=lines, next_offset=next_offset, progress=False)


@stream.command()
@_on_stream
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
async def head(client: StreamClient, as_json: bool) -> None:
    """Print what the server says of a stream."""
    fields = dataclasses.asdict(await client.head())
    del fields["created"]
    if as_json:
        click.echo(json.dumps(fields))
    else:
        for name, value in fields.items():
            click.echo(f"{name}: {str(value).lower() if isinstance(value, bool) else value}")


@stream.command()
@_on_stream
@click.argument("data", required=False)
async def close(client: StreamClient, data: str | None) -> None:
    """Close a stream, after DATA if there is any ("-": standard input); print its tail."""
    _show_tail(await client.close(b"" if data is None else read_data(data)))


@stream.command()
@_on_stream
@click.argument("source")
@click.option("--offset", metavar="OFFSET", help="How much of SOURCE.  [default: all that is in it now]")
@click.option("--sub-offset", default=0, type=click.IntRange(0), metavar="N", help="And so many bytes, or JSON messages, of what follows.")
async def fork(client: StreamClient, source: str, offset: str | None, sub_offset: int) -> None:
    """Make a stream that begins with what SOURCE holds: a URL of the same server, or its path. Print its tail."""
    _show_made(await client.fork(urlsplit(source).path, offset=None if offset is None else Offset(offset), sub_offset=sub_offset))


@stream.command()
@_on_stream
async def delete(client: StreamClient) -> None:
    """Delete a stream."""
    await client.delete()


def _locate_list(url: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=LIST_PATH, query="", fragment=""))


@stream.command("list")
@partial(_on_stream, locate=_locate_list)
@click.option("--pattern", default="**", show_default=True, help="Which: * is any run of characters but /, ** is any run.")
async def list_streams(client: StreamClient, pattern: str) -> None:
    """Print the paths of a server's streams, one a line; URL is the server's.

    Of a ds-sync server: the protocol has no such request.
    """
    async for path in client.list_paths(pattern):
        click.echo(path)


async def _copy(
    client: StreamClient, offset: Offset, *, live: Live, as_json: bool, lines: bool, next_offset: bool, progress: bool | None
) -> None:
    follower = client.follow(offset, live=live)
    lost, at, attempts = 0, offset, click.get_current_context().params["attempts"]

    def interrupted(interruption: Interruption) -> None:
        nonlocal lost, at
        lost, at = (lost + 1 if at == follower.offset else 1), follower.offset
        # Following goes on for ever; who only reads wants to know.
        if not live and lost >= attempts:
            raise interruption.error
        say_interrupted(interruption)

    try:
        with Meter(progress) as meter:
            output = Output(sys.stdout.buffer, lines=lines, live=bool(live), progress=meter)
            if as_json:
                async for page in follower.pages(interrupted=interrupted):
                    for message in split_json_page(page.data):
                        output.write_message(message)
            else:
                async for chunk in follower.chunks(interrupted=interrupted):
                    output.write(chunk)
            output.end()
    finally:
        if next_offset:
            say(f"next offset {follower.offset}")


def _show_made(info: StreamInfo) -> None:
    if not info.created:
        say("the stream was there already")
    click.echo(info.tail)


def _show_tail(result: AppendResult) -> None:
    if result.tail is not None:
        click.echo(result.tail)
