"""What subscribers and receivers are shown of a subscription."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final
from urllib.parse import quote

from ds_sync.protocol.history import START, spell_place
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.protocol.subscription import MAX_WAKE_STREAMS, UNLINKED, Link, Subscription, Tail, Wake
from ds_sync.server.subscriptions.index import Entry
from ds_sync.server.subscriptions.signing import Signer

MOUNT: Final = "/v1/stream/__ds/"
MAX_LISTED: Final = 10_000
"""Streams that one answer lists."""


def describe_subscription(entry: Entry, base_url: str, signer: Signer) -> dict[str, Any]:
    """Return a subscription as its owner sees it."""
    sub = entry.sub
    config = sub.config
    unlinked = {path: UNLINKED for path in entry.pending if path not in sub.links}
    links = sorted({**sub.links, **unlinked}.items())
    fields: dict[str, Any] = {"id": sub.id, "subscription_id": sub.id, "type": config.kind.value}
    optional = {"pattern": config.pattern, "wake_stream": config.wake_stream, "description": config.description}
    fields |= {name: value for name, value in optional.items() if value is not None}
    if config.webhook_url is not None:
        signing = {"alg": "ed25519", "kid": signer.key_id, "jwks_url": f"{base_url}{MOUNT}jwks.json"}
        fields["webhook"] = {"url": config.webhook_url, "signing": signing}
    fields |= {
        "lease_ttl_ms": config.lease_ttl_ms,
        "created_at": sub.created_at,
        "status": "failed" if sub.failing else "active",
        "streams": [_describe_link(path, link, entry.pending.get(path)) for path, link in links[:MAX_LISTED]],
    }
    if len(links) > MAX_LISTED:
        fields["streams_omitted"] = len(links) - MAX_LISTED
    return fields


def describe_work(sub: Subscription, pending: Mapping[str, Tail]) -> list[dict[str, Any]]:
    """Return the streams with something to do, and of the others as many as there is room for."""
    work = [
        {**_describe_link(path, sub.link(path) or UNLINKED, tail), "tail_offset": spell_place(tail.place), "has_pending": True}
        for path, tail in pending.items()
    ]
    for path, link in islice(sub.links.items(), MAX_WAKE_STREAMS):
        if path not in pending and len(work) < MAX_WAKE_STREAMS:
            tail = spell_place(START if link.acked is None else link.acked.place)
            work.append({**_describe_link(path, link, None), "tail_offset": tail, "has_pending": False})
    return work


def build_delivery(sub: Subscription, wake: Wake, signer: Signer) -> bytes:
    """Return the body of a webhook."""
    fields = {
        "subscription_id": sub.id,
        "wake_id": wake.id,
        "generation": sub.generation,
        "streams": describe_work(sub, wake.snapshot),
        "callback_url": f"{sub.base_url}{MOUNT}subscriptions/{quote(sub.id, safe='')}/callback",
        "callback_token": signer.build_token(sub),
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def _describe_link(path: str, link: Link, tail: Tail | None) -> dict[str, Any]:
    acked = link.acked
    # An offset of an earlier life would be refused: what is there now was never read.
    unread = acked is None or (tail is not None and tail.incarnation != acked.incarnation)
    offset = BEGINNING if unread or acked is None else spell_place(acked.place)
    return {"path": path, "link_type": "explicit" if link.explicit else "glob", "acked_offset": offset}
