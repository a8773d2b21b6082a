"""Files that are copied, and whose copies go on: nobody may lose anything, whatever the copies believe about each other's numbers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fleet import Fleet
from verdict import Loss

pytestmark = pytest.mark.kills


@pytest.mark.parametrize("seed", range(2))
def test_the_copies_of_a_replica_s_file_all_go_on_for_generations(tmp_path: Path, seed: int) -> None:
    with Fleet(tmp_path, seed) as fleet:
        rng = fleet.rng
        fleet.start_server()
        fleet.start_replica("ada")
        fleet.wait_opened("ada")
        for generation in range(3):
            # The server takes a batch and dies before it says so: then there is one on its way in the file.
            fleet.kill_server()
            fleet.start_server(["answer", rng.randint(1, 5), 0] if generation % 2 else None)
            time.sleep(rng.uniform(0.1, 0.5))
            parent = rng.choice(list(fleet.replicas))
            copies = [f"live{generation}", f"dead{generation}"]
            fleet.copy_replica(parent, copies[0])
            time.sleep(rng.uniform(0, 0.1))
            fleet.replicas[parent].kill()
            fleet.copy_replica(parent, copies[1])
            for name in (parent, *copies):
                fleet.start_replica(name)
            for name in (parent, *copies):
                fleet.wait_opened(name)
                fleet.check_opened(name)
            time.sleep(rng.uniform(0.1, 0.5))
        fleet.check_end(once=False)  # two copies may both give the server what it never had


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
def test_a_batch_on_its_way_when_the_file_was_copied_stands_once(tmp_path: Path, committed: bool) -> None:
    with Fleet(tmp_path, 1) as fleet:
        fleet.start_server()
        fleet.start_replica("ada", roam=False)
        fleet.wait_opened("ada")
        fleet.ask("ada", "connect")
        fleet.ask("ada", "edit", count=20)
        fleet.ask("ada", "sync", seconds=30)
        fleet.kill_server()
        fleet.start_server(["answer", 1, 0] if committed else ["write_commit", 1, 0])
        fleet.ask("ada", "edit", count=20)
        server = fleet.server
        assert server is not None
        fleet.wait(lambda: server.dead, server)
        fleet.replicas["ada"].kill()
        fleet.copy_replica("ada", "ben")
        for name in ("ada", "ben"):
            fleet.start_replica(name, roam=False)
            fleet.wait_opened(name)
            fleet.check_opened(name)
            fleet.ask(name, "edit", count=20)
        fleet.start_server()
        fleet.ask_all(["ada", "ben"], "connect")
        fleet.check_end()


def let_copies_begin_with_one_number(folder: Path, broken: str = "") -> None:
    with Fleet(folder, 2, broken=broken) as fleet:
        fleet.start_server()
        fleet.start_replica("ada", roam=False)
        fleet.wait_opened("ada")
        fleet.ask("ada", "edit", count=20)
        fleet.replicas["ada"].kill()
        names = ["ada", "ben", "cai", "dan"]
        for name in names[1:]:
            fleet.copy_replica("ada", name)
        for name in names:
            fleet.start_replica(name, roam=False)
            fleet.wait_opened(name)
            fleet.check_opened(name)
        for name in names:  # one after the other: each finds its number taken, by other bytes
            fleet.ask(name, "edit", count=20)
            fleet.ask(name, "connect")
            fleet.ask(name, "sync", seconds=30)
            fleet.ask(name, "disconnect")
        fleet.check_end()


def test_copies_that_begin_with_the_same_number_all_get_through(tmp_path: Path) -> None:
    let_copies_begin_with_one_number(tmp_path)


def test_a_replica_that_believes_a_204_is_caught(tmp_path: Path) -> None:
    with pytest.raises(Loss, match=r"lost|differ|there again"):
        let_copies_begin_with_one_number(tmp_path, "doubt")
