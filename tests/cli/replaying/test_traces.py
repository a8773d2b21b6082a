from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Doc, Text

from ds_sync.cli.replaying.traces import PositionedText, SharedTrace, Trace, Transaction, load_shared_trace, load_trace, read_trace
from ds_sync.exceptions import TraceError


def written(folder: Path, data: Any) -> Path:
    path = folder / "trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps(data).encode()))
    return path


def session(patches: list[Any], start: str = "", end: str = "") -> dict[str, Any]:
    return {"startContent": start, "endContent": end, "txns": [{"patches": [patch]} for patch in patches]}


def random_trace(seed: int, edits: int) -> Trace:
    rng = random.Random(seed)
    text = start = "aé😀" * rng.randrange(500)
    transactions = []
    for _ in range(edits):
        position = rng.randrange(len(text) + 1)
        deleted = min(rng.choice([0, 0, 1, 5, 1500]), len(text) - position)
        inserted = "".join(rng.choices("aé😀\n", k=rng.choice([0, 1, 1, 3, 2500])))
        text = text[:position] + inserted + text[position + deleted :]
        transactions.append(((position, deleted, inserted),))
    return Trace(start, text, tuple(transactions))


@pytest.mark.parametrize("seed", range(6))
def test_positions_become_bytes(seed: int) -> None:
    trace = random_trace(seed, 150)
    content = trace.start.encode()
    model = PositionedText(trace.start)
    for patches, [(first, length, inserted)] in zip(trace.transactions, trace.in_bytes(), strict=True):
        model.splice(*patches[0])
        content = content[:first] + inserted.encode() + content[first + length :]
    assert content.decode() == trace.end
    assert str(model) == trace.end


def test_pycrdt_ends_where_the_trace_does(tmp_path: Path) -> None:
    made = random_trace(9, 80)
    data = session([list(patches[0]) for patches in made.transactions], made.start, made.end)
    trace = load_trace(written(tmp_path, data))
    doc: Doc[Any] = Doc()
    text = doc.get("body", type=Text)
    text += trace.start
    for patches in trace.in_bytes():
        for position, deleted, inserted in patches:
            if deleted:
                del text[position : position + deleted]
            text.insert(position, inserted)
    assert str(text) == trace.end
    assert trace.edits == 80


def test_an_ascii_trace_keeps_its_positions() -> None:
    trace = Trace("", "ab", (((0, 0, "b"), (0, 0, "a")),))
    assert list(trace.in_bytes()) == [[(0, 0, "b"), (0, 0, "a")]]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ([], "not an editing trace"),
        ({"txns": []}, "not an editing trace"),
        ({"txns": [{}], "endContent": ""}, "transaction 0 has no patches"),
        ({"txns": [{"patches": [], "parents": [], "agent": 0}], "endContent": ""}, "concurrent trace"),
        (session([[0, 0]]), "not \\[position"),
        (session([[0, True, ""]]), "not \\[position"),
        (session([[1, 0, "a"]]), "position 1 in a text of 0"),
        (session([[0, 1, "a"]]), "an edit of 1 at position 0"),
        (session([[-1, 0, "a"]]), "position -1"),
        (session([[0, 0, "a"]], end="b"), "do not lead to its endContent"),
        (session([[0, 0, "\ud800"]], end="\ud800"), "surrogate"),
    ],
)
def test_bad_traces_are_named(tmp_path: Path, data: Any, complaint: str) -> None:
    with pytest.raises(TraceError, match=complaint) as caught:
        load_trace(written(tmp_path, data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{}", "not a gzip file"),
        (gzip.compress(b"{") + b"", "not JSON"),
        (gzip.compress(b"\xff"), "not JSON"),
        (gzip.compress(b"{}" * 999)[:-9], "damaged gzip"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "x.json.gz"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=complaint):
        load_trace(path)
    with pytest.raises(TraceError, match="No such file"):
        load_trace(tmp_path / "absent")


def people(*transactions: tuple[Any, Any], **more: Any) -> dict[str, Any]:
    """A concurrent trace of agents and parents, whose patches do nothing."""
    return {"endContent": "", "txns": [{"agent": agent, "parents": parents, "patches": []} for agent, parents in transactions], **more}


def test_what_each_transaction_has_seen(tmp_path: Path) -> None:
    data = people((3, []), (3, [0]), (7, [0]), (7, [1, 2]), (3, [1]), (5, [4, 3]))
    data["txns"][1]["patches"] = [[0, 0, "é"], [0, 1, ""]]
    trace = read_trace(written(tmp_path, data))
    assert isinstance(trace, SharedTrace)
    assert trace == load_shared_trace(written(tmp_path, data))
    assert trace.people == 3
    assert [(each.person, each.seen) for each in trace.transactions] == [
        (0, (0, 0, 0)),
        (0, (1, 0, 0)),
        (2, (1, 0, 0)),
        (2, (2, 0, 1)),
        (0, (2, 0, 0)),
        (1, (3, 0, 2)),
    ]
    assert trace.transactions[1].patches == ((0, 0, "é"), (0, 1, ""))


def test_a_session_of_one_person_is_one_of_several_as_well(tmp_path: Path) -> None:
    trace = load_shared_trace(written(tmp_path, session([[6, 0, "a"], [0, 1, ""]], "start ", "tart a")))
    first, second, third = (0, (0,), ((0, 0, "start "),)), (0, (1,), ((6, 0, "a"),)), (0, (2,), ((0, 1, ""),))
    assert trace == SharedTrace("tart a", 1, (Transaction(*first), Transaction(*second), Transaction(*third)))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (people((0, []), (0, [1])), "transaction 1: its parent 1 is not before it"),
        (people((0, [1]), (1, [0])), "transaction 0: its parent 1 is not before it \\(a cycle"),
        (people((0, []), (0, [2])), "transaction 1: its parent 2 does not exist"),
        (people((0, []), (0, [-1])), "transaction 1: its parent -1 does not exist"),
        (people((0, []), (0, [True])), "transaction 1: its parents are not a list"),
        (people((0, []), (0, None)), "transaction 1: its parents are not a list"),
        (people((0, []), (0, 0)), "transaction 1: its parents are not a list"),
        (people((-1, [])), "transaction 0: its agent is not a number from 0: -1"),
        (people((None, [])), "its agent is not a number"),
        (people(("a" * 9_000, [])), "its agent is not a number"),
        (people((True, [])), "its agent is not a number"),
        (people((2, []), numAgents=2), "agent 2, but numAgents is 2"),
        (people((0, []), (1, []), (0, [1])), "transaction 2 of agent 0 does not come after 0, which is the same agent's"),
        (people(*((agent, []) for agent in range(101))), "101 people; more than 100"),
        (people((0, []), startContent="x"), "begins with the empty text"),
        ({"endContent": "", "txns": [{"patches": []}, {"patches": [], "parents": [0], "agent": 0}]}, "transaction 0: its agent"),
        ({"endContent": "", "txns": [{"patches": [], "agent": 0}, {"patches": [], "parents": [0], "agent": 0}]}, "0: its parents"),
    ],
)
def test_bad_concurrent_traces_are_named(tmp_path: Path, data: Any, complaint: str) -> None:
    with pytest.raises(TraceError, match=complaint) as caught:
        read_trace(written(tmp_path, data))
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
    assert "\n" not in str(caught.value)
