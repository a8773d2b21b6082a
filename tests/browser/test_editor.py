"""The page of `ds-sync serve --demo`: two windows and a Python replica write one text, whatever happens to the network and the server."""

import asyncio
import hashlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pycrdt import Text

from ds_sync import Replica
from ds_sync.crdt import Word, load_adapter
from ds_sync.protocol.framing import build_frame
from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
ENTER = "\ue007"

TEXT = "return [...document.querySelectorAll('.cm-line')].map((line) => line.textContent).join('\\n')"
IS_SAVED = "return document.querySelector('#{}').dataset.state === 'good'"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "streams.db", options=("--demo",)) as made:
        yield made


def open_page(window: Any, url: str) -> None:
    window.open(url)
    window.until(IS_SAVED.format("server"))


def text_of(window: Any) -> str:
    """The text, without the names at the cursors."""
    return str(
        window.run(
            "return [...document.querySelectorAll('.cm-line')].map((line) => { const copy = line.cloneNode(true);"
            "for (const caret of copy.querySelectorAll('.cm-ySelectionCaret')) caret.remove(); return copy.textContent }).join('\\n')"
        )
    )


def write_line(window: Any, line: str) -> None:
    window.run("document.querySelector('.cm-content').focus()")
    window.type(f"{line}{ENTER}")


async def write_in_python(file: Path, server: str, page: str, line: str, whole: Callable[[str], bool]) -> str:
    """Insert a line at the beginning, and return the text when it is `whole`."""
    async with Replica(file, server=server, service="demo") as replica:
        document = await replica.open(page)
        await document.synced()
        text = document.doc.get("text", type=Text)
        changed = asyncio.Event()
        watching = text.observe(lambda _event: changed.set())
        text.insert(0, f"{line}\n")
        async with asyncio.timeout(20):
            await document.synced()
            while not whole(str(text)):
                changed.clear()
                await changed.wait()
        text.unobserve(watching)
        return str(text)


def test_all_that_two_windows_and_a_replica_write_arrives_over_a_kill_of_the_server(
    server: ServerProcess, open_window: Callable[[], Any], tmp_path: Path
) -> None:
    first, second = open_window(), open_window()
    first.open(f"{server.url}/demo")
    first.until("document.querySelector('#begin')?.click(); return location.hash.length > 5 && !document.querySelector('#page').hidden")
    first.until(IS_SAVED.format("server"))
    address = first.run("return location.href")
    page = address.partition("#")[2]
    open_page(second, address)

    write_line(first, "one: hello")
    second.until(f"{TEXT}.includes('one: hello')")
    first.until(IS_SAVED.format("server"))

    server.kill()
    first.until("return document.querySelector('#server').textContent.includes('no server')")
    second.until("return document.querySelector('#server').textContent.includes('no server')")
    write_line(first, "one: nobody answers")
    write_line(second, "two: me neither")
    first.until(IS_SAVED.format("device"))
    second.until(IS_SAVED.format("device"))
    assert "two:" not in text_of(first)
    assert not first.run(IS_SAVED.format("server"))
    server.start()

    expected = {"one: hello", "one: nobody answers", "two: me neither", "three: from Python"}
    written = asyncio.run(
        write_in_python(
            tmp_path / "three.db", server.url, page, "three: from Python", lambda text: set(text.split("\n")) - {""} == expected
        )
    )
    for window in (first, second):
        window.until(f"{TEXT}.includes('three: from Python')")
        window.until(IS_SAVED.format("server"))
        window.until(IS_SAVED.format("device"))
        assert text_of(window) == written
    assert sorted(written.split("\n")) == sorted([*expected, ""]), "each line once"

    third = open_window()
    open_page(third, address)
    assert text_of(third) == written


def test_what_is_written_offline_survives_a_reload_and_is_not_called_saved_on_the_server(
    server: ServerProcess, open_window: Callable[[], Any]
) -> None:
    first, second = open_window(), open_window()
    address = f"{server.url}/demo#a-page"
    open_page(first, address)
    open_page(second, address)
    first.run("document.querySelector('#offline').click()")
    first.until("return document.querySelector('#server').textContent === 'offline'")
    write_line(first, "written offline")
    first.until(IS_SAVED.format("device"))
    assert first.text("#server") == "offline"
    assert text_of(second) == ""
    server.kill()
    server.start()
    second.until(IS_SAVED.format("server"))
    first.reload()
    first.until(f"{TEXT}.includes('written offline')")
    first.until(IS_SAVED.format("server"))
    second.until(f"{TEXT}.includes('written offline')")
    assert text_of(second) == "written offline\n"


def test_who_is_there_is_shown_and_can_do_no_harm(server: ServerProcess, open_window: Callable[[], Any]) -> None:
    first, second = open_window(), open_window()
    address = f"{server.url}/demo#people"
    for window, name in ((first, "Ann"), (second, "<b>Ben</b>")):
        open_page(window, address)
        window.run("const me = document.querySelector('#me'); me.value = arguments[0]; me.dispatchEvent(new Event('input'))", name)
    write_line(second, "Meet at the lake on Sunday.")
    write_line(second, "Bring coffee.")
    first.until("return document.querySelector('.cm-ySelectionInfo')?.textContent === '<b>Ben</b>'")
    assert first.text("#others") == "<b>Ben</b>"
    assert second.text("#others") == "Ann"
    assert first.run("return document.querySelectorAll('b').length") == 0
    (row,) = httpx.get(f"{server.url}/inspect/documents").json()["documents"]
    assert (row["service"], row["name"], row["sockets"], row["people"]) == ("demo", "people", 2, 2)
    if (pictures := os.environ.get("DS_SYNC_PICTURES")) is not None:
        second.run("const me = document.querySelector('#me'); me.value = 'Ben'; me.dispatchEvent(new Event('input'))")
        write_line(first, "Who has a tent?")
        first.until("return document.querySelector('.cm-ySelectionInfo')?.textContent === 'Ben'")
        first.until(IS_SAVED.format("server"))
        first.screenshot(Path(pictures) / "editor.png")
    second.open("about:blank")
    first.until("return document.querySelector('#others').textContent === ''")


NONSENSE: list[Any] = [
    5,
    "x",
    [],
    {"user": 7, "cursor": {"anchor": 5, "head": "x"}},
    {"user": {"name": "x" * 5000, "color": "red;background:url(http://127.0.0.1:9/)", "colorLight": "url(http://127.0.0.1:9/)"}},
    {"user": {"name": {"a": []}}, "cursor": {"anchor": {"type": {"client": 1}, "item": {"clock": "x"}}, "head": {}}},
    {"cursor": {"anchor": {"type": None, "tname": "text", "item": {"client": 1, "clock": 10**9}, "assoc": 0}, "head": None}},
]


def test_nonsense_about_who_is_there_stops_nothing(server: ServerProcess, open_window: Callable[[], Any]) -> None:
    window = open_window()
    open_page(window, f"{server.url}/demo#nonsense")
    write_line(window, "before")
    window.until(IS_SAVED.format("server"))
    words = load_adapter("yjs").presence  # type: ignore[attr-defined]
    url = f"{server.url}/v1/yjs/demo/docs/nonsense?awareness=default"
    httpx.post(url, content=build_frame(words.encode([Word(70 + n, 1, state) for n, state in enumerate(NONSENSE)]))).raise_for_status()
    window.until("return document.querySelectorAll('#others span').length === arguments[0]", len(NONSENSE))
    good = {"user": {"name": "Eve", "color": "#123456"}, "cursor": {key: {"tname": "text", "assoc": 0} for key in ("anchor", "head")}}
    httpx.post(url, content=build_frame(words.encode([Word(99, 1, good)]))).raise_for_status()
    window.until("return document.querySelector('.cm-ySelectionInfo')?.textContent === 'Eve'", seconds=10)
    write_line(window, "after")
    window.until(IS_SAVED.format("server"))
    assert text_of(window) == "before\nafter\n"
    assert "url(" not in window.run("return document.body.innerHTML")


def test_saved_on_the_server_is_said_only_of_what_is(server: ServerProcess, open_window: Callable[[], Any]) -> None:
    window = open_window()
    open_page(window, f"{server.url}/demo#honest")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        write_line(window, "into a connection that is open and silent")
        window.until(IS_SAVED.format("device"))
        time.sleep(0.5)
        assert "on its way" in window.text("#server")
    finally:
        os.kill(server.pid, signal.SIGCONT)
    window.until(IS_SAVED.format("server"))
    server.kill()
    server.start()
    other = open_window()
    open_page(other, f"{server.url}/demo#honest")
    assert text_of(other) == "into a connection that is open and silent\n"


def test_the_page_is_served_only_when_asked_for(server: ServerProcess) -> None:
    with ServerProcess() as plain:
        assert httpx.get(f"{plain.url}/demo").status_code == 404
    assert httpx.get(f"{server.url}/demo").headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert httpx.get(f"{server.url}/demo/licenses.txt").text.count("(MIT)") > 15
    assert httpx.get(f"{server.url}/demo/nothing").status_code == 404
    assert httpx.post(f"{server.url}/demo").status_code == 405


def test_the_bundle_is_built_from_the_sources_that_are_here() -> None:
    first, _, _ = (ROOT / "ds_sync" / "server" / "pages" / "web" / "demo.js").read_text("utf-8").partition("\n")
    sources = re.search(r"const SOURCES = \[(.*)\]", (ROOT / "examples" / "editor" / "build.js").read_text("utf-8"))
    assert sources is not None
    digest = hashlib.sha256()
    for name in re.findall(r'"([^"]+)"', sources[1]):
        digest.update((ROOT / "examples" / "editor" / name).read_bytes())
    assert f"sha256 {digest.hexdigest()}." in first, "npm ci && npm run build, in examples/editor"
