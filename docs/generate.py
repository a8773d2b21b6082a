"""Fills the generated parts of the documentation from the code, so that they cannot say something else.

    python docs/generate.py            write them
    python docs/generate.py --check    exit 1, and name the file, if one is stale

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`; `PARTS` says what each name stands for. The words for the
verdicts are here, beside what draws them: a verdict without words is a KeyError, so a new one can't stay undocumented.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

import click
from click.testing import CliRunner

from ds_sync import Document, Replica, Status, StreamClient, exceptions
from ds_sync.cli.main import main as cli
from ds_sync.client.batches import Receipt
from ds_sync.client.follower import Follower
from ds_sync.client.producer import Producer
from ds_sync.client.retry import RetryPolicy
from ds_sync.client.views import Views
from ds_sync.protocol import subscription, tail
from ds_sync.protocol.messages import AppendResult, Page, StreamInfo
from ds_sync.replica import plan
from ds_sync.replica.local import Tuning
from ds_sync.replica.presence import Presence

ROOT: Final = Path(__file__).parents[1]

_PART: Final = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

_HELP_WIDTH: Final = 100

STATE_WORDS: Final[Mapping[tail.State, str]] = {
    tail.State.CATCH_UP: "catch up",
    tail.State.SSE: "read by SSE",
    tail.State.LONG_POLL: "read by long-poll",
    tail.State.WAITING: "wait (connection lost)",
    tail.State.RESTING: "rest (ended too soon)",
    tail.State.DONE: "done",
    tail.State.CLOSED: "closed",
    tail.State.FAILED: "failed",
    tail.State.LIVE: "live",
}

ANSWER_WORDS: Final[Mapping[plan.Answer, str]] = {
    plan.Answer.SETTLED: "The server has the batch: it is settled.",
    plan.Answer.DOUBT: "Nothing is proved. Read to the tail. Seen: settled. Not seen: seal the rows again under a new producer id.",
    plan.Answer.DOUBT_SIZE: "The batch is too large. Read to the tail. Seen: settled. Not seen: seal the rows again in smaller batches.",
    plan.Answer.LOOK: "The reading side looks at the stream, and finds out what is the matter.",
    plan.Answer.HEAL: "The server lost something. Read everything, and give back what it lacks.",
    plan.Answer.RETRY: "Send the same bytes again, later.",
    plan.Answer.PAUSE: "Not allowed. Try again slowly, and say so in the status.",
    plan.Answer.BLOCK: "No repetition helps. Stop sending, report it, and keep the rows.",
}

TAIL_WORDS: Final[Mapping[plan.Tail, str]] = {
    plan.Tail.GO_ON: "The page continues where we were.",
    plan.Tail.CREATE: "There is no stream: make one, under the incarnation we know, if we know one.",
    plan.Tail.HEAL: "The history is not the one we read. Read everything, and give back what it lacks.",
    plan.Tail.DIVERGED: "Somebody made the document anew. Neither read nor send until somebody decides.",
    plan.Tail.DELETED: "Somebody deleted the document. Neither read nor send until somebody decides.",
    plan.Tail.RETRY: "Read again from the checkpoint, later.",
    plan.Tail.PAUSE: "Not allowed. Try again slowly, and say so in the status.",
    plan.Tail.BLOCK: "Repeating it will hardly help. Say so in the status, and try again slowly.",
}


def draw_states() -> str:
    """Return the diagram of the machine that follows a stream, one edge for each pair of states."""
    edges: dict[tuple[tail.State, tail.State], list[str]] = {}
    for (source, event), target in tail.TRANSITIONS.items():
        edges.setdefault((source, target), []).append(event.value)
    lines = [f'    state "{words}" as {state.name}' for state, words in STATE_WORDS.items() if state is not tail.State.LIVE]
    lines.append(f"    state {tail.State.LIVE.name} <<choice>>")
    lines.append(f"    [*] --> {tail.Tail().state.name}")
    lines += [f"    {source.name} --> {target.name} : {', '.join(events)}" for (source, target), events in edges.items()]
    live: dict[tail.State, list[str]] = {}
    for mode, target in tail.LIVE_STATES.items():
        live.setdefault(target, []).append(mode.value)
    lines += [f"    {tail.State.LIVE.name} --> {target.name} : mode {' or '.join(modes)}" for target, modes in live.items()]
    lines += [f"    {state.name} --> [*]" for state in tail.State if state in tail.FINAL]
    return _mermaid(lines)


def draw_modes() -> str:
    """Return the diagram of how the following machine chooses between SSE and long-poll."""
    edges: dict[tuple[tail.Mode, tail.Mode], list[str]] = {}
    for (source, event), target in tail.MODES.items():
        edges.setdefault((source, target), []).append(event.value)
    lines = [f'    state "{mode.value}" as {mode.name}' for mode in tail.Mode if any(mode in pair for pair in edges)]
    lines.append(f"    [*] --> {tail.Mode.AUTO.name}")
    lines += [f"    {source.name} --> {target.name} : {', '.join(events)}" for (source, target), events in edges.items()]
    return _mermaid(lines)


def draw_subscription() -> str:
    """Return the diagram of a subscription and its wakes."""
    edges: dict[tuple[subscription.Phase, subscription.Phase], list[str]] = {}
    for (source, event), target in subscription.TRANSITIONS.items():
        edges.setdefault((source, target), []).append(event.value)
    lines = [f"    [*] --> {subscription.Phase.IDLE.name}"]
    lines += [f"    {source.name} --> {target.name} : {', '.join(events)}" for (source, target), events in edges.items()]
    return _mermaid(lines)


def list_append_failures() -> str:
    """Return what each failure of an append leads to, in the order in which they are tried."""
    rows = [(f"`{kind.__name__}`", _summary(kind), f"**{answer.name}**") for kind, answer in plan.APPEND_FAILURES]
    return _table(("the append failed with", "which is", "verdict"), rows) + "\n" + _words(plan.Answer, ANSWER_WORDS)


def list_other_failures() -> str:
    """Return what each failure of the remaining requests leads to, in the order in which they are tried."""
    rows = [(f"`{kind.__name__}`", _summary(kind), f"**{verdict.name}**") for kind, verdict in plan.OTHER_FAILURES]
    return _table(("the request failed with", "which is", "verdict"), rows)


def list_tail_failures() -> str:
    """Return what each failure of a read leads to, in the order in which they are tried."""
    rows = [(f"`{kind.__name__}`", _summary(kind), f"**{verdict.name}**") for kind, verdict in plan.TAIL_FAILURES]
    return _table(("the read failed with", "which is", "verdict"), rows) + "\n" + _words(plan.Tail, TAIL_WORDS)


def show_example(name: str) -> str:
    """Return an example."""
    return f"```python\n{(ROOT / 'examples' / name).read_text('utf-8')}```\n"


def show_error_tree() -> str:
    """Return the tree that the module of errors draws."""
    lines = (exceptions.__doc__ or "").rstrip().splitlines()
    return "```text\n" + "\n".join(lines[2:]) + "\n```\n"


def describe_class(kind: type, *, internal: Collection[str] = ()) -> str:
    """Return the constructor and public members of a class, each with its signature and docstring, in the order of the source."""
    (node,) = ast.parse(inspect.getsource(kind)).body
    if not isinstance(node, ast.ClassDef):
        raise AssertionError("the source of a class is a class")
    parts = [_prose(ast.get_docstring(node))]
    for member in node.body:
        if not isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) or member.name in internal:
            continue
        if member.name == "__init__" and (prose := ast.get_docstring(member)):
            parts.append(f"#### `{kind.__name__}({_parameters(member)})`\n\n{_prose(prose)}")
        elif not member.name.startswith("_"):
            parts.append(f"#### `{_signature(member)}`\n\n{_prose(ast.get_docstring(member))}")
    return "\n\n".join(parts) + "\n"


def describe_fields(kind: type) -> str:
    """Return the fields of a dataclass with their attribute docstrings; one without belongs to the text before it."""
    (node,) = ast.parse(inspect.getsource(kind)).body
    if not isinstance(node, ast.ClassDef):
        raise AssertionError("the source of a class is a class")
    rows: list[list[str]] = []
    for member in node.body:
        if isinstance(member, ast.AnnAssign):
            default = "" if member.value is None else f"`{ast.unparse(member.value)}`"
            rows.append([f"`{ast.unparse(member.target)}`", f"`{ast.unparse(member.annotation)}`".replace("|", "\\|"), default, ""])
        elif rows and isinstance(member, ast.Expr) and isinstance(member.value, ast.Constant):
            rows[-1][-1] = _prose(inspect.cleandoc(str(member.value.value))).replace("\n", " ").replace("|", "\\|")
    return _prose(ast.get_docstring(node)) + "\n\n" + _table(("name", "type", "default", "meaning"), rows)


def show_commands() -> str:
    """Return the help of every command."""
    return "\n".join(f"## {' '.join(('ds-sync', *path))}\n\n```text\n{_help([*path, '--help'])}```\n" for path in _commands(cli))


def _commands(command: click.Command, *path: str) -> Iterator[Sequence[str]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if (found := command.get_command(context, name)) is not None:
                yield from _commands(found, *path, name)


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "append-failures": list_append_failures,
    "class-document": lambda: describe_class(
        Document, internal=("newest_edit", "settle", "start_session", "stop_session", "online", "local", "hold")
    ),
    "class-append-result": lambda: describe_fields(AppendResult),
    "class-follower": lambda: describe_class(Follower),
    "class-page": lambda: describe_fields(Page),
    "class-presence": lambda: describe_class(Presence, internal=("run", "become")),
    "class-producer": lambda: describe_class(Producer),
    "class-receipt": lambda: describe_class(Receipt, internal=("settle", "fail")),
    "class-replica": lambda: describe_class(Replica),
    "class-retry-policy": lambda: describe_fields(RetryPolicy),
    "class-status": lambda: describe_fields(Status),
    "class-stream-client": lambda: describe_class(StreamClient),
    "class-stream-info": lambda: describe_fields(StreamInfo),
    "class-tuning": lambda: describe_fields(Tuning),
    "class-views": lambda: describe_class(Views),
    "commands": show_commands,
    "error-tree": show_error_tree,
    "following-modes": draw_modes,
    "following-states": draw_states,
    "hello": lambda: show_example("hello.py"),
    "other-failures": list_other_failures,
    "shared-notebook": lambda: show_example("shared_notebook.py"),
    "streams": lambda: show_example("streams.py"),
    "subscription-states": draw_subscription,
    "tail-failures": list_tail_failures,
}


def fill(text: str) -> str:
    """Return `text` with its generated parts as they must be. Raises KeyError for a part without a name in PARTS."""
    return _PART.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n{match[3]}", text)


def undescribed_errors() -> list[str]:
    """Return the classes of ds_sync.exceptions that the reference does not describe."""
    text = (ROOT / "docs" / "reference" / "errors.md").read_text("utf-8")
    names = [name for name, value in vars(exceptions).items() if inspect.isclass(value) and issubclass(value, exceptions.DsSyncError)]
    return [name for name in names if f"| `{name}` |" not in text]


def run(*, check: bool) -> list[str]:
    """Write what is stale, or only find it if `check`; return the complaints."""
    complaints = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        before = path.read_text("utf-8")
        after = fill(before)
        if after != before and check:
            complaints.append(f"{path.relative_to(ROOT)} is stale: run python docs/generate.py")
            complaints += difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
        elif after != before:
            path.write_text(after, "utf-8")
    return complaints + [f"docs/reference/errors.md does not describe {name}" for name in undescribed_errors()]


def _help(arguments: Sequence[str]) -> str:
    result = CliRunner().invoke(cli, arguments, prog_name="ds-sync", terminal_width=_HELP_WIDTH)
    if result.exit_code:
        raise RuntimeError(result.output)
    return result.output


def _prose(docstring: str | None) -> str:
    """Return a docstring as Markdown: `{`, `<` and the like stand in code there already."""
    if not docstring:
        raise ValueError("a public member without a docstring")
    return inspect.cleandoc(docstring)


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return ast.unparse(function.args).removeprefix("self").removeprefix(", ")


def _signature(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    returns = f" -> {ast.unparse(function.returns)}" if function.returns is not None else ""
    if any(isinstance(decorator, ast.Name) and decorator.id == "property" for decorator in function.decorator_list):
        return f"{function.name}{returns.replace(' -> ', ': ')}"
    yields = any(isinstance(node, ast.Yield) for node in ast.walk(function))
    prefix = "await " if isinstance(function, ast.AsyncFunctionDef) and not yields else ""
    return f"{prefix}{function.name}({_parameters(function)}){returns}"


def _summary(kind: type[Exception]) -> str:
    return inspect.getdoc(kind).partition("\n")[0] if kind.__doc__ else ""  # type: ignore[union-attr]  # it has one


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _words(verdicts: type[Enum], words: Mapping[plan.Answer, str] | Mapping[plan.Tail, str]) -> str:
    return _table(("verdict", "what happens"), [(f"**{verdict.name}**", words[verdict]) for verdict in verdicts])  # type: ignore[index]


def _mermaid(lines: Sequence[str]) -> str:
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```\n"


if __name__ == "__main__":
    found = run(check="--check" in sys.argv[1:])
    print("\n".join(found), end="\n" if found else "")
    sys.exit(1 if found else 0)
