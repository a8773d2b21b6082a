"""What @y/websocket-server and y-leveldb from npm have stored is imported by `ds-sync import`."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ds_sync.cli.main import main

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent

FILL = """
import { LeveldbPersistence } from 'y-leveldb'
import * as Y from 'yjs'
const store = new LeveldbPersistence(process.argv[1])
for (const [name, text] of [['one', 'hello'], ['notes/Übung', 'Grüße 😀']]) {
  const doc = new Y.Doc()
  const stored = []
  doc.on('update', update => stored.push(store.storeUpdate(name, update)))
  for (const letter of text) doc.getText('body').insert(doc.getText('body').length, letter)
  doc.getText('body').delete(0, 1)
  doc.getMap('map').set('list', Y.Array.from([1, 'two']))
  await Promise.all(stored)
}
if (process.argv[2]) {
  console.log('open')
  process.stdin.on('end', () => process.exit(0)).resume()
} else await store.destroy()
"""


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def on_path(node: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PATH", f"{Path(node).parent}{os.pathsep}{os.environ['PATH']}")
    return node


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_folder_of_y_leveldb(on_path: str, tmp_path: Path) -> None:
    subprocess.run([on_path, "--input-type=module", "-e", FILL, tmp_path / "store"], cwd=HERE, check=True, timeout=60)
    before = files(tmp_path / "store")
    first = call("import", tmp_path / "store", tmp_path / "target.db", "--node-modules", HERE)
    assert first.exit_code == 0, first.output
    assert first.output.startswith(f"{tmp_path / 'store'}: y-leveldb, 2 documents\n  notes/Übung: ")
    assert first.output.count("bytes, added\n") == 2
    again = call("import", tmp_path / "store", tmp_path / "target.db", "--node-modules", HERE)
    assert again.output.count("bytes, there already\n") == 2
    assert files(tmp_path / "store") == before
    assert call("export", tmp_path / "target.db", "notes/Übung", "--format", "text").output == "rüße 😀"
    shown = call("export", tmp_path / "target.db", "one", "--format", "json")
    assert shown.output.split() == ["{", '"body":', '"ello",', '"map":', "{", '"list":', "[", "1,", '"two"', "]", "}", "}"]


def test_a_folder_that_a_server_has_open_is_refused(on_path: str, tmp_path: Path) -> None:
    command = [on_path, "--input-type=module", "-e", FILL, str(tmp_path / "store"), "stay"]
    with subprocess.Popen(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        refused = call("import", tmp_path / "store", tmp_path / "target.db", "--node-modules", HERE)
        assert (refused.exit_code, "open in another process" in refused.output) == (2, True)
        shutil.copytree(tmp_path / "store", tmp_path / "copy")
        assert call("import", tmp_path / "copy", tmp_path / "target.db", "--node-modules", HERE).exit_code == 0
        holder.stdin.close()
    assert not [file for file in tmp_path.iterdir() if file.name.startswith("ds-sync")]


def test_missing_packages_are_named(on_path: str, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "CURRENT").write_text("MANIFEST-000001\n")
    done = call("import", tmp_path / "store", tmp_path / "target.db", "--node-modules", tmp_path)
    assert (done.exit_code, "y-leveldb is not installed near" in done.output) == (2, True)
    damaged = call("import", tmp_path / "store", tmp_path / "target.db", "--node-modules", HERE)
    assert (damaged.exit_code, "y-leveldb: " in damaged.output) == (2, True)
    assert not (tmp_path / "target.db").exists()


def test_without_node_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "CURRENT").write_text("MANIFEST-000001\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    done = call("import", tmp_path, tmp_path / "target.db")
    assert (done.exit_code, "there is no `node` on the PATH" in done.output) == (2, True)
