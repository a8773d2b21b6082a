"""The ASGI application: finds the handler, turns refusals into answers, counts what is under way."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from ds_sync import __version__
from ds_sync.environment import Environment
from ds_sync.exceptions import DsSyncError, InvalidRequestError, NotFoundError
from ds_sync.protocol.caching import NO_STORE
from ds_sync.protocol.retention import KeepUpdates
from ds_sync.server.admission import Admit, admit_everybody
from ds_sync.server.documents.compaction import OpenWorker
from ds_sync.server.documents.routes import PRESENCE_MARK, Documents, parse_document_name, parse_presence_path
from ds_sync.server.engines.base import PromptEngine, StorageEngine
from ds_sync.server.express import ExpressLane
from ds_sync.server.front.slow_bodies import TimedBody
from ds_sync.server.gateway import MAX_FRAME, Doorway, OpenGateway
from ds_sync.server.gateways import Gateways
from ds_sync.server.lane import Lane
from ds_sync.server.live import Waiters, find_wire
from ds_sync.server.operation.listing import LIST_PATH, serve_list
from ds_sync.server.operation.logs import access, log_request
from ds_sync.server.operation.metrics import CONTENT_TYPE, METRICS_PATH, Metrics
from ds_sync.server.operation.under_way import UnderWay
from ds_sync.server.pages.demo import Demo
from ds_sync.server.pages.inspector import InspectAccess, Inspector
from ds_sync.server.pages.pages import ServePage
from ds_sync.server.pages.survey import Survey
from ds_sync.server.requests import RESERVED, STREAM_MOUNT, ClientGoneError, parse_stream_path
from ds_sync.server.responses import METHODS, PREFLIGHT_HEADERS, Message, Receive, Scope, Send, answer, build_failure, build_refusal
from ds_sync.server.settled import CACHE_BYTES
from ds_sync.server.streams import Limits, Streams, raw_path
from ds_sync.server.subscriptions.operations import Subscriptions
from ds_sync.server.subscriptions.routes import SubscriptionRoutes
from ds_sync.server.subscriptions.targets import TargetPolicy
from ds_sync.server.subscriptions.wakes import Wakes
from ds_sync.server.subscriptions.webhooks import Webhooks
from ds_sync.server.sweeping import Sweeper

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[str, Scope, Receive, Send], Awaitable[None]]


class Application:
    """An ASGI 3 application over one engine. Made by `create_app`."""

    def __init__(
        self,
        engine: StorageEngine,
        environment: Environment,
        limits: Limits,
        *,
        policy: TargetPolicy,
        public_url: str | None,
        compact_after: int | None,
        open_worker: OpenWorker | None,
        gateways: Mapping[str, OpenGateway] | None,
        max_frame: int,
        admit: Admit,
        inspect: InspectAccess | None,
        demo: bool,
    ) -> None:
        self.engine = engine
        self._request_timeout = limits.request_timeout
        self._environment = environment
        self._waiters = Waiters()
        self._unwatch = engine.watch(self._waiters.wake)
        self._under_way = UnderWay()
        self.metrics = Metrics(engine, self._waiters, self._under_way)
        streams = Streams(engine, environment, limits, self._waiters, public_url=public_url)
        self.express: ExpressLane | None = None
        """For the HTTP server that runs on the same event loop."""
        if isinstance(engine, PromptEngine):
            lane = Lane(engine, environment, limits, streams.pages, self._waiters, self._under_way, self.metrics)
            self.express = ExpressLane(lane)
        self._documents = Documents(engine, streams, environment, limits, compact_after, open_worker)
        doorway = Doorway(
            engine,
            environment,
            self._documents,
            max_frame=max_frame,
            page_bytes=limits.page_bytes,
            max_streams=limits.max_streams,
            admit=admit,
        )
        self._gateways = Gateways(doorway, gateways)
        self._inspector: Inspector | None = None
        self._pages: dict[bytes, ServePage] = {}
        """By the first segment of their paths."""
        if inspect is not None:
            survey = Survey(engine, environment, self._documents, self._waiters, self._gateways.count)
            self._inspector = Inspector(survey, inspect)
            self._pages[b"inspect"] = self._inspector.serve
        if demo:
            self._pages[b"demo"] = Demo().serve
        self._wakes = Wakes(engine, environment, Webhooks(policy))
        self._unwatch_wakes = engine.watch(self._wakes.notice)
        self._sweeper = Sweeper(engine, environment)
        self.metrics.gateways, self.metrics.wakes = self._gateways, self._wakes
        subscriptions = Subscriptions(self._wakes, environment, policy)
        self._subscriptions = SubscriptionRoutes(subscriptions, self._wakes, max_body=limits.max_body, public_url=public_url)
        self._handlers: dict[str, Handler] = {
            "POST": streams.post,
            "GET": streams.get,
            "HEAD": streams.head,
            "PUT": streams.put,
            "DELETE": streams.delete,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "http":
            with self._under_way.counting():
                await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            with self._under_way.counting():
                await self._gateways.serve(scope, receive, send)

    async def start(self) -> None:
        """Wake the subscriptions that have something to do, and begin to end expired streams. Raises StoreError.

        Without it subscriptions are woken by the first request on one, and an expired stream is ended when it is asked for.
        """
        await self._wakes.start()
        await self._sweeper.start()

    async def drain(self, seconds: float) -> bool:
        """End the live readers, wait up to `seconds` for the requests under way; return whether all are done."""
        self._waiters.stop()
        self._documents.stop()
        self._gateways.stop()
        return await self._under_way.drain(seconds)

    async def aclose(self) -> None:
        """Stop listening to the engine, and waking. The engine belongs to whoever opened it."""
        self._waiters.stop()
        self._unwatch()
        self._unwatch_wakes()
        if self._inspector is not None:
            self._inspector.close()
        await self._sweeper.aclose()
        await self._gateways.aclose()
        await self._wakes.aclose()
        await self._documents.aclose()

    async def _serve(self, scope: Scope, receive: Receive, out: Send) -> None:
        started, status, sent = False, 0, 0
        monotonic = self._environment.monotonic
        began = monotonic()

        async def send(message: Message) -> None:
            nonlocal started, status, sent
            started = True
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
            await out(message)

        try:
            method = scope["method"]
            path = raw_path(scope)
            if self._request_timeout is not None and scope.get("http_version") == "2":
                receive = TimedBody(receive, self._request_timeout, monotonic)
            if (serve_page := self._pages.get(path[1:].partition(b"/")[0])) is not None:
                await serve_page(scope, send)
            elif method == "OPTIONS":
                await send({"type": "http.response.start", "status": 204, "headers": PREFLIGHT_HEADERS})
                await send({"type": "http.response.body", "body": b""})
            elif path.startswith(STREAM_MOUNT):
                name = parse_stream_path(path[len(STREAM_MOUNT) :])
                if f"{name}/".startswith(RESERVED) and name != LIST_PATH:
                    await self._subscriptions.serve(path[len(STREAM_MOUNT) :], scope, receive, send)
                    return
                handler = self._handlers.get(method)
                if handler is None:
                    await _refuse_method(send)
                    return
                if name == LIST_PATH:
                    await serve_list(self.engine, scope, send)
                    return
                if PRESENCE_MARK in name and (presence := parse_presence_path(name)) is not None:
                    await self._documents.serve_presence(*presence, scope, receive, send)
                    return
                await handler(name, scope, receive, send)
            elif (document := parse_document_name(path)) is not None:
                await self._documents.serve(document, scope, receive, send)
            elif path == b"/health" and method in ("GET", "HEAD"):
                body = json.dumps({"status": "ok", "version": __version__, "durable": self.engine.durable}).encode()
                fields = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
                await answer(send, 200, fields, body if method == "GET" else b"")
            elif path == METRICS_PATH and method in ("GET", "HEAD"):
                text = self.metrics.render()
                fields = [(b"content-type", CONTENT_TYPE), (b"cache-control", b"no-store")]
                await answer(send, 200, fields, text if method == "GET" else b"")
            else:
                raise NotFoundError("nothing is served at this path", code="NOT_FOUND")
        except ClientGoneError:
            # Who only closed its sending side still reads; and HTTP servers turn an application that says nothing into a 500.
            if not started:
                await answer(send, *build_refusal(InvalidRequestError("the request broke off", code="INCOMPLETE_REQUEST")))
        except Exception as error:
            if started:
                if not isinstance(error, DsSyncError):
                    log.exception("%s %s failed", scope["method"], scope["path"])
                raise
            refusal, fields, body = build_failure(error, scope["method"], scope["path"])
            await answer(send, refusal, fields, b"" if scope["method"] == "HEAD" else body)
        finally:
            took = monotonic() - began
            if (wire := find_wire(scope)) is not None:
                sent += wire.pushed
                status = wire.refused or status
            self.metrics.note(scope["method"], status, sent, took, live=b"live=" in scope["query_string"])
            if access.isEnabledFor(logging.INFO):
                log_request(scope, status, sent, took)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                await self.aclose()
                return


async def _refuse_method(send: Send) -> None:
    body = json.dumps({"error": {"code": "METHOD_NOT_ALLOWED", "message": "this method means nothing here"}}).encode()
    fields = [(b"allow", METHODS), (b"content-type", b"application/json"), (b"cache-control", NO_STORE.encode())]
    await answer(send, 405, fields, body)


def create_app(
    engine: StorageEngine,
    *,
    environment: Environment | None = None,
    long_poll_timeout: float = 30.0,
    sse_seconds: float = 60.0,
    max_body: int = 64 * 1024 * 1024,
    page_bytes: int = 1024 * 1024,
    retain_bytes: int | None = None,
    max_streams: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    request_timeout: float | None = 60.0,
    webhook_targets: TargetPolicy | None = None,
    public_url: str | None = None,
    compact_after: int | None = 1024 * 1024,
    keep_updates: KeepUpdates | None = None,
    open_worker: OpenWorker | None = None,
    gateways: Mapping[str, OpenGateway] | None = None,
    max_frame: int = MAX_FRAME,
    admit: Admit = admit_everybody,
    inspect: InspectAccess | None = None,
    demo: bool = False,
) -> Application:
    """Return the application that serves `engine`; times are seconds, sizes bytes. The engine stays the caller's to close.

    `webhook_targets` says where webhooks may go; by default, by https to public addresses. `public_url` is where clients reach the server,
    for `Location` and the callbacks of webhooks; by default what the Host header of the request says. `compact_after`: a document whose
    log has grown by this much gets a snapshot (None: never), from `open_worker`; by default, from a process of its own. `keep_updates`:
    how much of its updates is kept although a snapshot has them; None keeps everything. `retain_bytes`:
    how much of a stream is kept at least, its oldest records going first; None keeps everything. `max_streams`: how many living streams
    clients may make; None: any number. `cache_bytes`: of pages read from the file, how many are kept in memory. `request_timeout`: how long
    a body in HTTP/2 may fall behind; in HTTP/1.1 the server sees to it.
    `gateways`: other protocols on WebSockets, by the segment after `/v1/` they are served at; by default, those that are installed.
    `max_frame`: bytes that one message of a WebSocket client may have. `admit`: asked for each WebSocket connection whether it may write or
    read in the room it wants, by its headers, query and cookies (`ds_sync.server.admission`); what is asked for over HTTP is for the
    application before this one to judge. `inspect`: who may look at `/inspect`; by default nobody.
    `demo`: whether the editor page is served at `/demo`.
    """
    limits = Limits(
        max_body,
        page_bytes,
        long_poll_timeout,
        sse_seconds,
        retain_bytes,
        max_streams,
        request_timeout,
        cache_bytes=cache_bytes,
        keep_updates=keep_updates,
    )
    return Application(
        engine,
        environment or Environment(),
        limits,
        policy=webhook_targets or TargetPolicy(),
        public_url=public_url,
        compact_after=compact_after,
        open_worker=open_worker,
        gateways=gateways,
        max_frame=max_frame,
        admit=admit,
        inspect=inspect,
        demo=demo,
    )
