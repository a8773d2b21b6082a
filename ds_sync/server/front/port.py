"""What requests and conversations see of the connection they came on: http1.py has it, exchange.py and websocket.py use it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from ds_sync.server.front.head import Head
from ds_sync.server.responses import Receive, Scope, Send

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Server(Protocol):
    """Who accepted the connection."""

    @property
    def app(self) -> App:
        """What answers."""
        ...

    @property
    def closing(self) -> bool:
        """Every answer is its connection's last."""
        ...

    @property
    def date(self) -> bytes:
        """The headers that all answers of a second share."""
        ...

    @property
    def now(self) -> float:
        """The monotonic clock, as it was looked at last."""
        ...


class Pending(Protocol):
    """A request that is not answered yet."""

    @property
    def last(self) -> bool:
        """The connection ends with its answer."""
        ...

    def end_input(self) -> None:
        """The client sends nothing more."""
        ...

    def hang_up(self) -> None:
        """Nobody is there any more."""
        ...


class Connection(Protocol):
    """One client."""

    @property
    def server(self) -> Server:
        """Who accepted it."""
        ...

    @property
    def transport(self) -> asyncio.Transport:
        """Where answers are written."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop it lives on."""
        ...

    @property
    def client(self) -> Any:
        """The client's address."""
        ...

    @property
    def endpoint(self) -> Any:
        """Ours."""
        ...

    @property
    def paused(self) -> bool:
        """The client reads more slowly than it is written to."""
        ...

    async def drain(self) -> None:
        """Return when so little is left unsent that more may follow."""
        ...

    def read_on(self) -> None:
        """Room was made: go on reading."""
        ...

    def finish(self, exchange: Pending) -> None:
        """The answer is out: on to the next request."""
        ...

    def pass_on(self, prompt: Pending) -> Pending | None:
        """Have the application answer the request under way, which has no body; None if it is under way no more."""
        ...

    def build_scope(self, head: Head) -> Scope:
        """Return a request as an ASGI application sees it."""
        ...
