"""A headless Chromium, driven over the WebDriver protocol (https://www.w3.org/TR/webdriver2/)."""

import base64
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ds_sync.cli.ports import pick_port


class Window:
    """One browser with a profile of its own."""

    def __init__(self, driver: str) -> None:
        self._http = httpx.Client(base_url=driver, timeout=60)
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=900,700"]
        options = {"args": arguments, "binary": shutil.which("chromium")}
        answer = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self._session = f"/session/{answer['sessionId']}"

    def open(self, url: str) -> None:
        self._ask("POST", f"{self._session}/url", {"url": url})

    def reload(self) -> None:
        self._ask("POST", f"{self._session}/refresh", {})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript; `return` gives what it returns."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def until(self, script: str, *arguments: Any, seconds: float = 30) -> Any:
        """Wait until the script returns something true; return that."""
        end = time.monotonic() + seconds
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < end, f"{script!r} stays false; the page says: {self.text('body')[:500]!r}"
            time.sleep(0.05)
        return found

    def type(self, text: str) -> None:
        """Press the keys for `text`, one after the other, wherever the focus is."""
        strokes = [{"type": kind, "value": character} for character in text for kind in ("keyDown", "keyUp")]
        self._ask("POST", f"{self._session}/actions", {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})

    def set_offline(self, offline: bool) -> None:
        conditions = {"offline": offline, "latency": 0, "download_throughput": -1, "upload_throughput": -1}
        self._ask("POST", f"{self._session}/chromium/network_conditions", {"network_conditions": conditions})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("GET", f"{self._session}/screenshot")))

    def close(self) -> None:
        self._ask("DELETE", self._session)
        self._http.close()

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, path, json=body)
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value


@pytest.fixture(scope="session")
def driver() -> Iterator[str]:
    program = shutil.which("chromedriver")
    assert program is not None, "chromedriver is not installed; deselect with -m 'not browser'"
    port = pick_port()
    process = subprocess.Popen([program, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                httpx.get(f"{url}/status")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(10)


@pytest.fixture
def open_window(driver: str) -> Iterator[Callable[[], Window]]:
    windows: list[Window] = []

    def open_one() -> Window:
        windows.append(Window(driver))
        return windows[-1]

    yield open_one
    for window in windows:
        window.close()
