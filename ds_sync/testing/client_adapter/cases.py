"""Dialogues with an adapter, and what each answer must hold: run against any server and any adapter by `run_case`.

A step is a command with the fields of its answer that count, a fault for the requests after it, or something that happens behind the
adapter's back. `${name}` stands for an answer's offset that an earlier step kept.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ds_sync.testing.client_adapter.driver import AdapterProcess
from ds_sync.testing.client_adapter.proxy import FaultyProxy, ProxyFault

_NAME = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Do:
    """A command, and its answer. `expected` is compared field by field; four names are not fields: `data` is the chunks' data joined,
    `count` their number, `says` a part of the message, `json` the data parsed."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, Any] = field(default_factory=dict)
    keep: str | None = None
    """Under which name the answer's offset is kept."""
    wait: bool = True
    """False: the answer is looked at by a later Answered."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to the oldest command that nobody waited for."""

    expected: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Behind:
    """A POST straight to the server."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "text/plain"


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds."""

    seconds: float


Step = Do | Answered | Behind | Pause | ProxyFault


def do(kind: str, expected: Mapping[str, Any] | None = None, *, keep: str | None = None, wait: bool = True, **fields: Any) -> Do:
    """Return a step. Without `expected` it must succeed."""
    return Do(kind, fields, {"success": True} if expected is None else expected, keep, wait)


def run_case(steps: Sequence[Step], adapter: AdapterProcess, proxy: FaultyProxy, upstream: str, prefix: str) -> None:
    """Take the steps, on a new path under `prefix`. Raises AssertionError for an answer that is not as it must be."""
    path, kept = f"{prefix}/test-{uuid.uuid4()}", dict[str, str]()
    proxy.faults.clear()
    proxy.seen.clear()
    _expect(adapter.ask("init", serverUrl=proxy.url), {"type": "init", "success": True})
    for step in steps:
        if isinstance(step, Do):
            fields = {name: _fill(value, kept) for name, value in step.fields.items()}
            with_path = {} if step.kind in ("validate", "shutdown") or "dynamic" in step.kind else {"path": path}
            adapter.send(step.kind, **{**with_path, **fields})
            if step.wait:
                answer = adapter.receive()
                _expect(answer, {"type": step.kind if answer.get("success") else "error", **step.expected})
                if step.keep is not None:
                    kept[step.keep] = answer["offset"]
        elif isinstance(step, Answered):
            _expect(adapter.receive(), step.expected)
        elif isinstance(step, Behind):
            _post(upstream + path, step)
        elif isinstance(step, Pause):
            time.sleep(step.seconds)
        else:
            fault = ProxyFault(**{name: getattr(step, name) for name in step.__slots__})  # it counts down
            proxy.faults.append(fault)


def _expect(answer: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    joined = "".join(chunk["data"] for chunk in answer.get("chunks", ()))
    found = {**answer, "data": joined, "count": len(answer.get("chunks", ()))}
    for name, value in expected.items():
        if name == "says":
            assert value in answer.get("message", ""), f"{value!r} is not in {answer}"
        elif name == "json":
            assert json.loads(joined) == value, f"{answer}"
        else:
            assert found.get(name) == value, f"{name}: {value!r} expected in {answer}"


def _fill(value: Any, kept: Mapping[str, str]) -> Any:
    return _NAME.sub(lambda match: kept[match[1]], value) if isinstance(value, str) else value


def _post(url: str, step: Behind) -> None:
    headers = {"content-type": step.content_type, **step.headers}
    with urllib.request.urlopen(urllib.request.Request(url, data=step.body, headers=headers, method="POST"), timeout=10) as answer:
        assert answer.status in (200, 204)
