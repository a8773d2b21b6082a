"""Patterns of stream paths, for `list` and subscriptions: `*` is any run of characters but "/", `**` any run."""

from __future__ import annotations

import re


def compile_glob(glob: str) -> re.Pattern[str]:
    """Return the pattern whose `fullmatch` says whether a path matches."""
    pieces = re.split(r"(\*\*|\*)", glob)
    return re.compile("".join({"*": "[^/]*", "**": ".*"}.get(piece) or re.escape(piece) for piece in pieces), re.DOTALL)
