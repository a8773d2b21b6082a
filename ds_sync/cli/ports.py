"""A port for a server that is killed, and started again where it was."""

from __future__ import annotations

import random
import socket
from typing import Final

PORTS: Final = range(20_000, 32_000)
"""Below those that operating systems give to outgoing connections: one of these could take the server's while that is down."""

_random = random.SystemRandom()


def pick_port() -> int:
    """Return one of PORTS on 127.0.0.1 that nobody listens on."""
    while True:
        port = _random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
