"""All targets."""

from __future__ import annotations

from adapter_target import AdapterTarget
from asgi_target import AsgiTarget
from client_target import ClientTarget, ReplicaTarget
from findings import Target
from gateway_target import GatewayTarget
from hooks_target import HooksTarget
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
    AdapterTarget(),
    AsgiTarget("memory"),
    AsgiTarget("sqlite"),
    HttpTarget("sqlite"),
    HttpTarget("memory"),
    GatewayTarget(),
    HooksTarget(),
]
