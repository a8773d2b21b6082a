"""Delivering a webhook: one POST over one connection, to an address that was checked.

Written on asyncio's streams and h11 (which httpx brings along) instead of httpx: the connection must go to the checked address under
the name of the URL, and ds_sync.client is the only place that knows httpx. Redirects are answers like any other, and no 2xx; proxies named
by the environment are not used; of the answer's body no more than `MAX_ANSWER` bytes are read.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Final

import h11

from ds_sync import __version__
from ds_sync.exceptions import InvalidRequestError
from ds_sync.protocol.subscription import Event
from ds_sync.protocol.subscription_requests import parse_webhook_url
from ds_sync.server.subscriptions.targets import Target, TargetPolicy

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 30.0
"""Longest a receiver may take to answer; a shorter lease shortens it. Who needs longer answers, goes on, and calls back."""
MAX_ANSWER: Final = 64 * 1024
"""Bytes of an answer's body that are looked at."""
MAX_RECEIVED: Final = 4 * MAX_ANSWER
"""Bytes of all that a receiver sends: interim answers and the sizes of chunks have no end of their own."""
MAX_DELIVERIES: Final = 512
"""At a time, on the whole server."""
MAX_HOST_DELIVERIES: Final = 32
"""At a time, to one host: one whose receivers are all slow must not take all places."""


class _Host:
    """Deliveries to one host, under way or waiting."""

    __slots__ = ("places", "users")

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(MAX_HOST_DELIVERIES)
        self.users = 0


class Webhooks:
    """Delivers to where `policy` allows."""

    def __init__(self, policy: TargetPolicy, *, tls: ssl.SSLContext | None = None) -> None:
        self.policy = policy
        self._tls = tls
        self._places = asyncio.Semaphore(MAX_DELIVERIES)
        self._hosts: dict[str, _Host] = {}

    async def deliver(self, url: str, headers: Mapping[str, str], body: bytes, seconds: float) -> Event:
        """POST `body` as JSON; return what came of it: FINISHED, ACCEPTED, REFUSED, CUT or SILENT (after `seconds` without an answer)."""
        try:
            name = parse_webhook_url(url)[1]
        except InvalidRequestError:
            return Event.REFUSED
        host = self._hosts.setdefault(name, _Host())
        host.users += 1
        try:
            async with host.places, self._places:
                return await self._post(url, headers, body, seconds)
        finally:
            host.users -= 1
            if not host.users:
                del self._hosts[name]

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes, seconds: float) -> Event:
        try:
            target = await self.policy.check(url)
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await self._connect(target)
        except (InvalidRequestError, OSError, UnicodeError):
            return Event.REFUSED
        try:
            async with asyncio.timeout(min(seconds, ANSWER_SECONDS)):
                return await _exchange(reader, writer, target, headers, body)
        except TimeoutError:
            return Event.SILENT
        except (OSError, EOFError, h11.RemoteProtocolError):
            return Event.CUT
        finally:
            # Not close(): it would wait for the receiver to take what is left.
            writer.transport.abort()

    async def _connect(self, target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        secure = target.scheme == "https"
        if secure and self._tls is None:
            self._tls = ssl.create_default_context()
        tls, name = (self._tls, target.host) if secure else (None, None)
        for number, address in enumerate(target.addresses, 1):
            try:
                return await asyncio.open_connection(address, target.port, ssl=tls, server_hostname=name)
            except OSError:
                if number == len(target.addresses):
                    raise
        raise AssertionError("a checked target has an address")


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Target, headers: Mapping[str, str], body: bytes
) -> Event:
    host = f"[{target.host}]" if ":" in target.host else target.host
    default = 443 if target.scheme == "https" else 80
    fields = {
        "host": host if target.port == default else f"{host}:{target.port}",
        "user-agent": f"ds-sync/{__version__}",
        "content-type": "application/json",
        "accept": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **headers,
    }
    machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ANSWER)
    request = h11.Request(method="POST", target=target.path, headers=list(fields.items()))
    for part in (request, h11.Data(data=body), h11.EndOfMessage()):
        writer.write(machine.send(part) or b"")
    await writer.drain()
    received, answer = 0, b""
    while True:
        event = machine.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(MAX_ANSWER)
            received += len(data)
            if received > MAX_RECEIVED:
                raise EOFError("the answer does not end")
            machine.receive_data(data)
        elif isinstance(event, h11.Response):
            if not 200 <= event.status_code < 300:
                return Event.REFUSED
        elif isinstance(event, h11.Data):
            answer += bytes(event.data)
            if len(answer) > MAX_ANSWER:
                return Event.ACCEPTED
        elif isinstance(event, h11.EndOfMessage):
            return Event.FINISHED if _is_done(answer) else Event.ACCEPTED
        elif isinstance(event, h11.ConnectionClosed):
            raise EOFError("the connection ended before the answer")


def _is_done(answer: bytes) -> bool:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("done") is True
