"""A server set back to an older copy of its file, which others have added to since: its replicas give it back what it lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import Fleet, copy_database
from verdict import Loss

pytestmark = pytest.mark.kills


def set_back(folder: Path, *, times: int, online: bool, broken: str = "") -> None:
    old = folder / "old.db"
    with Fleet(folder, times, broken=broken) as fleet:
        fleet.start_server()
        names = ["ada", "ben"]
        for name in names:
            fleet.start_replica(name, roam=False)
            fleet.wait_opened(name)
            fleet.ask(name, "edit", count=30)
        fleet.ask_all(names, "connect")
        fleet.ask_all(names, "sync", seconds=30)
        fleet.kill_server()
        copy_database(fleet.server_file, old)
        for number in range(times):
            fleet.start_server()
            for name in names:
                fleet.ask(name, "edit", count=60)
            fleet.ask_all(names, "connect")
            fleet.ask_all(names, "sync", seconds=30)
            if not online:
                fleet.ask_all(names, "disconnect")
            fleet.kill_server()
            copy_database(old, fleet.server_file)
            fleet.start_server()
            new = f"new{number}"
            fleet.start_replica(new, roam=False)
            fleet.wait_opened(new)
            fleet.ask(new, "connect")
            fleet.ask(new, "edit", count=200)  # past the place where the others were
            fleet.ask(new, "sync", seconds=30)
            names.append(new)
            for name in names:
                fleet.ask(name, "edit", count=10)
            fleet.ask_all(names, "connect")
            fleet.ask_all(names, "sync", seconds=60)
            fleet.kill_server()
        fleet.start_server()
        fleet.check_end(once=False)  # two replicas may give back the same at once


@pytest.mark.parametrize("online", [False, True], ids=["come back later", "online all the time"])
@pytest.mark.parametrize("times", [1, 2])
def test_the_server_gets_back_what_its_replicas_have(tmp_path: Path, online: bool, times: int) -> None:
    set_back(tmp_path, times=times, online=online)


def test_replicas_that_give_nothing_back_are_caught(tmp_path: Path) -> None:
    with pytest.raises(Loss, match=r"lost|differ|there again"):
        set_back(tmp_path, times=1, online=False, broken="healing")


def test_replicas_that_were_killed_while_they_healed(tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    with Fleet(tmp_path, 3) as fleet:
        fleet.start_server()
        for name in ("ada", "ben"):
            fleet.start_replica(name, roam=False)
            fleet.wait_opened(name)
        fleet.ask_all(["ada", "ben"], "connect")
        fleet.ask_all(["ada", "ben"], "edit", count=40)
        fleet.ask_all(["ada", "ben"], "sync", seconds=30)
        fleet.kill_server()
        copy_database(fleet.server_file, old)
        fleet.start_server()
        fleet.ask_all(["ada", "ben"], "edit", count=40)
        fleet.ask_all(["ada", "ben"], "sync", seconds=30)
        fleet.kill_server()
        copy_database(old, fleet.server_file)
        fleet.start_server()
        # Each dies at every point of healing in turn, and opens again.
        for method in ("begin_heal", "advance", "end_heal"):
            for statement in (1, 9):
                for name in ("ada", "ben"):
                    fleet.replicas[name].kill()
                    fleet.start_replica(name, die=[method, 1, statement])
                for name in ("ada", "ben"):
                    process = fleet.replicas[name]
                    fleet.wait_opened(name)
                    fleet.linger(process, 0.3)
                    process.kill()
        for name in ("ada", "ben"):
            fleet.start_replica(name)
            fleet.wait_opened(name)
            fleet.check_opened(name)
        fleet.check_end(once=False)
