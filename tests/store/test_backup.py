from __future__ import annotations

import sqlite3
import stat
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from proxy.errors import StoreError
from proxy.store import backup
from proxy.store.backup import back_up
from proxy.store.database import Database
from proxy.store.ledger import record
from tests.running import wait_until
from tests.store.samples import rollups, settlement, settlements, sums_of_events


def ids(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as copy:
        assert rollups(copy) == sums_of_events(copy)
        return [event_id for (event_id,) in copy.execute("SELECT id FROM events ORDER BY seq")]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith("tollgate.db")}


def test_a_backup_is_one_file_of_ours_alone_with_all_that_was_committed(database: Database, tmp_path: Path) -> None:
    with database.transaction() as connection:
        record(connection, settlements(3))
    told: list[tuple[int, int]] = []
    with closing(database.connect()):  # as a server that runs: the newest commits stand in the log alone
        size = back_up(database, tmp_path / "copy.db", progress=lambda left, total: told.append((left, total)))
    assert ids(tmp_path / "copy.db") == [one.id for one in settlements(3)]
    assert files(tmp_path) == {"copy.db"}
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert size == (tmp_path / "copy.db").stat().st_size
    assert told[-1][0] == 0


def test_writers_go_on_meanwhile_and_cannot_keep_a_backup_from_its_end(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_STEP_PAGES", 1)
    with database.transaction() as connection:
        record(connection, settlements(2_000))
    stopping, written = threading.Event(), []

    def write() -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            with database.transaction() as connection:
                record(connection, [settlement(f"new_{number}")])
            written.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: len(written) > 3)
    before = len(written)
    during: list[int] = []

    def slowly(left: int, total: int) -> None:
        """A step, and then at least one commit of the other."""
        seen = len(written)
        if len(during) < 20:
            wait_until(lambda: len(written) > seen)
        during.append(len(written))

    try:
        back_up(database, tmp_path / "copy.db", progress=slowly)
    finally:
        stopping.set()
        writer.join()
    found = ids(tmp_path / "copy.db")
    assert found[:2_000] == [one.id for one in settlements(2_000)]
    assert before <= len(found) - 2_000 <= during[0] + 1, "as it was when the backup began, and not later"
    assert during[-1] >= before + 20


def test_a_file_that_exists_is_replaced_only_on_demand(database: Database, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(StoreError, match="exists already"):
        back_up(database, target)
    assert target.read_text() == "precious"
    back_up(database, target, overwrite=True)
    assert ids(target) == []


@pytest.mark.parametrize("name", ["tollgate.db", "tollgate.db-wal", "tollgate.db-shm", "link.db"])
def test_the_ledger_is_never_replaced_by_its_copy(database: Database, tmp_path: Path, name: str) -> None:
    (tmp_path / "link.db").symlink_to(database.path)
    with pytest.raises(StoreError, match="is the ledger itself"):
        back_up(database, tmp_path / name, overwrite=True)


@pytest.mark.parametrize("name", ["folder", "nowhere/copy.db"])
def test_a_place_where_no_file_can_be_is_refused(database: Database, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="a folder that exists"):
        back_up(database, tmp_path / name, overwrite=True)


def test_a_damaged_ledger_is_not_backed_up(database: Database, tmp_path: Path) -> None:
    with database.transaction() as connection:
        record(connection, settlements(500))
    with database.path.open("r+b") as file:
        file.seek(40 * 4096)
        file.write(b"\xa5" * 20 * 4096)
    (tmp_path / "copy.db").write_text("the last good one")
    with pytest.raises((StoreError, sqlite3.DatabaseError), match=r"damaged|malformed"):
        back_up(database, tmp_path / "copy.db", overwrite=True)
    assert (tmp_path / "copy.db").read_text() == "the last good one"
    assert files(tmp_path) == {"copy.db"}


def test_what_goes_wrong_on_the_way_leaves_nothing(database: Database, tmp_path: Path) -> None:
    def fail(left: int, total: int) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        back_up(database, tmp_path / "copy.db", progress=fail)
    assert files(tmp_path) == set()


def test_a_ledger_of_another_version_can_be_backed_up(database: Database, tmp_path: Path) -> None:
    with closing(database.connect()) as connection:
        connection.execute("PRAGMA user_version = 99")
    begun = time.time()
    back_up(database, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").stat().st_mtime >= begun - 1
