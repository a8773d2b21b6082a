"""examples/notebook.ipynb in a real Jupyter kernel: cells with `await`, on the kernel's own event loop."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Text

from ds_sync import Replica
from ds_sync.testing.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
CELLS = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]

DRIVER = """
import json, sys
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel()
try:
    for line in sys.stdin:
        shown = []
        def hear(message):
            content = message["content"]
            if message["msg_type"] == "stream":
                shown.append(content["text"])
            elif message["msg_type"] == "execute_result":
                shown.append(content["data"]["text/plain"])
        reply = client.execute_interactive(json.loads(line), output_hook=hear, timeout=60)["content"]
        print(json.dumps([reply["status"], "".join(shown), "\\n".join(reply.get("traceback", []))]), flush=True)
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""
"""A process of its own: pytest makes errors of the warnings of others."""


class Kernel:
    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def start(self, cell: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(cell) + "\n")
        self.process.stdin.flush()

    def finish(self) -> str:
        """Return what the cell showed."""
        assert self.process.stdout is not None
        status, shown, trace = json.loads(self.process.stdout.readline())
        assert status == "ok", trace
        return str(shown)

    def run(self, cell: str) -> str:
        self.start(cell)
        return self.finish()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    made = Kernel(tmp_path)
    yield made
    made.process.communicate(timeout=30)


async def write_there(file: Path, server: str, words: str) -> str:
    async with Replica(file, server=server, service="demo") as replica:
        page = await replica.open("lake")
        await page.synced()
        text: Any = page.doc.get("text", type=Text)
        text += words
        async with asyncio.timeout(20):
            await page.synced()
        return str(text)


def test_the_notebook_runs_in_a_kernel_and_hears_of_others(kernel: Kernel, tmp_path: Path) -> None:
    opened, edit, connect, watch, wait, close = CELLS
    with ServerProcess() as server:
        assert kernel.run(opened) == ""
        assert kernel.run(edit) == "1"
        assert "http://127.0.0.1:4437" in connect
        assert kernel.run(connect.replace("http://127.0.0.1:4437", server.url)) == "0"
        kernel.run(watch)
        kernel.start(wait)
        both = asyncio.run(write_there(tmp_path / "other.db", server.url, "from elsewhere\n"))
        assert both == "from the notebook\nfrom elsewhere\n"
        assert kernel.finish() == f"{both}\n"
        assert kernel.run(close) == ""


def test_the_guide_quotes_the_notebook() -> None:
    guide = (ROOT / "docs" / "how-to" / "use-in-a-notebook.md").read_text("utf-8")
    assert [block.rstrip("\n") for block in re.findall(r"^```python\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)] == CELLS
