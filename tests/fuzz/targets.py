"""All targets."""

from __future__ import annotations

from asgi_target import AsgiTarget
from client_target import ClientTarget, ReplicaTarget
from findings import Target
from http_target import HttpTarget
from parsers_target import PARSERS
from trace_target import TraceTarget
from worker_target import WORKERS

TARGETS: list[Target] = [
    *PARSERS,
    TraceTarget(),
    *WORKERS,
    ClientTarget(),
    ReplicaTarget(),
    AsgiTarget("memory"),
    AsgiTarget("sqlite"),
    HttpTarget("sqlite"),
    HttpTarget("memory"),
]
