"""Patterns of stream paths, as subscriptions write them.

A pattern is split at slashes, as paths are. `**` is any number of segments, none included; `*` is one segment; inside a segment, `*` is
any run of characters. `%2A` is a star that stands for itself. The official server knows no star inside a segment; the rest is its rule.
Patterns come from strangers: matching takes at most (length of the pattern times length of the path) steps, which a regular expression
does not promise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

_ANY: Final = None
"""Stands for any run of items."""

_Item: TypeAlias = Callable[[str], bool]


class Pattern:
    """A pattern, ready to match."""

    __slots__ = ("_segments", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        """As it was given."""
        self._segments: list[_Item | None] = [_build_segment(segment) for segment in text.split("/")]

    def matches(self, path: str) -> bool:
        """Whether `path` matches, as a whole."""
        return _match(self._segments, path.split("/"))


@lru_cache(maxsize=1024)
def compile_pattern(text: str) -> Pattern:
    """Return the pattern; the newest ones are kept."""
    return Pattern(text)


def _build_segment(segment: str) -> _Item | None:
    if segment == "**":
        return _ANY
    if segment == "*":
        return _is_filled
    characters: list[_Item | None] = []
    for number, piece in enumerate(segment.split("*")):
        if number:
            characters.append(_ANY)
        characters += [character.__eq__ for character in piece.replace("%2A", "*").replace("%2a", "*")]
    if _ANY in characters:
        return lambda text: _match(characters, text)
    return segment.replace("%2A", "*").replace("%2a", "*").__eq__


def _is_filled(text: str) -> bool:
    return text != ""


def _match(wanted: Sequence[_Item | None], items: Sequence[str]) -> bool:
    """Match greedily from the left. Only the last `_ANY` ever has to take one item more: what matched before it can stay."""
    at = behind = 0
    last: int | None = None
    for_last = 0
    while at < len(items):
        item = wanted[behind] if behind < len(wanted) else None
        if behind < len(wanted) and item is _ANY:
            last, for_last = behind, at
            behind += 1
        elif item is not None and item(items[at]):
            at += 1
            behind += 1
        elif last is not None:
            for_last += 1
            at, behind = for_last, last + 1
        else:
            return False
    return all(item is _ANY for item in wanted[behind:])
