"""Who may import whom: cli -> replica -> client -> protocol; server -> protocol; adapters -> ports. Never the other way."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "ds_sync").rglob("*.py"), *(ROOT / "adapters").rglob("*.py"), *(ROOT / "examples").rglob("*.py")])
ADAPTERS = {path.name for path in (ROOT / "adapters").iterdir()}
LEAVES = {"exceptions", "environment", "ownership", "crdt", "sources", "peers"}

ALLOWED: dict[str, set[str]] = {
    "ds_sync": {"replica", "client"},  # the public names
    "exceptions": set(),
    "environment": {"exceptions"},
    "ownership": {"exceptions"},
    "crdt": {"exceptions"},
    "sources": {"exceptions"},
    "peers": {"exceptions"},
    "protocol": {"protocol", "exceptions"},
    "client": {"client", "protocol", *LEAVES},
    "replica": {"replica", "client", "protocol", *LEAVES},
    "server": {"server", "protocol", *LEAVES},
    "cli": {"ds_sync", "cli", "replica", "client", "server", "protocol", *LEAVES},
    "testing": {"ds_sync", "testing", "cli", "replica", "client", "server", "protocol", *LEAVES},
    "adapters": {"exceptions", "crdt", "sources", "peers", "protocol", "environment"},
    "examples": {"ds_sync", "exceptions", "crdt"},
}
"""By the part that imports: the parts of ds_sync it may import; "ds_sync" is the package itself, with the public names."""

PORTS = ("ds_sync.server.gateway.",)
"""Of the server, open to adapters: what `ds_sync.server.gateway` holds, and nothing beside it."""

MOUNTABLE = {
    "ds_sync.server.admission.Access",
    "ds_sync.server.admission.Visitor",
    "ds_sync.server.app.create_app",
    "ds_sync.server.engines.memory.MemoryEngine",
    "ds_sync.server.engines.sqlite.SqliteEngine",
}
"""Of the server, open to programs that mount it, as docs/how-to/run-a-server.md says."""

STANDS_ON = {"ds_sync_ywebsocket": "ds_sync_yjs"}
"""By the adapter: another that it is built on. What speaks a protocol of Yjs needs Yjs."""

IMPURE = {"asyncio", "httpx", "sqlite3", "time", "random", "logging"}


def find_imports(source: str) -> Iterator[str]:
    """The names a file imports, wherever it does: under TYPE_CHECKING, inside functions, and as strings for `import_module`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and part_of(node.value) not in (None, "ds_sync"):
            yield node.value


def part_of(name: str) -> str | None:
    """The part of ds_sync that an imported name belongs to, or the adapter; None for what is not ours, and for the version."""
    if name == "ds_sync.__version__":
        return None
    first, _, rest = name.partition(".")
    second = rest.partition(".")[0]
    if first == "ds_sync" and second and any((ROOT / "ds_sync" / leaf).exists() for leaf in (second, f"{second}.py")):
        return second
    return first if first == "ds_sync" or first in ADAPTERS else None


def find_breaches(file: str, source: str) -> list[str]:
    folder, name, *_ = file.removesuffix(".py").split("/")
    part = folder if folder != "ds_sync" else name.replace("__init__", "ds_sync")
    breaches = []
    for target in find_imports(source):
        ours = part_of(target)
        allowed = ours in (None, part) or ours in ALLOWED[part]
        if folder == "adapters":
            allowed |= ours in (name, STANDS_ON.get(name)) or target.startswith(PORTS)
        if folder == "examples":
            allowed |= target in MOUNTABLE
        if not allowed or (part == "protocol" and target.split(".")[0] in IMPURE):
            breaches.append(f"{file} imports {target}")
        elif target.split(".")[0] == "httpx" and file != "ds_sync/client/transport.py":
            breaches.append(f"{file} imports {target}: only client/transport.py may")
    return breaches


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_one_way(file: Path) -> None:
    assert find_breaches(file.relative_to(ROOT).as_posix(), file.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("ds_sync/protocol/x.py", "from ds_sync.client.stream import StreamClient"),
        ("ds_sync/protocol/x.py", "def f():\n    import asyncio.tasks"),
        ("ds_sync/protocol/x.py", "from time import time"),
        ("ds_sync/protocol/x.py", "from ds_sync.environment import Environment"),
        ("ds_sync/protocol/x.py", "from ds_sync import StreamClient"),
        ("ds_sync/client/x.py", "from ds_sync.server import streams"),
        ("ds_sync/client/x.py", "import httpx"),
        ("ds_sync/server/x.py", "if TYPE_CHECKING:\n    import ds_sync.client.stream"),
        ("ds_sync/server/x.py", "import_module('ds_sync.replica.replica')"),
        ("ds_sync/client/x.py", "from ds_sync.replica.store import LocalStore"),
        ("ds_sync/replica/x.py", "from ds_sync_yjs import YjsAdapter"),
        ("ds_sync/crdt.py", "import_module('ds_sync_yjs.adapter')"),
        ("ds_sync/cli/x.py", "from ds_sync.testing.server_process import ServerProcess"),
        ("ds_sync/exceptions.py", "from ds_sync import crdt"),
        ("adapters/ds_sync_yjs/x.py", "from ds_sync.replica import store"),
        ("adapters/ds_sync_yjs/x.py", "from ds_sync import Replica"),
        ("adapters/ds_sync_yjs/x.py", "from ds_sync_ywebsocket import YWebsocketGateway"),
        ("adapters/ds_sync_ywebsocket/x.py", "from ds_sync.server.gateways import Gateways"),
        ("adapters/ds_sync_ywebsocket/x.py", "from ds_sync.server import streams"),
        ("ds_sync/server/x.py", "from ds_sync_ywebsocket import YWebsocketGateway"),
    ],
)
def test_a_breach_is_found(file: str, source: str) -> None:
    assert len(find_breaches(file, source)) == 1


def test_no_file_is_forgotten() -> None:
    parts = {file.relative_to(ROOT / "ds_sync").parts[0].removesuffix(".py") for file in FILES if file.is_relative_to(ROOT / "ds_sync")}
    assert parts - {"__init__"} == set(ALLOWED) - {"ds_sync", "adapters", "examples"}


def require_no_circles(sources: Mapping[str, str]) -> None:
    """`sources`: by the module's name. Raises CycleError."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        targets = ((name, name.rpartition(".")[0]) for name in find_imports(source))
        graph[module] = {whole if whole in sources else outer for whole, outer in targets if whole in sources or outer in sources} - {
            module
        }
    TopologicalSorter(graph).prepare()


def test_nobody_imports_itself_on_a_way_round() -> None:
    """Types alone count, too: who wants to know one file of a circle has to read them all."""
    modules = {}
    for file in FILES:
        name = file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removeprefix("adapters.").removesuffix(".__init__")
        modules[name] = file.read_text("utf-8")
    require_no_circles(modules)


def test_a_circle_is_found() -> None:
    lead = {"ds_sync.a": "from ds_sync.b import B", "ds_sync.b": "if TYPE_CHECKING:\n    import ds_sync.c"}
    require_no_circles({**lead, "ds_sync.c": "import os"})
    with pytest.raises(CycleError):
        require_no_circles({**lead, "ds_sync.c": "from ds_sync import a"})
