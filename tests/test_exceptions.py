"""The tree in the docstring of ds_sync.exceptions is the tree in the code."""

import inspect
import re

import pytest

from ds_sync import exceptions

ROW = re.compile(r"(?P<lines>[│├└─ ]*)(?P<name>\w+Error)(?P<rest>.*)")


def drawn() -> dict[str, tuple[str, str]]:
    """Each name in the drawing, with its parent's name and the words beside it."""
    found: dict[str, tuple[str, str]] = {}
    path: list[str] = []
    for line in (exceptions.__doc__ or "").splitlines():
        if row := ROW.fullmatch(line):
            depth = len(row["lines"]) // 4
            path[depth:] = [row["name"]]
            assert row["name"] not in found, "drawn twice"
            found[row["name"]] = (path[depth - 1] if depth else "Exception", row["rest"])
    return found


CLASSES = {name: value for name, value in vars(exceptions).items() if inspect.isclass(value) and value.__module__ == exceptions.__name__}


def test_every_class_is_drawn_and_every_drawn_class_is_there() -> None:
    assert {name: parent for name, (parent, _) in drawn().items()} == {name: value.__bases__[0].__name__ for name, value in CLASSES.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_the_words_beside_it_are_true(name: str) -> None:
    kind, words = CLASSES[name], drawn()[name][1]
    assert inspect.getdoc(kind) != inspect.getdoc(kind.__bases__[0]), "an error says what it is"
    source = "".join(inspect.getsource(one) for one in kind.__mro__ if one.__name__ in CLASSES)
    for field in re.findall(r" \.(\w+)", words):
        assert f"self.{field} = " in source
    if status := re.match(r" +(\d{3})\b", words):
        assert kind.default_status == int(status[1])
