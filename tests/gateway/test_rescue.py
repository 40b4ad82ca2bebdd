"""What a killed process left in flight is settled by the next one, or by one that runs beside it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from proxy.model import Outcome, Settlement, Usage, UsageSource
from proxy.store import followups
from proxy.store.database import Database
from proxy.store.holds import Holds
from proxy.store.ledger import record
from tests.running import tollgate, wait_until
from tests.store.samples import TIME_MS, settlement

LEFT = settlement(
    "req_left", outcome=Outcome.INTERRUPTED, usage_source=UsageSource.ESTIMATED, usage=Usage(uncached_input=40)
)


def leave(directory: Path, *left: Settlement) -> Path:
    """What a process leaves that is killed with these in flight."""
    holds = Holds(directory / "tollgate.db")
    holds.open(TIME_MS)
    for one in left:
        holds.progress(holds.take(one), 0)
    holds.close()
    (file,) = files(directory)
    return file


def files(directory: Path) -> list[Path]:
    return [*directory.glob("tollgate.db-holds-*")]


def ledger(directory: Path) -> Database:
    database = Database(f"sqlite:///{directory}/tollgate.db")
    database.create()
    return database


def test_what_was_in_flight_is_settled_at_the_start_as_interrupted(tmp_path: Path) -> None:
    ledger(tmp_path)
    file = leave(tmp_path, LEFT)
    with tollgate(tmp_path) as running:
        assert running.settlement().outcome is Outcome.INTERRUPTED
        assert running.settlement().usage == Usage(uncached_input=40)
        wait_until(lambda: not file.exists())
        assert [line.requests for line in running.usage()] == [1]
    assert not files(tmp_path), "what a process that ends well leaves is nothing"


def test_what_was_settled_already_is_not_settled_again(tmp_path: Path) -> None:
    done, waits = settlement("req_done"), settlement("req_waits", response_id="resp_1")
    with ledger(tmp_path).transaction() as connection:
        record(connection, [done])
        followups.add(connection, waits, next_ms=2**45, until_ms=2**45)
    file = leave(tmp_path, settlement("req_done", outcome=Outcome.INTERRUPTED), waits, LEFT)
    with tollgate(tmp_path) as running:
        wait_until(lambda: not file.exists())
        assert running.settlements() == [done, running.settlements()[1]]
        assert running.settlements()[1].id == "req_left"


def test_a_process_that_dies_beside_us_is_looked_after_too(tmp_path: Path) -> None:
    with tollgate(tmp_path) as running:
        leave_beside = Holds(tmp_path / "tollgate.db")
        leave_beside.open(TIME_MS)
        leave_beside.progress(leave_beside.take(LEFT), 0)
        assert not running.settlements()
        leave_beside.close()
        assert running.settlement().id == "req_left"


def test_a_locked_ledger_only_delays_it(tmp_path: Path) -> None:
    with tollgate(tmp_path) as running, closing(sqlite3.connect(running.app.database.path)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        left = Holds(tmp_path / "tollgate.db")
        left.open(TIME_MS)
        left.progress(left.take(LEFT), 0)
        left.close()
        wait_until(lambda: running.app.commit.trouble != "")
        other.execute("ROLLBACK")
        assert running.settlement().id == "req_left"
