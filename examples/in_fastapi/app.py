"""The sync server inside a FastAPI application: its streams and documents at /v1/, beside the application's own routes.

    uvicorn app:app --timeout-graceful-shutdown 5

Who brings the key may sync. Set SYNC_KEY, and SYNC_DATA for the file.
"""

import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI

from ds_sync.server.app import create_app
from ds_sync.server.engines.sqlite import SqliteEngine


class WithKey:
    """Lets through to `app` who has the key: as a bearer token, or, for WebSockets in browsers, as the parameter `key`."""

    def __init__(self, app: Any, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._has_key(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})  # what is refused before that has no code
            await send({"type": "websocket.close", "code": 4403, "reason": "the key is wrong"})  # y-websocket does not come back
        else:
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    def _has_key(self, scope: Any) -> bool:
        if scope.get("method") == "OPTIONS":
            return True  # a browser on another origin asks whether it may send the key
        said = dict(scope["headers"]).get(b"authorization", b"").removeprefix(b"Bearer ")
        if scope["type"] == "websocket" and not said:
            said = parse_qs(scope["query_string"]).get(b"key", [b""])[0]
        return hmac.compare_digest(said, self._key)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # FastAPI and Starlette tell only the outermost application that it starts and ends, so this is done here.
    engine = SqliteEngine(os.environ.get("SYNC_DATA", "streams.db"))
    sync = create_app(engine)
    await sync.start()
    app.mount("/v1", WithKey(sync, os.environ["SYNC_KEY"]))
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
