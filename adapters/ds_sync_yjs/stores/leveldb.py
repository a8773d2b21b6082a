"""The folder of y-leveldb. LevelDB has no reader in Python that is kept, so Node.js reads, with the y-leveldb that its server used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

from ds_sync.exceptions import SourceError
from ds_sync.sources import SourceOptions
from ds_sync_yjs.stores.update_file import check_whole_update

_PROGRAM: Final = Path(__file__).with_name("leveldb.cjs")


class LeveldbFolder:
    """All documents of a y-leveldb folder. A copy is read: LevelDB writes to whatever it opens."""

    kind = "y-leveldb"
    crdt = "yjs"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._path = path
        node = shutil.which("node")
        if node is None:
            raise SourceError(f"{path} is a LevelDB folder, which Node.js reads: there is no `node` on the PATH")
        _refuse_open_folder(path)
        self._copy = tempfile.TemporaryDirectory(prefix="ds-sync-")
        try:
            shutil.copytree(path, Path(self._copy.name) / "store", ignore=shutil.ignore_patterns("LOCK"))
            # Where the packages are: what was named, or where the command was called.
            modules = str((options.node_modules or Path.cwd()).absolute())
            command = [node, str(_PROGRAM), str(Path(self._copy.name) / "store"), modules]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            self._copy.cleanup()
            raise SourceError(f"{path} can't be read: {error}") from error

    def names(self) -> Sequence[str]:
        return sorted(self._ask({"list": True})["names"])

    def read(self, name: str) -> Sequence[bytes]:
        update = b64decode(self._ask({"read": name})["update"])
        check_whole_update(update)
        return [update]

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            _require_pipe(pipe).close()
        self._process.wait()
        self._copy.cleanup()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        asked, answers = _require_pipe(self._process.stdin), _require_pipe(self._process.stdout)
        try:
            asked.write(json.dumps(question).encode() + b"\n")
            asked.flush()
        except OSError as error:
            raise SourceError(f"{self._path} can't be read: node has ended") from error
        line = answers.readline()
        if not line:
            raise SourceError(f"{self._path} can't be read: node has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SourceError(f"{self._path}: {answer['error']}")
        return answer


def _require_pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise AssertionError("both are pipes")
    return pipe


def _refuse_open_folder(path: Path) -> None:
    """Raise SourceError if a server has the store open: a copy of it would be torn."""
    if os.name != "posix" or not (path / "LOCK").exists():
        return
    import fcntl

    try:
        with (path / "LOCK").open("r+b") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kind of lock that LevelDB takes
    except BlockingIOError as error:
        raise SourceError(f"{path} is open in another process: stop the server, or copy the folder while it stands still") from error
    except OSError:  # ours to read only: whoever could write to it is somebody else
        return


def open_leveldb_folder(path: Path, options: SourceOptions) -> LeveldbFolder | None:
    """Return the store at `path` if it is a folder of LevelDB (`ds_sync.sources.OpenSource`)."""
    return LeveldbFolder(path, options) if (path / "CURRENT").is_file() else None
