"""Files of earlier versions."""

import sqlite3
from pathlib import Path

import pytest

from ds_sync.exceptions import ConflictError, CorruptFileError, NotFoundError, StorageFullError
from ds_sync.protocol.messages import ProducerStamp
from ds_sync.protocol.state import StreamState
from ds_sync.server.engines import sqlite
from ds_sync.server.engines.layout import APPLICATION_ID, VERSION, build_state, parse_state
from ds_sync.server.engines.sqlite import SqliteEngine
from ds_sync.testing.engine_contract import append, places_of, read_all
from ds_sync.testing.engine_fork_contract import end, fork

pytestmark = pytest.mark.anyio

A = "a" * 32

VERSION_1 = """
CREATE TABLE log (id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, position INTEGER NOT NULL, running BLOB NOT NULL,
       change TEXT, data BLOB);
INSERT INTO log VALUES(1,1,3,X'8E5A37482322BB1E4B236C42BB6F8E20',
 '{"state":{"path":"s","incarnation":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","content_type":"text/plain"}}',X'6F6E65');
INSERT INTO log VALUES(2,1,6,X'C8B7774CA4AD0A1CE340207F94F7F0AE','{"producer":["p",1,0,"d681734f8c454b90df4d5feea7487445"]}',X'74776F');
INSERT INTO log VALUES(5,4,3,X'89DC3491137EE4740EAFC35163989286',
 '{"state":{"path":"ttl","incarnation":"cccccccccccccccccccccccccccccccc","content_type":"application/json","ttl":60,"deadline":160.0}}',
 X'312C32');
INSERT INTO log VALUES(6,1,11,X'758ED35003B0712C9741A9E5F9ADE553',
 '{"state":{"path":"s","incarnation":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","content_type":"text/plain","closed":true,"stream_seq":"7",
 "closed_by":{"id":"p","epoch":1,"seq":1}},"producer":["p",1,1,"d681734f8c454b90df4d5feea7487445"]}',X'7468726565');
CREATE TABLE place (stream INTEGER, position INTEGER, running BLOB NOT NULL, log INTEGER NOT NULL,
       PRIMARY KEY (stream, position)) WITHOUT ROWID;
INSERT INTO place VALUES(1,3,X'8E5A37482322BB1E4B236C42BB6F8E20',1);
INSERT INTO place VALUES(1,6,X'C8B7774CA4AD0A1CE340207F94F7F0AE',2);
CREATE TABLE producer (stream INTEGER, id TEXT, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, digest BLOB NOT NULL,
       PRIMARY KEY (stream, id)) WITHOUT ROWID;
INSERT INTO producer VALUES(1,'p',1,0,X'D681734F8C454B90DF4D5FEEA7487445');
CREATE TABLE settled (log INTEGER NOT NULL);
INSERT INTO settled VALUES(4);
CREATE TABLE stream (id INTEGER PRIMARY KEY, path TEXT NOT NULL, position INTEGER NOT NULL, running BLOB NOT NULL, state TEXT NOT NULL);
INSERT INTO stream VALUES(1,'s',6,X'C8B7774CA4AD0A1CE340207F94F7F0AE',
 '{"path":"s","incarnation":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","content_type":"text/plain"}');
INSERT INTO stream VALUES(3,'gone',0,X'BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB',
 '{"path":"gone","incarnation":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","content_type":"text/plain","deleted":true}');
"""
"""What the server of version 1 had written when it was killed: half of it settled."""


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "streams.db"
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    return path


def read_version(path: Path) -> int:
    connection = sqlite3.connect(path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    assert isinstance(version, int)
    return version


async def test_a_file_of_version_1_opens_with_all_that_is_in_it_and_takes_forks(old_file: Path) -> None:
    engine = SqliteEngine(old_file)
    assert await read_all(engine, "s") == [b"one", b"two", b"three"]
    state = (await engine.read("s", None, 0)).state
    assert state is not None
    assert (state.place, state.closed, state.stream_seq) == (places_of([b"one", b"two", b"three"], A)[-1], True, "7")
    assert (await append(engine, "s", b"three", producer=ProducerStamp("p", 1, 1))).duplicate
    gone = (await engine.read("gone", None, 0)).state
    assert gone is not None
    assert (gone.deleted, gone.incarnation) == (True, "b" * 32)
    expiring = (await engine.read("ttl", None, 0)).state
    assert expiring is not None
    assert (expiring.ttl, expiring.deadline, expiring.forks, expiring.origin) == (60, 160.0, 0, None)
    await fork(engine, "f", "s")
    await end(engine, "s")
    await engine.aclose()
    assert read_version(old_file) == VERSION
    engine = SqliteEngine(old_file)
    assert await read_all(engine, "f") == [b"one", b"two", b"three"]
    with pytest.raises(ConflictError):
        await fork(engine, "g", "s")
    with pytest.raises(NotFoundError):
        await fork(engine, "g", "gone")
    await engine.aclose()


async def test_a_damaged_file_of_version_1_stays_one(old_file: Path) -> None:
    connection = sqlite3.connect(old_file)
    connection.execute("UPDATE stream SET state = 'nonsense' WHERE id = 1")
    connection.commit()
    connection.close()
    with pytest.raises(CorruptFileError):
        SqliteEngine(old_file)
    assert read_version(old_file) == 1


async def test_a_file_that_can_not_be_marked_for_want_of_space_is_not_called_damaged(
    old_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(connection: sqlite3.Connection) -> None:
        raise StorageFullError("no space is left")

    with monkeypatch.context() as patched:
        patched.setattr(sqlite, "mark_version", refuse)
        with pytest.raises(StorageFullError):
            SqliteEngine(old_file)
    engine = SqliteEngine(old_file)
    assert await read_all(engine, "s") == [b"one", b"two", b"three"]
    await engine.aclose()


def test_a_state_without_forks_is_spelled_as_before() -> None:
    state = StreamState(A, "text/plain", 3, b"h" * 16, ttl=0)
    assert build_state("s", state) == {"path": "s", "incarnation": A, "content_type": "text/plain", "ttl": 0}
    assert parse_state(build_state("s", state), 3, b"h" * 16) == ("s", state)
