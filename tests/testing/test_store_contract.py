"""The store kit catches stores that break its laws: each subject here breaks one."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ds_sync.testing.store_contract import LocalStoreContract

PREAMBLE = """
import pytest
from dataclasses import replace
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.offsets import BEGINNING
from ds_sync.replica.records import StoredContent
from ds_sync.replica.store import LocalStore
from ds_sync.testing.store_contract import LocalStoreContract

"""

SUITE = """

class TestBroken(LocalStoreContract):
    @pytest.fixture
    def open_store(self):
        return Store
"""

BROKEN = {
    "returns from enqueue before the commit": (
        """
        class Store(LocalStore):
            def enqueue(self, document, update, at):
                if not self._connection.in_transaction:
                    self._connection.execute("BEGIN")
                super().enqueue(document, update, at)
        """,
        "what_enqueue_returned_from_survives_a_kill",
    ),
    "settles one row too many": (
        """
        class Store(LocalStore):
            def settle(self, document, batch):
                super().settle(document, replace(batch, through=batch.through + 1))
        """,
        "settle_removes_the_rows_of_the_batch_and_no_others",
    ),
    "settles the whole outbox when the batch was seen": (
        """
        class Store(LocalStore):
            def advance(self, document, updates, partial, next_offset, **more):
                if more.get("settled"):
                    more["settled"] = replace(more["settled"], through=self.last_row(document))
                super().advance(document, updates, partial, next_offset, **more)
        """,
        "advance_stores_all_of_it",
    ),
    "keeps the settled rows and not the payload": (
        """
        class Store(LocalStore):
            def _settle(self, connection, document, batch):
                rows = [data for _, data in self.outbox_rows(document, after=0, limit=batch.edits)]
                super()._settle(connection, document, replace(batch, payload=b" ".join(rows)))
        """,
        "healing_batch_says_beyond_its_rows",
    ),
    "drops what compaction folded from the outbox": (
        """
        class Store(LocalStore):
            def compact(self, document, snapshot, *, through):
                super().compact(document, snapshot, through=through)
                with self._transaction() as connection:
                    connection.execute("DELETE FROM outbox WHERE document = ?", (document,))
        """,
        "compact_loses_nothing_and_keeps_the_outbox",
    ),
    "compacts edits that came after the snapshot": (
        """
        class Store(LocalStore):
            def compact(self, document, snapshot, *, through):
                super().compact(document, snapshot, through=self.last_row(document))
        """,
        "edit_made_while_the_snapshot_was_taken",
    ),
    "commits the checkpoint before the data": (
        """
        class Store(LocalStore):
            def advance(self, document, updates, partial, next_offset, **more):
                super().advance(document, [], partial, next_offset, incarnation=more.pop("incarnation", None))
                super().advance(document, updates, partial, next_offset, **more)
        """,
        "advance_that_fails_changes_nothing",
    ),
    "commits the settled batch before the checkpoint": (
        """
        class Store(LocalStore):
            def advance(self, document, updates, partial, next_offset, *, settled=None, **more):
                if settled is not None:
                    self.settle(document, settled)
                super().advance(document, updates, partial, next_offset, **more)
        """,
        "advance_that_fails_changes_nothing",
    ),
    "forgets the cut frame": (
        """
        class Store(LocalStore):
            def advance(self, document, updates, partial, next_offset, **more):
                super().advance(document, updates, b"", next_offset, **more)
        """,
        "advance_stores_all_of_it",
    ),
    "seals without the stamp": (
        """
        class Store(LocalStore):
            def seal(self, document, batch, **more):
                super().seal(document, replace(batch, stamp=ProducerStamp(batch.stamp.id, 0, 0)), **more)
        """,
        "sealed_batch_never_changes",
    ),
    "gives the number of a sealed batch again": (
        """
        class Store(LocalStore):
            def seal(self, document, batch, **more):
                super().seal(document, batch, **more)
                with self._transaction() as connection:
                    connection.execute("UPDATE documents SET producer_seq = ? WHERE id = ?", (batch.stamp.seq, document))
        """,
        "seal_puts_the_new_batch_in_place",
    ),
    "drops the old batch before the new one is stored": (
        """
        class Store(LocalStore):
            def seal(self, document, batch, **more):
                with self._transaction() as connection:
                    connection.execute("DELETE FROM batches WHERE document = ?", (document,))
                super().seal(document, batch, **more)
        """,
        "seal_that_fails_leaves_the_old_batch",
    ),
    "sends row ids round again after reopening": (
        """
        class Store(LocalStore):
            def _settle(self, connection, document, batch):
                super()._settle(connection, document, batch)
                connection.execute("UPDATE documents SET left_through = 0 WHERE id = ?", (document,))
        """,
        "no_row_id_is_given_twice",
    ),
    "forgets the log once there is a snapshot": (
        """
        class Store(LocalStore):
            def load(self, document):
                content = super().load(document)
                return StoredContent(content.snapshot, [] if content.snapshot else content.updates, content.loose)
        """,
        "compact_loses_nothing",
    ),
    "drops the sealed batch when healing begins": (
        """
        class Store(LocalStore):
            def begin_heal(self, document, *, incarnation):
                super().begin_heal(document, incarnation=incarnation)
                with self._transaction() as connection:
                    connection.execute("DELETE FROM batches WHERE document = ?", (document,))
        """,
        "healing_forgets_the_stream_and_keeps_everything_else",
    ),
    "ends healing for rows that came later too": (
        """
        class Store(LocalStore):
            def end_heal(self, document, through, version):
                super().end_heal(document, self.last_row(document), version)
        """,
        "end_of_healing_settles_the_rows_the_stream_has",
    ),
    "compacts the logs of all documents": (
        """
        class Store(LocalStore):
            def compact(self, document, snapshot, *, through):
                super().compact(document, snapshot, through=through)
                with self._transaction() as connection:
                    connection.execute("DELETE FROM log")
        """,
        "document_never_sees_another",
    ),
    "shows what other documents quarantined": (
        """
        class Store(LocalStore):
            def quarantined(self, document):
                return [bad for record in self.documents() for bad in super(Store, self).quarantined(record.id)]
        """,
        "document_never_sees_another",
    ),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All subjects in one run of pytest, each against the law it breaks: starting it costs more than the tests."""
    folder: Path = tmp_path_factory.mktemp("broken")
    chosen: set[str] = set()
    names = [name for name in vars(LocalStoreContract) if name.startswith("test_")]
    for number, (source, law) in enumerate(BROKEN.values()):
        file = folder / f"test_subject{number}.py"
        file.write_text(PREAMBLE + textwrap.dedent(source) + SUITE)
        chosen |= {f"{file}::TestBroken::{name}" for name in names if law in name}
    sound = folder / "test_sound.py"
    sound.write_text(PREAMBLE + "Store = LocalStore" + SUITE)
    chosen |= {f"{sound}::TestBroken::{name}" for name in names if any(law in name for _, law in BROKEN.values())}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-rfE", "--tb=no"]
    return subprocess.run([*command, *sorted(chosen)], capture_output=True, text=True, cwd=folder, check=False).stdout


@pytest.mark.parametrize("name", BROKEN)
def test_the_kit_catches_a_store_that(name: str, report: str) -> None:
    number = list(BROKEN).index(name)
    failures = [line for line in report.splitlines() if line.startswith(f"FAILED test_subject{number}.py")]
    assert any(BROKEN[name][1] in line for line in failures), report


def test_the_kit_passes_the_sound_store(report: str) -> None:
    assert "passed" in report
    assert not [line for line in report.splitlines() if "test_sound.py" in line], report
