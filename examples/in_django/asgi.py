"""The sync server inside a Django project: its streams and documents at /v1/, everything else is Django's.

    DJANGO_SETTINGS_MODULE=settings uvicorn asgi:application --timeout-graceful-shutdown 5 --ws-ping-interval 2 --ws-ping-timeout 5

Set SYNC_DATA for the file. Who may sync is for a proxy, or for a check before `site.sync` and `create_app(admit=...)`, as in ../in_fastapi.
"""

import os
from typing import Any

from django.core.asgi import get_asgi_application

from ds_sync.server.app import create_app
from ds_sync.server.engines.sqlite import SqliteEngine


class Site:
    """Sends each request where it belongs. Django knows no lifespan, so the sync server's is here."""

    def __init__(self) -> None:
        self.django = get_asgi_application()
        self.sync: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
        elif scope["path"].startswith("/v1/"):
            await self.sync(scope, receive, send)
        else:
            await self.django(scope, receive, send)

    async def live(self, receive: Any, send: Any) -> None:
        await receive()
        engine = SqliteEngine(os.environ.get("SYNC_DATA", "streams.db"))
        self.sync = create_app(engine)
        await self.sync.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.sync.drain(5)
        await self.sync.aclose()
        await engine.aclose()
        await send({"type": "lifespan.shutdown.complete"})


application = Site()
