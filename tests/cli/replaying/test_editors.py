from __future__ import annotations

import random

import pytest
from pycrdt import Doc, Text

from ds_sync.cli.replaying.editors import Editors, covers, find_order, read_clocks
from ds_sync.cli.replaying.traces import Patch, SharedTrace, Transaction
from ds_sync.exceptions import TraceError


def shared(end: str, *transactions: tuple[int, tuple[int, ...], list[Patch]]) -> SharedTrace:
    people = len(transactions[0][1])
    return SharedTrace(end, people, tuple(Transaction(person, seen, tuple(patches)) for person, seen, patches in transactions))


def typed(trace: SharedTrace, *, last_first: bool = False) -> tuple[Editors, list[bytes]]:
    editors = Editors(trace, last_first=last_first)
    return editors, [editors.type(number) for number in range(len(trace.transactions))]


AT_ONCE = shared(
    "Oh ONE, TWO!",
    (0, (0, 0), [(0, 0, "one, two")]),
    (0, (1, 0), [(0, 3, "ONE")]),  # these two have not seen each other
    (1, (1, 0), [(5, 3, "TWO"), (8, 0, "!")]),
    (1, (2, 1), [(0, 0, "Oh ")]),
)


def test_positions_hold_in_what_the_person_saw_and_nowhere_else() -> None:
    assert find_order(AT_ONCE) is False
    editors, updates = typed(AT_ONCE)
    assert editors.text_of(0) == "ONE, two"
    assert editors.text_of(1) == "Oh ONE, TWO!"
    doc: Doc[dict[str, str]] = Doc()
    for update in (updates[0], updates[2], updates[1], updates[3]):
        doc.apply_update(update)
    assert str(doc.get("body", type=Text)) == AT_ONCE.end


def tie(end: str) -> SharedTrace:
    return shared(end, (0, (0, 0), [(0, 0, "[]")]), (0, (1, 0), [(1, 0, "a")]), (1, (1, 0), [(1, 0, "b")]))


def test_the_end_says_who_comes_first_where_two_type_at_one_place() -> None:
    assert find_order(tie("[ab]")) is False
    assert find_order(tie("[ba]")) is True


@pytest.mark.parametrize(
    ("end", "complaint"), [("[cd]", "'ab]' is at 1 where endContent has 'cd]'"), ("[ab]]", "'' is at 4 where endContent has ']'")]
)
def test_an_end_that_is_reached_neither_way_is_refused(end: str, complaint: str) -> None:
    with pytest.raises(TraceError) as caught:
        find_order(tie(end))
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("patch", "complaint"),
    [((3, 0, "x"), "position 3 in a text of 2"), ((1, 2, ""), "an edit of 2"), ((-1, 0, "x"), "-1"), ((0, -1, "x"), "-1")],
)
@pytest.mark.parametrize("text", ["ab", "é😀"])
def test_a_position_beyond_what_the_person_saw_is_refused(text: str, patch: Patch, complaint: str) -> None:
    # The other's text is longer, and does not count.
    trace = shared("", (0, (0, 0), [(0, 0, text)]), (0, (1, 0), [(0, 0, "more")]), (1, (1, 0), [patch]))
    with pytest.raises(TraceError, match=f"^transaction 2: .*{complaint}"):
        typed(trace)


def test_clocks_tell_what_has_arrived_deletions_and_nothing_at_all_included() -> None:
    trace = shared(
        "a",
        (0, (0, 0), [(0, 0, "a😀b")]),  # a clock for each UTF-16 unit
        (0, (1, 0), [(1, 2, "")]),
        (1, (1, 0), []),
        (1, (2, 1), [(0, 0, "x"), (0, 1, "")]),
    )
    editors, updates = typed(trace)
    doc: Doc[dict[str, str]] = Doc()
    had = [read_clocks(doc)]
    for update in updates:
        doc.apply_update(update)
        had.append(read_clocks(doc))
    assert had == [{}, {1: 4}, {1: 5}, {1: 5, 2: 1}, {1: 5, 2: 2}]
    assert editors.clocks_typed() == had[-1]
    assert sum(had[-1].values()) == editors.clocks_in_all
    assert editors.clocks_seen(trace.transactions[3]) == had[3]
    assert editors.clocks_shown(0) == {1: 5}
    assert not covers(had[1], editors.clocks_seen(trace.transactions[3]))
    assert covers(had[4], editors.clocks_seen(trace.transactions[3]))


def test_every_process_makes_the_same_bytes() -> None:
    assert typed(AT_ONCE)[1] == typed(AT_ONCE)[1]


def random_shared_trace(seed: int) -> SharedTrace:
    """Three people who see each other's text late; each works on a line of their own, found by its number."""
    rng = random.Random(seed)
    count, seen = [1, 0, 0], [[0] * 3 for _ in range(3)]
    transactions = [Transaction(0, (0, 0, 0), ((0, 0, "0\n1\n2\n"),))]
    lines = ["0", "1", "2"]
    views = [list(lines) for _ in range(3)]
    history: list[list[str]] = [["0"], ["1"], ["2"]]  # of each line, after each of its person's transactions
    for _ in range(80):
        person = rng.randrange(3)
        seen[person][0] = max(seen[person][0], 1)
        for other in range(3):
            if other != person and rng.random() < 0.3:
                seen[person][other] = count[other]
                for more in range(3):
                    if more != person:  # what the other had seen comes along
                        seen[person][more] = max(seen[person][more], seen[other][more])
        for other in range(3):
            if other != person:
                views[person][other] = history[other][max(0, seen[person][other] - (other == 0))]
        line = lines[person]
        at = rng.randrange(1, len(line) + 1)
        deleted = min(rng.choice([0, 0, 1, 2]), len(line) - at)
        inserted = rng.choice(["", "a", "é", "😀b"])
        start = sum(len(views[person][other]) + 1 for other in range(person))
        seen[person][person] = count[person]
        transactions.append(Transaction(person, tuple(seen[person]), ((start + at, deleted, inserted),)))
        lines[person] = views[person][person] = line[:at] + inserted + line[at + deleted :]
        history[person].append(lines[person])
        count[person] += 1
    return SharedTrace("".join(line + "\n" for line in lines), 3, tuple(transactions))


@pytest.mark.parametrize("seed", range(12))
def test_three_people_on_lines_of_their_own_end_as_a_model_says(seed: int) -> None:
    trace = random_shared_trace(seed)
    assert find_order(trace) is False
    assert typed(trace, last_first=True)[0].merge() == trace.end
