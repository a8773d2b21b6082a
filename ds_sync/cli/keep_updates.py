"""`--keep-updates`: how long, or how much, of a document's updates is kept."""

from __future__ import annotations

import re
from typing import Any, Final

import click

from ds_sync.protocol.retention import KeepUpdates

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class KeepUpdatesType(click.ParamType[KeepUpdates]):
    """A number of bytes (`10000000`), or a time (`90s`, `30m`, `12h`, `7d`)."""

    name = "DURATION|BYTES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> KeepUpdates:
        """Return what the text says."""
        if isinstance(value, KeepUpdates):
            return value
        found = re.fullmatch(r"([0-9]{1,15})([smhd]?)", value)
        if found is None:
            self.fail(f"{value!r} is neither a number of bytes nor a time like 90s, 30m, 12h or 7d", param, ctx)
        number, unit = int(found[1]), found[2]
        return KeepUpdates(seconds=float(number * _SECONDS[unit])) if unit else KeepUpdates(size=number)
