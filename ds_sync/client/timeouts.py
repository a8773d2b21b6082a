"""How long we wait for what."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds."""

    request: float = 30.0
    """Without a byte of the answer to anything that is not live."""
    first_event: float = 8.0
    """From asking for SSE to the first control event, which a server sends at once: later, somebody holds it back."""
    silence: float = 90.0
    """Without a byte of an SSE answer: servers close it after about 60."""
    long_poll: float = 75.0
    """Without a byte of a long-poll's answer: servers answer after about 30."""
    hasty: float = 1.0
    """A long-poll that ends sooner than this and brought nothing is not repeated at once."""
    steady: float = 10.0
    """A live request that lived this long was a good connection: delays begin anew. SSE that ends sooner and brought nothing rests."""

    def scaled(self, factor: float) -> Timeouts:
        """Return all of them multiplied: the tests' single knob."""
        return Timeouts(**{field.name: getattr(self, field.name) * factor for field in fields(self)})
