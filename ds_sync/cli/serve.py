"""`ds-sync serve`: one process, one port, one file. HTTP/1.1 is served on the event loop, HTTP/2 and WebSockets by Granian behind it."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from ds_sync.cli.keep_updates import KeepUpdatesType
from ds_sync.cli.serve_limits import ServeLimits, allow_open_files, limit_options
from ds_sync.exceptions import StoreError
from ds_sync.protocol.retention import KeepUpdates
from ds_sync.server.app import Application, create_app
from ds_sync.server.engines.base import StorageEngine
from ds_sync.server.gateway import MAX_FRAME
from ds_sync.server.operation.logs import LogFormat, start_logging
from ds_sync.server.pages.inspector import InspectAccess
from ds_sync.server.subscriptions.targets import TargetPolicy

DRAIN_SECONDS = 10.0
"""How long SIGTERM waits for requests under way."""

FLUSH_SECONDS = 0.1
"""For answers that were given to the HTTP server and are still on their way to the socket."""

COLLECT = (5_000, 20, 10)
"""For `gc.set_threshold`. A server keeps much of what it makes and makes few cycles: Python's defaults cost a tenth of an append."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=4437, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on; 0 picks a free one.")
@click.option("--data", type=click.Path(dir_okay=False, path_type=Path), help="SQLite file for the streams.  [default: ./ds-sync.db]")
@click.option("--memory", is_flag=True, help="Keep streams in memory only: gone when the server ends.")
@click.option(
    "--long-poll-timeout", default=30.0, show_default=True, type=click.FloatRange(0.1, 600), help="Seconds a long-poll waits for data."
)
@click.option(
    "--max-body", default=64 * 1024 * 1024, show_default=True, type=click.IntRange(1024), help="Bytes one request's body may have."
)
@click.option(
    "--retain-bytes",
    type=click.IntRange(1),
    help="Bytes of a stream to keep at least; older records are dropped. Documents keep all. Default: everything is kept.",
)
@click.option(
    "--compact-after",
    default=1024 * 1024,
    show_default=True,
    type=click.IntRange(0),
    help="Bytes by which a document's log grows until it gets a snapshot at once; with a 64th of them, when there is time. 0: never.",
)
@click.option(
    "--keep-updates",
    type=KeepUpdatesType(),
    help="What to keep of a document's updates although a snapshot has them: the youngest (7d, 12h, 30m, 90s), or the last so many bytes. "
    "Who asks for older ones begins again at the snapshot. Default: all.",
)
@click.option(
    "--max-frame",
    default=MAX_FRAME,
    show_default=True,
    type=click.IntRange(1024, MAX_FRAME),
    help="Bytes one message of a WebSocket client may have.",
)
@click.option(
    "--inspect-token",
    metavar="TOKEN",
    envvar="DS_SYNC_INSPECT_TOKEN",
    show_envvar=True,
    help="Serve the inspector, /inspect, to who brings this token. Without one it is served to this machine only, and only if --host is "
    "a loopback address.",
)
@click.option("--no-inspect", is_flag=True, help="Serve no inspector.")
@click.option("--demo", is_flag=True, help="Serve an editor page, /demo: everybody who has a page's address writes on it.")
@click.option("--allow-http-webhooks", is_flag=True, help="Let webhooks go to this machine, and by plain http: for development.")
@click.option(
    "--allow-webhook", multiple=True, metavar="HOST", help="A host or network (10.1.0.0/16) webhooks may go to wherever it is. Repeatable."
)
@click.option(
    "--public-url", metavar="URL", help="Where clients reach this server, for Location and callbacks.  [default: what their requests say]"
)
@limit_options
@click.option("--access-log", is_flag=True, help="Log a line for every request.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Of what is logged, to standard error."
)
def serve(
    host: str,
    port: int,
    data: Path | None,
    memory: bool,
    long_poll_timeout: float,
    max_body: int,
    retain_bytes: int | None,
    compact_after: int,
    keep_updates: KeepUpdates | None,
    max_frame: int,
    inspect_token: str | None,
    no_inspect: bool,
    demo: bool,
    allow_http_webhooks: bool,
    allow_webhook: tuple[str, ...],
    public_url: str | None,
    limits: ServeLimits,
    access_log: bool,
    log_format: LogFormat,
) -> None:
    """Serve streams until SIGTERM or SIGINT."""
    if memory and data is not None:
        raise click.UsageError("--memory and --data exclude each other")
    if keep_updates is not None and not compact_after:
        raise click.UsageError("--keep-updates needs snapshots: --compact-after must not be 0")
    if public_url is not None and not public_url.startswith(("http://", "https://")):
        raise click.UsageError("--public-url must begin with http:// or https://")
    try:
        policy = TargetPolicy(allow_http=allow_http_webhooks, allowed=allow_webhook)
    except ValueError as error:
        raise click.UsageError(f"--allow-webhook: {error}") from None
    if no_inspect and inspect_token is not None:
        raise click.UsageError("--inspect-token and --no-inspect exclude each other")
    try:
        inspect = None if no_inspect else InspectAccess(inspect_token)
    except ValueError as error:
        raise click.UsageError(f"--inspect-token: {error}") from None
    stop_logging = start_logging(log_format, requests=access_log)
    path = Path("ds-sync.db") if data is None else data
    try:
        listener = _listen(host, port)
    except OSError as error:
        _fail(f"can't listen on {host}:{port}: {error.strerror or error}")
    if inspect_token is None and not ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback:
        inspect = None
    engine: StorageEngine
    try:
        engine = _open_engine(None if memory else path)
    except StoreError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"can't open {path}: {error.strerror or error}")
    where = "memory" if memory else f"sqlite {path}"
    build = partial(
        create_app,
        engine,
        long_poll_timeout=long_poll_timeout,
        max_body=max_body,
        retain_bytes=retain_bytes,
        webhook_targets=policy,
        public_url=public_url,
        compact_after=compact_after or None,
        keep_updates=keep_updates,
        max_frame=max_frame,
        inspect=inspect,
        demo=demo,
        max_streams=limits.max_streams,
        cache_bytes=limits.cache_bytes,
        request_timeout=limits.request_timeout,
    )
    try:
        code = _run(lambda: _serve(build, engine, listener, where, None if memory else path, limits))
    except StoreError as error:
        _fail(str(error))
    finally:
        stop_logging()
    sys.exit(code)


def _fail(message: str) -> NoReturn:
    click.echo(f"ds-sync serve: {message}", err=True)
    sys.exit(2)


def _open_engine(path: Path | None) -> StorageEngine:
    if path is None:
        from ds_sync.server.engines.memory import MemoryEngine

        return MemoryEngine()
    from ds_sync.server.engines.sqlite import SqliteEngine

    return SqliteEngine(path)


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Not SO_REUSEPORT, which Granian would set: a second server on the port must fail, not share the requests.
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    gc.freeze()
    gc.set_threshold(*COLLECT)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main())
    return uvloop.run(main())


async def _serve(
    build: Callable[[], Application], engine: StorageEngine, listener: socket.socket, where: str, file: Path | None, limits: ServeLimits
) -> int:
    from ds_sync.server.front.http1 import Http1Server

    app = build()
    host, port = listener.getsockname()[:2]
    beyond = _listen("127.0.0.1", 0)
    granian = _build_granian(app, beyond, limits)
    server = Http1Server(
        app,
        express=app.express,
        beyond=beyond.getsockname()[1],
        idle=limits.idle_timeout,
        patience=limits.request_timeout,
        min_rate=limits.min_rate,
        tick=min(1.0, limits.request_timeout / 4),
        max_head=limits.max_head,
        max_target=limits.max_url,
        max_connections=allow_open_files(limits.max_connections),
    )
    app.metrics.front, app.metrics.file = server, file
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    serving = asyncio.ensure_future(granian.serve())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await server.start(listener)
        await _accepting(host, port)
        await app.start()
        shown = f"[{host}]" if ":" in host else host
        print(f"ds-sync serving http://{shown}:{port} ({where})", flush=True)
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            return 1
        server.stop_accepting()
        await app.drain(DRAIN_SECONDS)
        await asyncio.sleep(FLUSH_SECONDS)
        granian.interrupt_signal = True
        granian.main_loop_interrupt.set()
        await asyncio.wait((serving,), timeout=DRAIN_SECONDS)
        return 0
    finally:
        stopping.cancel()
        await server.aclose()
        await app.aclose()
        await engine.aclose()
        listener.close()
        beyond.close()


def _build_granian(app: Application, listener: socket.socket, limits: ServeLimits) -> Any:
    """Return the server for what is not HTTP/1.1; it takes the socket."""
    from granian._granian import SocketHolder
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP2Settings
    from granian.server.embed import Server

    class ListeningServer(Server):
        """Granian on a socket that listens already: it can't make one that refuses a port in use. It closes the socket."""

        def _init_shared_socket(self) -> None:
            descriptor = listener.detach()
            self._shd: Any = SocketHolder(descriptor, False, 1024)  # type: ignore[call-arg]  # granian's stub forgets __new__
            self._sfd: Any = descriptor
            self._ssp: Any = None

    host, port = listener.getsockname()[:2]
    return ListeningServer(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.auto,
        http2_settings=HTTP2Settings(max_headers_size=limits.max_head),
        websockets=True,
        backlog=1024,
        backpressure=100_000,
        log_enabled=False,
    )


async def _accepting(host: str, port: int) -> None:
    """Return when the server answers, not just when its socket listens."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    reader, writer = await asyncio.open_connection(target, port)
    writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    status = await reader.readline()
    writer.close()
    if b" 200 " not in status:
        raise OSError(f"the server answered its first request with {status!r}")


if __name__ == "__main__":
    serve()
