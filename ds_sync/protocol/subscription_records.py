"""How a subscription is written down: as records that each say what changed, to be folded from the first one on.

A record is a JSON object. `links` holds the links that changed, null for those that are gone; everything else stands for itself. The first
record of a history holds everything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ds_sync.protocol.history import parse_place, spell_place
from ds_sync.protocol.subscription import Config, Kind, Link, Phase, Subscription, Tail, Wake


def build_change(before: Subscription | None, after: Subscription) -> bytes:
    """Return the record that turns `before` into `after`."""
    fields = _spell(after)
    links: dict[str, Any] = {path: _spell_link(link) for path, link in after.links.items()}
    if before is not None:
        known = _spell(before)
        if after.wake is not None and before.wake is not None and after.wake.id == before.wake.id:
            del fields["wake"]["snapshot"]  # up to a thousand streams, and it never changes
            known["wake"].pop("snapshot")
        fields = {name: value for name, value in fields.items() if known[name] != value}
        links = {path: _spell_link(link) for path, link in after.links.items() if before.links.get(path) is not link}
        links |= {path: None for path in before.links if path not in after.links}
    if links:
        fields["links"] = links
    return json.dumps(fields, separators=(",", ":")).encode()


def apply_change(before: Subscription | None, record: bytes) -> Subscription:
    """Return the subscription after a record of ours. Raises ValueError, KeyError or TypeError if it is damaged."""
    fields = json.loads(record)
    links = {} if before is None else dict(before.links)
    for path, link in fields.get("links", {}).items():
        if link is None:
            links.pop(path, None)
        else:
            links[path] = Link(_parse_tail(link["acked"]), link["explicit"])
    known = {} if before is None else _spell(before)
    known |= {name: value for name, value in fields.items() if name not in ("links", "wake")}
    wake = fields.get("wake", known.get("wake"))
    if wake is not None:
        snapshot = wake["snapshot"] if "snapshot" in wake else known["wake"]["snapshot"]
        wake = Wake(
            wake["id"],
            Phase(wake["phase"]),
            wake["due"],
            wake["holder"],
            wake["attempts"],
            wake["progress"],
            {path: _require_tail(tail) for path, tail in snapshot.items()},
        )
    config = known["config"]
    after = Subscription(
        id=known["id"],
        uid=known["uid"],
        created_at=known["created_at"],
        base_url=known["base_url"],
        config=Config(**{**config, "kind": Kind(config["kind"]), "streams": tuple(config["streams"])}),
        links=links,
        generation=known["generation"],
        wake=wake,
        failures=known["failures"],
        not_before=known["not_before"],
        failing=known["failing"],
    )
    _require_sound(after)
    return after


def _require_sound(sub: Subscription) -> None:
    """Raise ValueError for a value that would only fail later, where others would be hurt."""
    config, wake = sub.config, sub.wake
    texts = [sub.id, sub.uid, sub.created_at, sub.base_url, *config.streams]
    texts += [text for text in (config.pattern, config.webhook_url, config.wake_stream, config.description) if text is not None]
    counts, times = [sub.generation, sub.failures, config.lease_ttl_ms], [sub.not_before]
    if wake is not None:
        texts += [wake.id] if wake.holder is None else [wake.id, wake.holder]
        counts.append(wake.attempts)
        times.append(wake.due)
    whole = all(isinstance(count, int) for count in counts) and all(isinstance(time, (int, float)) for time in times)
    if not whole or not all(isinstance(text, str) for text in texts):
        raise ValueError("a value of the wrong kind")
    if (config.webhook_url is None) is sub.is_webhook or (config.wake_stream is None) is not sub.is_webhook:
        raise ValueError("it says two things of what kind it is")


def _spell(sub: Subscription) -> dict[str, Any]:
    wake = sub.wake
    return {
        "id": sub.id,
        "uid": sub.uid,
        "created_at": sub.created_at,
        "base_url": sub.base_url,
        "config": {**asdict(sub.config), "kind": sub.config.kind.value, "streams": list(sub.config.streams)},
        "generation": sub.generation,
        "failures": sub.failures,
        "not_before": sub.not_before,
        "failing": sub.failing,
        "wake": None
        if wake is None
        else {
            "id": wake.id,
            "phase": wake.phase.value,
            "due": wake.due,
            "holder": wake.holder,
            "attempts": wake.attempts,
            "progress": wake.progress,
            "snapshot": {path: _spell_tail(tail) for path, tail in wake.snapshot.items()},
        },
    }


def _spell_link(link: Link) -> dict[str, Any]:
    return {"acked": None if link.acked is None else _spell_tail(link.acked), "explicit": link.explicit}


def _spell_tail(tail: Tail) -> list[str]:
    return [tail.incarnation, spell_place(tail.place)]


def _parse_tail(value: Any) -> Tail | None:
    return None if value is None else _require_tail(value)


def _require_tail(value: Any) -> Tail:
    incarnation, offset = value
    if not isinstance(incarnation, str):
        raise ValueError("a value of the wrong kind")
    return Tail(incarnation, parse_place(offset))


def build_event(sub: Subscription, path: str, now: float) -> Mapping[str, object]:
    """Return what stands in the wake stream: `sub` has work, and `path` is one of the streams it is in."""
    return {"type": "wake", "subscription_id": sub.id, "stream": path, "generation": sub.generation, "ts": int(now * 1000)}
