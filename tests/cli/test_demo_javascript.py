from __future__ import annotations

from pathlib import Path

import pytest

from ds_sync.cli import demo_javascript
from ds_sync.cli.demo_javascript import NoJavaScriptError, find_command

INSTALL = """
test "$1" = ci && test -f package-lock.json || exit 3
mkdir -p node_modules/@durable-streams/y-durable-streams
echo {} > node_modules/@durable-streams/y-durable-streams/package.json
echo once >> {log}
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on the PATH, of a machine that has nothing yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(demo_javascript, "CHECKOUT", tmp_path / "no-checkout")
    return folder


def put(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    (folder / name).chmod(0o755)


def folders(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache" / "ds-sync").iterdir()]


def test_packages_are_fetched_once(tools: Path, tmp_path: Path) -> None:
    put(tools, "node", "echo v20.1.0")
    put(tools, "npm", INSTALL.replace("{log}", str(tmp_path / "log")))
    said: list[str] = []
    command, folder = find_command(said.append)
    assert command[:2] == [str(tools / "node"), "--input-type=module"]
    assert "YjsProvider" in command[3]
    assert (folder / "node_modules" / "@durable-streams" / "y-durable-streams" / "package.json").exists()
    assert find_command(said.append) == (command, folder)
    assert (tmp_path / "log").read_text("utf-8") == "once\n"
    assert (len(said), folders(tmp_path)) == (1, [folder.name])


def test_packages_of_a_checkout_are_taken(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tools, "node", "echo v18.0.0")
    installed = tmp_path / "interop" / "node_modules" / "@durable-streams" / "y-durable-streams"
    installed.mkdir(parents=True)
    (installed / "package.json").write_text("{}", "utf-8")
    monkeypatch.setattr(demo_javascript, "CHECKOUT", tmp_path / "interop")
    assert find_command(pytest.fail)[1] == tmp_path / "interop"


@pytest.mark.parametrize(
    ("npm", "reason"),
    [
        ("echo npm error network is down >&2; exit 1", "`npm ci` failed: npm error network is down"),
        ("exit 7", "`npm ci` failed: exit code 7"),
        ("exec sleep 30", "`npm ci` took longer than 0.3 s"),
    ],
)
def test_what_can_not_be_fetched_leaves_nothing_behind(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, npm: str, reason: str
) -> None:
    monkeypatch.setattr(demo_javascript, "INSTALL_SECONDS", 0.3)
    put(tools, "node", "echo v20.1.0")
    put(tools, "npm", npm)
    with pytest.raises(NoJavaScriptError) as caught:
        find_command(lambda text: None)
    assert (str(caught.value), folders(tmp_path)) == (reason, [])


def test_a_cache_that_can_not_be_written(tools: Path, tmp_path: Path) -> None:
    put(tools, "node", "echo v20.1.0")
    put(tools, "npm", "exit 0")
    (tmp_path / "cache").write_text("a file", "utf-8")
    with pytest.raises(NoJavaScriptError, match="can't be kept in"):
        find_command(lambda text: None)


@pytest.mark.parametrize("node", ["echo v16.20.0", "echo something else", "exit 1"])
def test_node_that_is_too_old_or_none(tools: Path, node: str) -> None:
    put(tools, "node", node)
    with pytest.raises(NoJavaScriptError, match=r"not Node\.js 18 or newer"):
        find_command(pytest.fail)


def test_node_without_npm(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tools, "node", "echo v20.1.0")
    monkeypatch.setenv("PATH", str(tools))
    (tools / "node").write_text("#!/bin/sh\necho v20.1.0\n", "utf-8")
    with pytest.raises(NoJavaScriptError, match="no `npm` on the PATH"):
        find_command(pytest.fail)
