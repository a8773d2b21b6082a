"""The sync server inside a FastAPI application: its streams and documents at /v1/, beside the application's own routes.

    uvicorn app:app --timeout-graceful-shutdown 5 --ws-ping-interval 2 --ws-ping-timeout 5

Who brings the key may sync, and enter rooms; who brings the other one may only read in rooms. Set SYNC_KEY, SYNC_READ_KEY if there is to be
one, and SYNC_DATA for the file.
"""

import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from ds_sync.exceptions import ForbiddenError
from ds_sync.server.admission import Access, Visitor
from ds_sync.server.app import create_app
from ds_sync.server.engines.sqlite import SqliteEngine


def is_key(said: str, name: str) -> bool:
    """Whether it is the key that the environment has by this name."""
    key = os.environ.get(name)
    return bool(key) and hmac.compare_digest(said.encode(), str(key).encode())


async def admit(visitor: Visitor) -> Access:
    """Judge who asks to enter a room. Browsers can't set headers on a WebSocket: y-websocket has `params: { key: "..." }`."""
    said = visitor.query.get("key") or visitor.headers.get("authorization", "").removeprefix("Bearer ")
    if is_key(said, "SYNC_KEY"):
        return Access.WRITE
    if is_key(said, "SYNC_READ_KEY"):
        return Access.READ
    raise ForbiddenError("the key is wrong")


class WithKey:
    """Lets requests through to `app` that have the key as a bearer token. WebSockets are judged by `admit`."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket" or self._may(scope):
            await self._app(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    def _may(self, scope: Any) -> bool:
        if scope["method"] == "OPTIONS":
            return True  # a browser on another origin asks whether it may send the key
        said = dict(scope["headers"]).get(b"authorization", b"").removeprefix(b"Bearer ")
        return is_key(said.decode("latin-1"), "SYNC_KEY")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # FastAPI and Starlette tell only the outermost application that it starts and ends, so this is done here.
    engine = SqliteEngine(os.environ.get("SYNC_DATA", "streams.db"))
    sync = create_app(engine, admit=admit)
    await sync.start()
    app.mount("/v1", WithKey(sync))
    try:
        yield
    finally:
        await sync.drain(5)
        await sync.aclose()
        await engine.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/hello")
async def hello() -> dict[str, str]:
    return {"hello": "from the application"}
