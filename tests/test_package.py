"""The wheel, installed bare: nothing but what pyproject.toml declares."""

import importlib.metadata
import statistics
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ds_sync import __version__

ROOT = Path(__file__).parents[1]
PACKAGES = ("ds_sync", *sorted(path.name for path in (ROOT / "adapters").iterdir() if path.name.startswith("ds_sync_")))
KIT_NEEDS = ("pytest", "hypothesis", "anyio", "apsw")
"""What a third party brings along that runs our contract kits."""

IMPORT_SECONDS = 0.150
HELP_SECONDS = 0.300
RUNS = 9


def find_closure(names: Iterable[str]) -> set[str]:
    """The installed distributions that these need, themselves included."""
    found: set[str] = set()
    waiting = [(name, "") for name in names]
    while waiting:
        name, extra = waiting.pop()
        for text in importlib.metadata.requires(name) or ():
            need = Requirement(text)
            key = canonicalize_name(need.name)
            if key not in found and (need.marker is None or need.marker.evaluate({"extra": extra})):
                waiting += [(key, one) for one in ("", *need.extras)]
        found.add(canonicalize_name(name))
    return found


def link_packages(folder: Path, names: Iterable[str]) -> None:
    """Show these distributions of this Python in `folder`, and no others: quicker than installing them again."""
    folder.mkdir()
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            (folder / top).symlink_to(Path(str(distribution.locate_file(top))))


class Bare:
    """A virtual environment with the wheel in it."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder / "venv", symlinks=True)
        self._bin = folder / "venv" / "bin"
        site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder / "venv")}))
        command = [sys.executable, "-m", "pip", "--python", str(self._bin / "python"), "install", "--no-deps", "--no-index", str(wheel)]
        subprocess.run(command, check=True, capture_output=True)
        link_packages(folder / "needed", find_closure(["ds-sync"]) - {"ds-sync"})
        link_packages(folder / "for-kits", find_closure(KIT_NEEDS) - find_closure(["ds-sync"]))
        (site / "needed.pth").write_text(str(folder / "needed"))
        self.site = site
        self.for_kits = folder / "for-kits"

    def run(self, program: str, *arguments: str) -> str:
        done = subprocess.run([str(self._bin / program), *arguments], capture_output=True, text=True, cwd=self.site.anchor, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def measure(self, program: str, *arguments: str) -> float:
        """The median of several runs, in seconds."""
        times = []
        for _ in range(RUNS):
            began = time.perf_counter()
            self.run(program, *arguments)
            times.append(time.perf_counter() - began)
        return statistics.median(times)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Bare:
    return Bare(tmp_path_factory.mktemp("bare"), wheel)


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    homes = {package: ROOT if package == "ds_sync" else ROOT / "adapters" for package in PACKAGES}
    expected = {
        file.relative_to(home).as_posix()
        for package, home in homes.items()
        for file in (home / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert names == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert "ds_sync/cli/demo_session.json" in names


IMPORT_ALL = """
import importlib, importlib.metadata, pkgutil, sys
for name in sys.argv[2:]:
    package = importlib.import_module(name)
    assert package.__file__.startswith(sys.argv[1]), package.__file__
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.startswith("ds_sync.testing."):
            importlib.import_module(module.name)
            print(module.name)
import ds_sync
print(*[getattr(ds_sync, name).__name__ for name in ds_sync.__all__])
print(*[point.load().__name__ for group in ("adapters", "engines")
        for point in importlib.metadata.entry_points(group="ds_sync." + group)])
"""


def test_every_module_is_importable_with_the_declared_dependencies_alone(bare: Bare) -> None:
    *modules, public, offered = bare.run("python", "-c", IMPORT_ALL, str(bare.site), *PACKAGES).splitlines()
    assert {"ds_sync.cli.main", "ds_sync.replica.replica", "ds_sync.server.engines.sqlite", "ds_sync_yjs.adapter"} <= set(modules)
    assert public == "Document Replica Status StreamClient"
    assert set(offered.split()) >= {"YjsAdapter", "MemoryEngine", "SqliteEngine"}


def test_the_kits_are_importable_where_pytest_is(bare: Bare) -> None:
    names = [f"ds_sync.testing.{file.stem}" for file in (ROOT / "ds_sync" / "testing").glob("*.py") if file.stem != "__init__"]
    program = "import sys; sys.path.append(sys.argv[1])\nfor name in sys.argv[2:]: __import__(name)"
    bare.run("python", "-c", program, str(bare.for_kits), *names)


def test_the_command_is_installed(bare: Bare) -> None:
    assert bare.run("ds-sync", "--version") == f"ds-sync, version {__version__}\n"


def test_it_starts_quickly(bare: Bare, capsys: pytest.CaptureFixture[str]) -> None:
    took_import, took_help = bare.measure("python", "-c", "import ds_sync"), bare.measure("ds-sync", "--help")
    took_use = bare.measure("python", "-c", "from ds_sync import Replica")
    with capsys.disabled():
        print(
            f"\nmedians, with Python's own start: import ds_sync {took_import * 1000:.0f} ms, "
            f"ds-sync --help {took_help * 1000:.0f} ms, from ds_sync import Replica {took_use * 1000:.0f} ms"
        )
    assert took_import < IMPORT_SECONDS
    assert took_help < HELP_SECONDS
