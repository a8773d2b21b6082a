"""examples/ai_tokens in a browser: reload, no network, a second viewer, a killed worker, a killed server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ds_sync.cli.ports import pick_port

pytestmark = pytest.mark.browser

EXAMPLE = Path(__file__).parents[2] / "examples" / "ai_tokens"
ANSWER = "You asked: why? " + "".join(f"Here is thought number {number}. " for number in range(1, 13)) + " "


class Chat:
    def __init__(self, folder: Path) -> None:
        self.port = pick_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.start()

    def start(self) -> None:
        command = [sys.executable, str(EXAMPLE / "app.py"), str(self.port), str(self._folder / "answers.db")]
        self.process = subprocess.Popen(command, start_new_session=True)
        for _ in range(400):
            try:
                httpx.get(self.url)
                return
            except httpx.TransportError:
                assert self.process.poll() is None
                time.sleep(0.05)
        raise AssertionError("the example did not start")

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Chat]:
    made = Chat(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def workers(url: str) -> list[int]:
    """Return the processes that write into a stream of this server."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(part.endswith(b"worker.py") for part in command) and any(part.startswith(url.encode()) for part in command):
                found.append(int(folder.name))
    return found


def ask(window: Any, chat: Chat) -> None:
    window.open(chat.url)
    window.run("document.querySelector('input').value = 'why?'; document.querySelector('button').click()")
    window.until("return document.querySelector('#answer').textContent.length > 20")


def test_an_answer_survives_reload_no_network_and_the_death_of_its_writer(
    chat: Chat, open_window: Callable[[], Any], tmp_path: Path
) -> None:
    first, second = open_window(), open_window()
    ask(first, chat)
    address = first.run("return location.href")
    assert "#/v1/stream/answers/" in address
    first.reload()
    kept = first.text("#answer")
    assert ANSWER.startswith(kept), "a reload asks for the rest only"
    second.open(address)
    (writer,) = workers(chat.url)
    os.kill(writer, signal.SIGKILL)
    first.set_offline(True)
    second.until("return document.querySelector('#answer').textContent.includes('number 4')")
    first.set_offline(False)
    for window in (first, second):
        window.until("return document.querySelector('#state').textContent === 'complete'")
        assert window.text("#answer") == ANSWER
    if (pictures := os.environ.get("DS_SYNC_PICTURES")) is not None:
        first.screenshot(Path(pictures) / "ai_tokens.png")
    third = open_window()
    third.open(address)
    third.until("return document.querySelector('#state').textContent === 'complete'")
    assert third.text("#answer") == ANSWER


def require_whole(stream: str) -> None:
    messages = httpx.get(f"{stream}?offset=-1").json()
    assert [message["number"] for message in messages] == list(range(len(messages)))
    assert "".join(message["token"] for message in messages) == ANSWER


def test_no_token_is_doubled_or_lost_however_often_the_writer_is_killed(chat: Chat) -> None:
    stream = chat.url + httpx.post(f"{chat.url}/ask", content=b'{"question": "why?"}').json()["stream"]
    killed = 0
    for _ in range(400):
        for process in workers(chat.url):
            if killed < 5 and httpx.get(f"{stream}?offset=-1").text.count("token") > 3 * killed:
                os.kill(process, signal.SIGKILL)
                killed += 1
        if httpx.head(stream).headers.get("stream-closed") == "true":
            break
        time.sleep(0.02)
    require_whole(stream)
    assert killed == 5


def test_an_answer_is_finished_although_the_application_was_killed(chat: Chat) -> None:
    stream = chat.url + httpx.post(f"{chat.url}/ask", content=b'{"question": "why?"}').json()["stream"]
    for tokens in (3, 8):
        for _ in range(400):
            if httpx.get(f"{stream}?offset=-1").text.count("token") >= tokens:
                break
            time.sleep(0.02)
        chat.stop()  # with its worker
        chat.start()
    for _ in range(400):
        if httpx.head(stream).headers.get("stream-closed") == "true":
            break
        time.sleep(0.02)
    require_whole(stream)
