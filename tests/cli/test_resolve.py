"""`ds-sync resolve`: one call of `Document.resolve`, on a file, without a network."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pycrdt import Text

from ds_sync import Replica
from ds_sync.cli.main import main
from ds_sync.replica.records import Phase

pytestmark = pytest.mark.anyio


async def make(file: Path, phase: Phase) -> None:
    async with Replica(file) as replica:
        note = await replica.open("note")
        text = note.doc.get("body", type=Text)
        text += "ours"
        note.local.set_phase(phase)


async def contents(file: Path) -> dict[str, tuple[str, str]]:
    async with Replica(file) as replica:
        phases = {info.path: info.phase for info in replica.documents()}
        return {path: (phase, str((await replica.open(path)).doc.get("body", type=Text))) for path, phase in phases.items()}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["resolve", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "notes.db"


async def in_a_thread(*arguments: str | Path) -> Result:
    from anyio.to_thread import run_sync

    return await run_sync(lambda: run(*arguments))


async def test_both_prints_nothing_and_keeps_the_content_where_it_is(file: Path) -> None:
    await make(file, Phase.DIVERGED)
    done = await in_a_thread(file, "note", "both")
    assert (done.exit_code, done.output) == (0, "")
    assert await contents(file) == {"note": ("heal", "ours")}


async def test_theirs_prints_the_name_of_the_copy(file: Path) -> None:
    await make(file, Phase.DELETED)
    done = await in_a_thread(file, "note", "theirs")
    copy = done.output.rstrip("\n")
    assert (done.exit_code, copy.startswith("note (copy of ")) == (0, True)
    assert await contents(file) == {"note": ("local", ""), copy: ("local", "ours")}


async def test_what_can_not_be_resolved_is_exit_2_and_changes_nothing(file: Path) -> None:
    await make(file, Phase.FOLLOW)
    for arguments, said in (
        (("note", "both"), "nothing to resolve"),
        (("other", "both"), "has no document 'other'"),
        (("note", "mine"), "'mine' is not one of"),
        (("note", "both", "--service", "a/b"), "a service is one segment"),
    ):
        done = await in_a_thread(file, *arguments)
        assert (done.exit_code, said in done.output) == (2, True), done.output
    assert await contents(file) == {"note": ("follow", "ours")}
    missing = await in_a_thread(file.parent / "none.db", "note", "both")
    assert missing.exit_code == 2
    assert not (file.parent / "none.db").exists()
