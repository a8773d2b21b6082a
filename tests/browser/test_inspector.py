"""`/inspect` in a browser: it shows what there is, and nothing that strangers wrote becomes part of the page."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from pycrdt import Doc, Map, Text

from ds_sync.crdt import Word, load_adapter
from ds_sync.protocol.framing import build_frame
from ds_sync.testing.server_process import ServerProcess

pytestmark = pytest.mark.browser

ATTACK = '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>\'"</td></table><style>*{display:none}</style>'
BACKWARDS = "\N{ARABIC LETTER ALEF}\N{ARABIC LETTER BEH} txt.exe"
TOKEN = "sesame, open for me"


def write_document(server: ServerProcess, name: str, text: str, people: list[Word]) -> None:
    url = f"{server.url}/v1/yjs/notes/docs/{quote(name, safe='/')}"
    doc: Doc[Any] = Doc()
    doc["body"] = Text(text)
    doc["facts"] = Map({ATTACK: text})
    httpx.put(url).raise_for_status()
    httpx.post(url, content=build_frame(doc.get_update()), headers={"content-type": "application/octet-stream"}).raise_for_status()
    words = load_adapter("yjs").presence  # type: ignore[attr-defined]
    httpx.post(f"{url}?awareness=default", content=build_frame(words.encode(people))).raise_for_status()


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as made:
        yield made


def open_row(window: Any, text: str) -> None:
    window.until(
        "const row = [...document.querySelectorAll('#list tbody tr')].find((row) => row.textContent.includes(arguments[0]));"
        "row?.click(); return Boolean(row)",
        text,
    )


def test_what_strangers_wrote_is_shown_and_does_nothing(server: ServerProcess, open_window: Callable[[], Any]) -> None:
    write_document(server, ATTACK.replace("/", "∕"), ATTACK * 3, [Word(7, 1, {"user": {"name": ATTACK}})])
    write_document(server, BACKWARDS, "x", [])
    stream = f"{server.url}/v1/stream/{quote(ATTACK, safe='')}"
    httpx.put(stream, content=ATTACK.encode(), headers={"content-type": f"text/plain; {ATTACK}"}).raise_for_status()
    window = open_window()
    window.open(f"{server.url}/inspect")
    open_row(window, "<script>")
    window.until("return document.querySelectorAll('#text pre').length === 2 && document.querySelector('#people pre')")
    assert window.text("#text pre") == ATTACK * 3
    assert ATTACK in window.run("return JSON.parse(document.querySelector('#people pre').textContent.slice(3)).user.name")
    assert BACKWARDS in window.text("#list tbody")
    window.run("location.hash = '#streams'")
    open_row(window, f"text/plain; {ATTACK}")
    window.until("return document.querySelector('#records td.mono')")
    assert window.text("#records td.mono") == ATTACK
    assert window.text("#detail h2") == ATTACK
    assert window.run("return window.hacked ?? null") is None
    assert window.run("return document.querySelectorAll('img, style, script:not([src])').length") == 0
    assert window.run("return getComputedStyle(document.querySelector('#records')).display") == "table"


def test_markup_is_refused_by_the_browser_itself(server: ServerProcess, open_window: Callable[[], Any]) -> None:
    window = open_window()
    window.open(f"{server.url}/inspect")
    refused = window.run("try { document.body.innerHTML = '<b>x</b>'; return 'taken' } catch (error) { return error.name }")
    assert refused == "TypeError"
    window.run(
        "const script = document.createElement('script');"
        "try { script.textContent = 'window.hacked=1' } catch {} document.body.append(script)"
    )
    assert window.run("return window.hacked ?? null") is None


def test_documents_and_streams_are_shown(server: ServerProcess, open_window: Callable[[], Any]) -> None:
    text = "Things to bring:\n- tent\n- stove\n- coffee, and the pot\n"
    write_document(server, "trip/list", text, [Word(11, 1, {"user": {"name": "Ann"}}), Word(12, 1, {"user": {"name": "Ben"}})])
    write_document(server, "trip/route", "To the lake.", [])
    with httpx.Client(base_url=f"{server.url}/v1/stream") as http:
        http.put("/readings", headers={"content-type": "application/json"}).raise_for_status()
        for number in range(60):
            http.post("/readings", json={"reading": number, "note": "x" * 300}).raise_for_status()
    window = open_window()
    window.open(f"{server.url}/inspect")
    open_row(window, "trip/list")
    window.until("return document.querySelectorAll('#people pre').length === 2")
    assert window.text("#text pre") == text
    cells = window.run("return [...document.querySelectorAll('#list tbody tr')[0].cells].map((cell) => cell.textContent)")
    assert cells[:2] == ["trip/list", "notes"]
    assert cells[3:7] == ["1", "–", "0", "2"]
    if (pictures := os.environ.get("DS_SYNC_PICTURES")) is not None:
        window.screenshot(Path(pictures) / "inspector.png")
    window.run("document.querySelector('#find').value = 'reading'; location.hash = '#streams'")
    open_row(window, "readings")
    window.until("return !document.querySelector('#more-records').hidden")
    window.run("document.querySelector('#more-records').click()")
    window.until("return document.querySelectorAll('#records tbody tr').length === 60")
    last = window.run("return [...document.querySelectorAll('#records td.mono')].at(-1).textContent")
    assert '"reading":59' in last.replace(" ", "")


def test_a_token_is_asked_for_and_kept_for_the_tab(open_window: Callable[[], Any]) -> None:
    with ServerProcess(options=("--inspect-token", TOKEN)) as server:
        write_document(server, "secret", "s", [])
        window = open_window()
        window.open(f"{server.url}/inspect")
        window.until("return !document.querySelector('#token').hidden")
        assert "secret" not in window.text("#list")
        window.run("document.querySelector('#token input').value = arguments[0]; document.querySelector('#token button').click()", TOKEN)
        window.until("return document.querySelector('#list tbody').textContent.includes('secret')")
        window.reload()
        window.until("return document.querySelector('#list tbody').textContent.includes('secret')")
        assert window.run("return location.href") == f"{server.url}/inspect"
