"""The bodies of requests on subscriptions: strict, because they come from strangers. What is wrong is InvalidRequestError."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from ds_sync.exceptions import InvalidRequestError
from ds_sync.protocol.headers import MAX_INTEGER
from ds_sync.protocol.subscription import Config, Kind

MAX_BODY: Final = 256 * 1024
"""Bytes of a request's body."""
MAX_NAMES: Final = 1000
"""Streams, and acknowledgements, in one request."""
MAX_NAME: Final = 2048
"""Characters of a path, a pattern or an address."""
MAX_ID: Final = 256
"""Characters of a subscription's name and of a worker's."""
MAX_DESCRIPTION: Final = 1024

DEFAULT_LEASE_MS: Final = 30_000
MIN_LEASE_MS: Final = 1_000
MAX_LEASE_MS: Final = 600_000

FRAMED_SUFFIX: Final = "/.updates"


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """A callback, an acknowledgement or a release."""

    wake_id: str
    generation: int
    acks: tuple[tuple[str, str], ...]
    """Path and offset."""
    done: bool


def parse_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object; nothing at all is an empty one."""
    if not body:
        return {}
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidRequestError("the body is not JSON", code="INVALID_JSON") from None
    if type(value) is not dict:
        raise InvalidRequestError("the body must be a JSON object")
    return value


def parse_id(text: str) -> str:
    """Check a subscription's name."""
    return _text(text, "the subscription's name", MAX_ID)


def parse_config(fields: dict[str, Any]) -> Config:
    """Read what a subscription is to be."""
    try:
        kind = Kind(fields.get("type"))
    except ValueError:
        raise InvalidRequestError('type must be "webhook" or "pull-wake"') from None
    pattern = fields.get("pattern")
    pattern = None if pattern is None or pattern == "" else parse_path(pattern, "pattern")
    streams = () if fields.get("streams") is None else parse_streams(fields)
    if pattern is None and not streams:
        raise InvalidRequestError("pattern or streams is required")
    lease = fields.get("lease_ttl_ms", DEFAULT_LEASE_MS)
    if type(lease) is not int or not MIN_LEASE_MS <= lease <= MAX_LEASE_MS:
        raise InvalidRequestError(f"lease_ttl_ms must be a whole number from {MIN_LEASE_MS} to {MAX_LEASE_MS}")
    url = wake_stream = None
    if kind is Kind.WEBHOOK:
        webhook = fields.get("webhook")
        if type(webhook) is not dict:
            raise InvalidRequestError("webhook subscriptions need webhook.url")
        url = _text(webhook.get("url"), "webhook.url", MAX_NAME)
    else:
        wake_stream = parse_path(fields.get("wake_stream"), "wake_stream")
        if wake_stream.endswith(FRAMED_SUFFIX):
            raise InvalidRequestError("wake_stream can't be a document's updates")
        if wake_stream in streams:
            raise InvalidRequestError("wake_stream can't be one of the streams: each wake would cause the next")
    description = fields.get("description")
    if description is not None and (type(description) is not str or len(description) > MAX_DESCRIPTION or not _is_unicode(description)):
        raise InvalidRequestError(f"description must be text of up to {MAX_DESCRIPTION} characters")
    return Config(kind, pattern, tuple(sorted(set(streams))), url, wake_stream, lease, description)


def parse_streams(fields: dict[str, Any]) -> tuple[str, ...]:
    """Read the list of streams."""
    streams = fields.get("streams")
    if type(streams) is not list or len(streams) > MAX_NAMES:
        raise InvalidRequestError(f"streams must be a list of up to {MAX_NAMES} paths")
    return tuple(parse_path(stream, "streams") for stream in streams)


def parse_path(value: Any, name: str) -> str:
    """Read a stream's path, or a pattern; slashes at its ends mean nothing."""
    path = _text(value, name, MAX_NAME).strip("/")
    segments = path.split("/")
    if not path or segments[0] == "__ds" or any(segment in (".", "..") for segment in segments):
        raise InvalidRequestError(f"{name} holds a path that no stream has")
    return path


def parse_worker(fields: dict[str, Any]) -> str:
    """Read who claims."""
    return _text(fields.get("worker"), "worker", MAX_ID)


def parse_lease(fields: dict[str, Any]) -> LeaseRequest:
    """Read what the holder of a wake says."""
    acks, done = fields.get("acks"), fields.get("done", False)
    generation = fields.get("generation")
    if type(generation) is not int or not 0 <= generation <= MAX_INTEGER:
        raise InvalidRequestError("generation must be a whole number")
    if type(done) is not bool:
        raise InvalidRequestError("done must be true or false")
    if acks is None:
        acks = []
    if type(acks) is not list or len(acks) > MAX_NAMES or any(type(ack) is not dict for ack in acks):
        raise InvalidRequestError(f"acks must be a list of up to {MAX_NAMES} objects")
    pairs = [_parse_ack(ack) for ack in acks]
    return LeaseRequest(_text(fields.get("wake_id"), "wake_id", MAX_ID), generation, tuple(pairs), done)


def _parse_ack(ack: dict[str, Any]) -> tuple[str, str]:
    path = ack.get("stream", ack.get("path"))
    parse_path(path, "stream")
    # Kept as it is spelled: a stream that a pattern found may have a slash at its ends.
    return _text(path, "stream", MAX_NAME), _text(ack.get("offset"), "offset", MAX_NAME)


def parse_webhook_url(url: str) -> tuple[str, str, int, str]:
    """Return scheme, host, port and path with query. Raises InvalidRequestError (WEBHOOK_URL_REJECTED)."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise reject_webhook("webhook.url is no URL") from None
    if parts.scheme not in ("http", "https"):
        raise reject_webhook("webhook.url must begin with https://")
    if not host or not host.isascii() or "%" in host or any(character in " \\" for character in url) or not url.isascii():
        raise reject_webhook("webhook.url must have a host, and be spelled in ASCII, without spaces")
    if parts.username is not None or parts.password is not None:
        raise reject_webhook("webhook.url can't hold credentials")
    if port == 0:
        raise reject_webhook("webhook.url names no port")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path


def reject_webhook(reason: str) -> InvalidRequestError:
    """Return the error for an address that nothing is sent to."""
    return InvalidRequestError(reason, code="WEBHOOK_URL_REJECTED")


def _text(value: Any, name: str, most: int) -> str:
    if type(value) is not str or not 0 < len(value) <= most or not value.isprintable():
        raise InvalidRequestError(f"{name} must be text of 1 to {most} printable characters")
    return value


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
