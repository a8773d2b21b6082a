"""Patterns of stream paths, for `list`: `*` is any run of characters but "/", `**` any run."""

from __future__ import annotations

import re

from ds_sync.server.engines.base import INTERNAL


def compile_glob(glob: str) -> re.Pattern[str]:
    """Return the pattern whose `fullmatch` says whether a path matches. INTERNAL paths match only what begins with INTERNAL itself."""
    pieces = re.split(r"(\*\*|\*)", glob)
    hidden = "" if glob.startswith(INTERNAL) else f"(?!{INTERNAL})"
    return re.compile(hidden + "".join({"*": "[^/]*", "**": ".*"}.get(piece) or re.escape(piece) for piece in pieces), re.DOTALL)
