"""Subscriptions over HTTP: `/v1/stream/__ds/...`."""

from __future__ import annotations

import json
from typing import Final
from urllib.parse import unquote_to_bytes

from ds_sync.exceptions import AlreadyClaimedError, InvalidRequestError, NotFoundError, UnauthorizedError
from ds_sync.protocol.subscription_requests import (
    MAX_BODY,
    parse_config,
    parse_id,
    parse_lease,
    parse_object,
    parse_path,
    parse_streams,
    parse_worker,
)
from ds_sync.server.requests import parse_headers, read_body
from ds_sync.server.responses import HeaderList, Receive, Scope, Send, answer
from ds_sync.server.subscriptions.operations import Subscriptions
from ds_sync.server.subscriptions.views import describe_subscription
from ds_sync.server.subscriptions.wakes import Wakes

_METHODS: Final = {
    "": (b"PUT, GET, DELETE", ("PUT", "GET", "DELETE")),
    "stream": (b"DELETE", ("DELETE",)),
    "streams": (b"POST", ("POST",)),
    "callback": (b"POST", ("POST",)),
    "claim": (b"POST", ("POST",)),
    "ack": (b"POST", ("POST",)),
    "release": (b"POST", ("POST",)),
    "jwks": (b"GET", ("GET",)),
}


class SubscriptionRoutes:
    """Finds out what is asked, reads it strictly, and answers. `public_url` stands in for the Host of requests."""

    def __init__(self, subscriptions: Subscriptions, wakes: Wakes, *, max_body: int, public_url: str | None) -> None:
        self._subscriptions = subscriptions
        self._wakes = wakes
        self._max_body = min(max_body, MAX_BODY)
        self._public_url = None if public_url is None else public_url.rstrip("/")

    async def serve(self, raw: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request whose path below the mount is `raw`. Raises what is to be refused."""
        name, action, path = _parse_route(raw)
        allowed, methods = _METHODS[action]
        method = scope["method"]
        if method not in methods:
            body = json.dumps({"error": {"code": "METHOD_NOT_ALLOWED", "message": "this method means nothing here"}}).encode()
            await answer(send, 405, [(b"allow", allowed), (b"content-type", b"application/json")], b"" if method == "HEAD" else body)
            return
        await self._wakes.start()
        headers = parse_headers(scope)
        base = self._public_url or _build_base(scope, headers.get("host", ""))
        subscriptions = self._subscriptions
        if action == "jwks":
            signer = await self._wakes.signer()
            fields = [(b"content-type", b"application/jwk-set+json"), (b"cache-control", b"public, max-age=300")]
            await answer(send, 200, fields, json.dumps(signer.jwks).encode())
            return
        if method == "DELETE":
            if action == "stream":
                await subscriptions.remove_stream(name, parse_path(path, "stream"))
            else:
                await subscriptions.delete(name)
            await answer(send, 204, [])
            return
        if method == "GET":
            await _answer_json(send, 200, describe_subscription(subscriptions.get(name), base, await self._wakes.signer()))
            return
        fields_read = parse_object(await read_body(receive, headers, self._max_body))
        if method == "PUT":
            entry, created = await subscriptions.create(name, parse_config(fields_read), base)
            await _answer_json(send, 201 if created else 200, describe_subscription(entry, base, await self._wakes.signer()))
        elif action == "streams":
            await subscriptions.add_streams(name, parse_streams(fields_read))
            await answer(send, 204, [])
        elif action == "claim":
            try:
                claimed = await subscriptions.claim(name, parse_worker(fields_read))
            except AlreadyClaimedError as error:
                refusal = {"code": error.code, "message": str(error), "current_holder": error.holder, "generation": error.generation}
                await _answer_json(send, 409, {"error": refusal})
                return
            await _answer_json(send, 200, claimed)
        else:
            token = _parse_bearer(headers.get("authorization"))
            request = parse_lease(fields_read)
            if action == "release":
                await subscriptions.release(name, token, request)
                await answer(send, 204, [])
                return
            if action == "ack" and subscriptions.get(name).sub.is_webhook:
                raise InvalidRequestError("a webhook is acknowledged at its callback_url")
            more = await subscriptions.acknowledge(name, token, request)
            await _answer_json(send, 200, {"ok": True, "next_wake": more})


def _parse_route(raw: bytes) -> tuple[str, str, str]:
    """Return the subscription's name, what is asked of it, and the rest. Raises NotFoundError, InvalidRequestError."""
    try:
        # Split before decoding: the name of a subscription, or of a stream, may hold an encoded slash.
        parts = [unquote_to_bytes(part).decode("utf-8") for part in raw.split(b"/")]
    except UnicodeDecodeError:
        raise InvalidRequestError("the path is not UTF-8", code="INVALID_PATH") from None
    if parts == ["__ds", "jwks.json"]:
        return "", "jwks", ""
    if len(parts) >= 3 and parts[:2] == ["__ds", "subscriptions"] and parts[2]:
        name, rest = parse_id(parts[2]), parts[3:]
        if not rest:
            return name, "", ""
        if rest[0] == "streams" and len(rest) > 1:
            return name, "stream", "/".join(rest[1:])
        if len(rest) == 1 and rest[0] in ("streams", "callback", "claim", "ack", "release"):
            return name, rest[0], ""
    raise NotFoundError("nothing is served at this path", code="NOT_FOUND")


def _parse_bearer(text: str | None) -> str:
    kind, _, token = (text or "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise UnauthorizedError("the Authorization header must hold the wake's token: Bearer TOKEN", code="TOKEN_INVALID")
    return token.strip()


def _build_base(scope: Scope, host: str) -> str:
    known = host if host.isascii() and host.isprintable() and host and not set(host) & set("/\\ @?#") else "localhost"
    return f"{scope.get('scheme', 'http')}://{known}"


async def _answer_json(send: Send, status: int, fields: object) -> None:
    headers: HeaderList = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    await answer(send, status, headers, json.dumps(fields).encode())
