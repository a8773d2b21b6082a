"""What must hold after kills: pure checks of contents against the journals of everybody who edited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


class Loss(AssertionError):  # noqa: N818 - a finding, as it is called
    """Something was lost, stands twice, or came back."""


@dataclass
class Witness:
    """What one journal says of one document."""

    begun: set[str] = field(default_factory=set)
    """Tokens whose insertion began: they may be there."""
    inserted: list[str] = field(default_factory=list)
    """Tokens whose insertion returned: they must be there."""
    deleting: set[str] = field(default_factory=set)
    deleted: list[str] = field(default_factory=list)
    acknowledged: tuple[int, int] = (0, 0)
    """How many of the insertions and deletions that returned are on the server."""


def parse_journal(lines: Iterable[str]) -> dict[str, Witness]:
    """Return what a journal says, by document."""
    witnesses: dict[str, Witness] = {}
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind not in ("inserting", "inserted", "deleting", "deleted", "acknowledged"):
            continue
        document, *tokens = rest.split(" ")
        witness = witnesses.setdefault(document, Witness())
        match kind:
            case "inserting":
                witness.begun.update(tokens)
            case "inserted":
                witness.inserted += tokens
            case "deleting":
                witness.deleting.update(tokens)
            case "deleted":
                witness.deleted += tokens
            case "acknowledged":
                witness.acknowledged = (len(witness.inserted), len(witness.deleted))
    return witnesses


def check_content(
    who: str, tokens: Sequence[str], *, everybody: Sequence[Witness], inserted: Iterable[str], deleted: Iterable[str]
) -> None:
    """Raise Loss unless `tokens` has each of `inserted` exactly once, none of `deleted`, and nothing that nobody wrote."""
    counts = Counter(tokens)
    twice = sorted(token for token, count in counts.items() if count > 1)
    if twice:
        raise Loss(f"{who}: stands twice: {twice[:5]} of {len(twice)}")
    unknown = set(counts).difference(*(witness.begun for witness in everybody))
    if unknown:
        raise Loss(f"{who}: nobody wrote {sorted(unknown)[:5]} of {len(unknown)}")
    risen = sorted(set(deleted) & set(counts))
    if risen:
        raise Loss(f"{who}: deleted, and there again: {risen[:5]} of {len(risen)}")
    lost = sorted(set(inserted) - set(counts) - set().union(*(witness.deleting for witness in everybody)))
    if lost:
        raise Loss(f"{who}: lost {lost[:5]} of {len(lost)}")


def check_everywhere(who: str, tokens: Sequence[str], everybody: Sequence[Witness]) -> None:
    """Raise Loss unless `tokens` is what all of them together wrote and deleted."""
    inserted = [token for witness in everybody for token in witness.inserted]
    deleted = [token for witness in everybody for token in witness.deleted]
    check_content(who, tokens, everybody=everybody, inserted=inserted, deleted=deleted)


def check_acknowledged(who: str, tokens: Sequence[str], everybody: Sequence[Witness]) -> None:
    """Raise Loss unless `tokens` has what the server acknowledged."""
    inserted = [token for witness in everybody for token in witness.inserted[: witness.acknowledged[0]]]
    deleted = [token for witness in everybody for token in witness.deleted[: witness.acknowledged[1]]]
    check_content(who, tokens, everybody=everybody, inserted=inserted, deleted=deleted)


def check_equal(contents: Mapping[str, str]) -> None:
    """Raise Loss unless all texts are the same."""
    first, *others = contents.items()
    for name, text in others:
        if text != first[1]:
            only = sorted(set(first[1].split(";")) ^ set(text.split(";")))
            raise Loss(f"{first[0]} and {name} differ: {only[:5] if only else 'the order'} of {len(only)}")


def check_frames(who: str, payloads: Sequence[bytes], writers: int) -> None:
    """Raise Loss if a frame stands in the stream twice.

    An update of Yjs that holds nothing but deletions begins with a zero, and is the same whoever made it: each of the `writers` may have
    deleted the same.
    """
    twice = [payload for payload, count in Counter(payloads).items() if count > (writers if payload[:1] == b"\0" else 1)]
    if twice:
        raise Loss(f"{who}: {len(twice)} of {len(payloads)} batches stand in the stream twice")
