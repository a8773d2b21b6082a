"""`ds-sync demo`: two people, a browser, one document, and everything that goes wrong. All real, and checked at the end."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ds_sync.cli.demo_javascript import NoJavaScriptError, find_command
from ds_sync.cli.demo_person import DOCUMENT
from ds_sync.cli.processes import Child, ChildError, Server, run_module

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

_SYNC_SECONDS = 30.0
_PEOPLE = ("Ada", "Ben")
_BROWSER = "Cleo"


@click.command()
def demo() -> None:
    """Two people write one list; network, server and a laptop fail; nothing is lost, nothing stands twice.

    Where there is Node.js, a third person joins with the official JavaScript provider. It is fetched from npm, once; if that can't be done
    within 20 s, the story is told without.
    """
    from rich.console import Console

    console = Console(highlight=False)
    session = json.loads(files("ds_sync.cli").joinpath("demo_session.json").read_text("utf-8"))
    with tempfile.TemporaryDirectory(prefix="ds-sync-demo-") as folder:
        story = Story(console, session, Path(folder))
        try:
            complaints = story.tell()
        finally:
            story.close()
    for complaint in complaints:
        click.echo(f"ds-sync demo: {complaint}", err=True)
    sys.exit(1 if complaints else 0)


def check(session: dict[str, Any], texts: dict[str, str]) -> list[str]:
    """Return what is wrong with the texts at the end: not equal, keystrokes lost, keystrokes twice."""
    wrong = [] if len(set(texts.values())) == 1 else ["the texts differ"]
    lines = [line for act in session.values() if isinstance(act, dict) for name, line in act.items() if name in texts]
    for name, text in texts.items():
        expected = sorted(session["title"] + "\n" + "".join(lines))
        if sorted(text) != expected:
            wrong.append(f"{name} has {len(text)} characters, {len(expected)} were typed, or other ones")
        wrong += [f"{name} has {line.strip()!r} {text.count(line)} times" for line in lines if text.count(line) != 1]
    return wrong


class Story:
    """The processes, and what happens to them."""

    def __init__(self, console: Console, session: dict[str, Any], folder: Path) -> None:
        self._console = console
        self._session = session
        self._folder = folder
        self._people: dict[str, Child] = {}
        self._server: Server | None = None

    def tell(self) -> list[str]:
        """Play all acts; return what is wrong at the end. Raises ChildError if a process fails."""
        say = self._console.print
        browser, reason = self._find_browser()
        started = time.monotonic()
        self._server = server = Server(self._folder / "server.db")
        for name in _PEOPLE:
            self._open_laptop(name)
        say(f"[bold]1. Ada and Ben write one list.[/] Each laptop keeps its own copy in a file; they meet on {server.url}.")
        self._ask("Ada", do="type", text=self._session["title"] + "\n")
        if browser is None:
            say(f"   Nobody joins them in JavaScript: {reason}.")
        else:
            command, folder = browser
            page = Child(f"{_BROWSER}'s browser", [*command, f"{server.url}/v1/yjs/default", DOCUMENT], folder)
            self._people[_BROWSER] = page
            say(f"   {_BROWSER} joins them in JavaScript: Yjs with the official provider, unmodified.")
        self._connect(self._people)
        self._sync()
        self._act("together", in_turn=True)
        self._show()

        say("[bold]2. Both lose the network[/] and go on writing, each alone.")
        for name in _PEOPLE:
            self._ask(name, do="disconnect")
        if browser is not None:
            say(f"   {_BROWSER} is online all the while, and writes, too.")
        self._act("offline")
        if browser is not None:
            self._ask(_BROWSER, do="sync", seconds=_SYNC_SECONDS)  # the provider drops what it could not send in time
        self._show()

        say("[bold]3. The network is back, and the server is killed[/] (SIGKILL: no time to save). They go on writing.")
        self._connect(_PEOPLE)
        server.kill()
        if browser is not None:
            say(f"   Not {_BROWSER}: that provider keeps nothing while there is no server.")
        self._act("server down")
        self._show()

        say("[bold]4. Ada's laptop dies too[/] (SIGKILL). What she wrote was in her file when each keystroke returned.")
        before = self._ask("Ada", do="say")["text"]
        self._people.pop("Ada").close()
        self._open_laptop("Ada")
        after = self._ask("Ada", do="say")["text"]
        lost = [] if after == before else [f"Ada's laptop came back with {len(after)} of {len(before)} characters"]
        say(f"   She opens it again, still without a server: {len(after)} of {len(before)} characters are there.")

        say("[bold]5. Everything comes back.[/]")
        server.start()
        self._connect(self._people)
        self._sync()
        self._act("back", in_turn=True)
        texts = {name: self._ask(name, do="say")["text"] for name in self._people}
        self._show()
        wrong = lost + check(self._session, texts)
        if wrong:
            say("[bold red]It did not work.[/]")
            return wrong
        who = "Both" if browser is None else "All three"
        say(f"[bold green]{who} have the same text: all {len(texts['Ada'])} characters that were typed, each exactly once.[/]")
        say(f"It took {time.monotonic() - started:.1f} s.")
        return []

    def close(self) -> None:
        """End all processes."""
        for child in self._people.values():
            child.close()
        if self._server is not None:
            self._server.kill()

    def _open_laptop(self, name: str) -> None:
        self._people[name] = Child(f"{name}'s laptop", run_module("ds_sync.cli.demo_person", str(self._folder / f"{name}.db")))

    def _find_browser(self) -> tuple[tuple[list[str], Path] | None, str]:
        """Return how the browser's part is run, or None and why it can't be."""
        try:
            return find_command(self._console.print), ""
        except NoJavaScriptError as error:
            return None, str(error)

    def _ask(self, name: str, **request: Any) -> dict[str, Any]:
        return self._people[name].ask(request, timeout=_SYNC_SECONDS + 10)

    def _act(self, title: str, *, in_turn: bool = False) -> None:
        """Each types a line. In turn: the other sees it first, or would write into the middle of a line that is still arriving."""
        for name, text in self._session[title].items():
            if name not in self._people:
                continue
            self._ask(name, do="type", text=text)
            if in_turn:
                self._sync()

    def _connect(self, names: Iterable[str]) -> None:
        if self._server is None:
            raise AssertionError("the story begins with the server")
        for name in names:
            self._ask(name, do="connect", url=self._server.url, seconds=_SYNC_SECONDS)

    def _sync(self) -> None:
        """Wait until each has seen the other's: synced() of one proves that the server has it, of the other that it arrived."""
        for name in self._people:
            self._ask(name, do="sync", seconds=_SYNC_SECONDS)
        deadline = time.monotonic() + _SYNC_SECONDS
        while len({self._ask(name, do="say")["text"] for name in self._people}) > 1:
            if time.monotonic() > deadline:
                raise ChildError(f"the laptops did not agree within {_SYNC_SECONDS:g} s")
            time.sleep(0.05)

    def _show(self) -> None:
        from rich.columns import Columns
        from rich.panel import Panel
        from rich.text import Text

        panels = []
        for name in sorted(self._people):
            answer = self._ask(name, do="say")
            waiting = answer.get("unacknowledged")
            note = "in a browser" if waiting is None else f"unacknowledged: {waiting} keystrokes"
            panels.append(Panel(Text(answer["text"].rstrip()), title=name, subtitle=note, width=38))
        self._console.print(Columns(panels))
