"""The documentation cannot drift: what it names exists, what exists is named, and its programs run."""

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import click
import pytest

import ds_sync
from ds_sync import exceptions
from ds_sync.cli.main import main as cli
from ds_sync.testing.server_process import ServerProcess

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {path: path.read_text("utf-8") for path in PAGES}
DOCS = "\n".join(text for path, text in TEXTS.items() if path.is_relative_to(ROOT / "docs"))

ERRORS = [name for name, value in vars(exceptions).items() if inspect.isclass(value) and issubclass(value, exceptions.DsSyncError)]


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", TEXTS[path], re.DOTALL | re.MULTILINE)


BLOCKS = [
    pytest.param(block, id=f"{path.relative_to(ROOT)}-{number}") for path in PAGES for number, block in enumerate(python_blocks(path))
]


def commands(command: click.Command, name: str) -> dict[str, click.Command]:
    """The command and all below it, by what is typed."""
    found = {name: command}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            below = command.get_command(context, child)
            assert below is not None
            found |= commands(below, f"{name} {child}")
    return found


COMMANDS = commands(cli, "ds-sync")


def run(program: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, str(program), *arguments], cwd=program.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_generated_is_current() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", TEXTS[ROOT / "docs/reference/cli.md"], re.DOTALL | re.MULTILINE)
    assert section is not None
    options = [option for parameter in COMMANDS[name].params for option in parameter.opts if option.startswith("--")]
    assert [option for option in options if not re.search(rf"{option}\b", section[1])] == []


@pytest.mark.parametrize("name", [*ds_sync.__all__, *ERRORS])
def test_every_public_name_is_documented(name: str) -> None:
    assert re.search(rf"(?<!\w){name}(?!\w)", DOCS)


def test_the_readmes_example_runs(tmp_path: Path) -> None:
    example, _ = python_blocks(ROOT / "README.md")
    assert example == (ROOT / "examples" / "hello.py").read_text("utf-8")
    program = tmp_path / "hello.py"
    program.write_text(example, "utf-8")
    with ServerProcess() as server:
        assert run(program, "one.db", server.url).startswith("hello ")
        assert run(program, "two.db", server.url).startswith("hellohello ")


def test_the_readmes_example_of_streams_runs(tmp_path: Path) -> None:
    _, example = python_blocks(ROOT / "README.md")
    assert example == (ROOT / "examples" / "streams.py").read_text("utf-8")
    program = tmp_path / "streams.py"
    program.write_text(example, "utf-8")
    with ServerProcess() as server:
        assert run(program, f"{server.url}/v1/stream/readings") == "".join(f"{{'reading': {number}}}\n" for number in range(3))


@pytest.mark.parametrize(
    ("number", "printed"),
    [
        (0, r"\d{16}_\d{16}\n"),
        (1, r"\d{16}_\d{16}\n"),
        (2, r"\{'reading': 1\} -1\n\{'reading': 2\} -1\n"),
        (3, ""),
        (4, r"StreamInfo\(tail='\d{16}_\d{16}', content_type='text/plain', created=False, closed=True, .*\)\n"),
    ],
)
def test_the_pieces_about_streams_run(number: int, printed: str, tmp_path: Path) -> None:
    pieces = python_blocks(ROOT / "docs" / "how-to" / "streams-without-crdts.md")
    assert len(pieces) == 5
    program = tmp_path / "piece.py"
    piece = textwrap.indent(pieces[number], "    ")
    program.write_text(f"import asyncio\nimport sys\n\n\nasync def main(url):\n{piece}\n\nasyncio.run(main(sys.argv[1]))\n", "utf-8")
    with ServerProcess() as server:
        assert re.fullmatch(printed, run(program, f"{server.url}/v1/stream/log"))


def test_the_tutorials_program_prints_what_the_tutorial_says(tmp_path: Path) -> None:
    path = ROOT / "docs" / "tutorial" / "first-document.md"
    program = tmp_path / "write.py"
    program.write_text(python_blocks(path)[0], "utf-8")
    sessions = re.findall(r"^\$ python write\.py (\w+\.db) (\w+)( http\S+)?\n(.*?)(?=^\$|^```)", TEXTS[path], re.DOTALL | re.MULTILINE)
    offline = [session for session in sessions if not session[2]]
    online = [session for session in sessions if session[2] and session[3]]
    assert (len(offline), len(online)) == (3, 4)
    for file, word, _, printed in offline:
        assert run(program, file, word) == printed
    with ServerProcess() as server:
        for file, word, _, printed in online[:3]:
            # Which of two lines written at one place comes first is the CRDT's choice.
            assert sorted(run(program, file, word, server.url).splitlines()) == sorted(printed.splitlines())


@pytest.mark.parametrize("block", BLOCKS)
def test_every_piece_of_python_compiles_and_imports_what_exists(block: str) -> None:
    tree = compile(textwrap.dedent(block), "docs", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and not node.module.startswith("my_"):
            module = import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_adapter_of_the_how_to_is_the_one_that_is_tested() -> None:
    code = (ROOT / "tests" / "adapters" / "lww_map.py").read_text("utf-8")
    quotes = [block for block in python_blocks(ROOT / "docs/how-to/write-an-adapter.md") if block.startswith((" ", "class Lww"))]
    assert len(quotes) >= 5
    assert [quote for quote in quotes if quote not in code] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[path]):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", TEXTS[page], re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], target


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {
        target
        for text in TEXTS.values()
        for target in re.findall(r"^make (\w+)|`make (\w+)", text, re.MULTILINE)
        for target in target
        if target
    }
    assert "test" in named
    assert named <= targets
