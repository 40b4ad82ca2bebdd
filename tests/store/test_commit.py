"""Group commit: what it promises while the file is well."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import LedgerUnavailable
from proxy.model import Settlement, Usage
from proxy.store import commit
from proxy.store.commit import GroupCommit
from proxy.store.database import Database
from tests.store.samples import SAMPLE, any_settlement, rollups, settlement, settlements, sums_of_events

pytestmark = pytest.mark.anyio


class CountingDatabase(Database):
    """Counts the commits of the connections that it opens."""

    commits = 0

    def connect(self, *, read_only: bool = False, busy_ms: int | None = None) -> sqlite3.Connection:
        connection = super().connect(read_only=read_only, busy_ms=busy_ms)
        connection.set_trace_callback(self._count)
        return connection

    def _count(self, statement: str) -> None:
        self.commits += statement == "COMMIT"


@asynccontextmanager
async def running(database: Database) -> AsyncIterator[GroupCommit]:
    ledger = GroupCommit(database)
    ledger.start()
    try:
        yield ledger
    finally:
        await ledger.stop()


def ids(connection: sqlite3.Connection) -> list[str]:
    return [event_id for (event_id,) in connection.execute("SELECT id FROM events ORDER BY seq")]


async def test_what_is_recorded_is_on_disk_when_the_future_is_done(
    database: Database, connection: sqlite3.Connection
) -> None:
    async with running(database) as ledger:
        future = ledger.record(SAMPLE)
        assert not future.done()
        await future
        assert ids(connection) == ["req_1"]
        assert rollups(connection) == sums_of_events(connection)


async def test_a_thousand_at_once_take_few_commits(database: Database, connection: sqlite3.Connection) -> None:
    counting = CountingDatabase(f"sqlite:///{database.path}")
    async with running(counting) as ledger:
        await asyncio.gather(*map(ledger.record, settlements(1000)))
    assert counting.commits < 50
    assert ids(connection) == [one.id for one in settlements(1000)]
    assert rollups(connection) == sums_of_events(connection)
    (row,) = rollups(connection)
    assert row[6:8] == (1000, 1000 * SAMPLE.usage.uncached_input)


async def test_a_batch_has_a_bound(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "BATCH_MAX", 10)
    counting = CountingDatabase(f"sqlite:///{database.path}")
    async with running(counting) as ledger:
        await asyncio.gather(*map(ledger.record, settlements(100)))
    assert counting.commits >= 10


async def test_a_settlement_that_is_there_already_fails_alone(
    database: Database, connection: sqlite3.Connection
) -> None:
    ledger = GroupCommit(database)
    three = settlements(3)
    futures = [ledger.record(one) for one in (*three, three[1], settlement("req_last"))]
    ledger.start()
    results = await asyncio.gather(*futures, return_exceptions=True)
    ledger.check()
    await ledger.stop()
    assert isinstance(results.pop(3), sqlite3.IntegrityError)
    assert results == [None] * 4
    assert ids(connection) == [*(one.id for one in three), "req_last"]
    assert rollups(connection) == sums_of_events(connection)


async def test_a_settlement_that_cannot_be_stored_fails_alone_with_an_sqlite_error(
    database: Database, connection: sqlite3.Connection
) -> None:
    ledger = GroupCommit(database)
    impossible = [settlement("req_a", duration_ms=2**70), settlement("req_b", subject="\ud800")]
    futures = [ledger.record(one) for one in (SAMPLE, *impossible)]
    ledger.start()
    results = await asyncio.gather(*futures, return_exceptions=True)
    await ledger.stop()
    assert results[0] is None
    assert all(isinstance(result, sqlite3.Error) for result in results[1:])
    assert ids(connection) == ["req_1"]


async def test_work_that_fails_is_undone_alone_and_told(database: Database, connection: sqlite3.Connection) -> None:
    def spoil(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM events")
        raise KeyError("spoilt")

    def misspell(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT * FROM evnets")

    def count(connection: sqlite3.Connection) -> int:
        number: int = connection.execute("SELECT count(*) FROM events").fetchone()[0]
        return number

    ledger = GroupCommit(database)
    futures: list[asyncio.Future[Any]] = [
        ledger.record(SAMPLE),
        ledger.run(spoil),
        ledger.run(misspell),
        ledger.run(count),
    ]
    ledger.start()
    recorded, spoilt, misspelt, counted = await asyncio.gather(*futures, return_exceptions=True)
    ledger.check()
    await ledger.stop()
    assert recorded is None
    assert isinstance(spoilt, KeyError)
    assert isinstance(misspelt, sqlite3.OperationalError)
    assert counted == 1
    assert ids(connection) == ["req_1"]


async def test_changes_are_done_in_their_order(database: Database) -> None:
    def seen(connection: sqlite3.Connection) -> list[str]:
        return ids(connection)

    ledger = GroupCommit(database)
    futures: list[asyncio.Future[Any]] = [
        ledger.run(seen),
        ledger.record(settlement("a")),
        ledger.run(seen),
        ledger.record(settlement("b")),
    ]
    ledger.start()
    results = await asyncio.gather(*futures)
    await ledger.stop()
    assert results == [[], None, ["a"], None]


async def test_cancelling_who_waits_does_not_lose_the_record(
    database: Database, connection: sqlite3.Connection
) -> None:
    ledger = GroupCommit(database)
    future = ledger.record(SAMPLE)
    future.cancel()
    ledger.start()
    await ledger.record(settlement("req_2"))
    await ledger.stop()
    assert ids(connection) == ["req_1", "req_2"]


async def test_it_refuses_new_requests_until_it_runs(database: Database) -> None:
    ledger = GroupCommit(database)
    with pytest.raises(LedgerUnavailable):
        ledger.check()
    ledger.start()
    ledger.check()
    await ledger.stop()
    with pytest.raises(LedgerUnavailable):
        ledger.check()


async def test_it_refuses_new_requests_when_too_many_changes_wait(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "BACKLOG_MAX", 10)
    entered, leave = threading.Event(), threading.Event()

    def block(_: sqlite3.Connection) -> None:
        entered.set()
        leave.wait()

    async with running(database) as ledger:
        blocked = ledger.run(block)
        await asyncio.to_thread(entered.wait)
        waiting = [ledger.record(one) for one in settlements(11)]
        assert ledger.backlog == 11
        with pytest.raises(LedgerUnavailable):
            ledger.check()
        leave.set()
        await asyncio.gather(blocked, *waiting)
        ledger.check()


async def test_stop_before_start_does_nothing(database: Database, connection: sqlite3.Connection) -> None:
    ledger = GroupCommit(database)
    future = ledger.record(SAMPLE)
    await ledger.stop()
    assert not future.done()
    ledger.start()
    await future
    await ledger.stop()
    assert ids(connection) == ["req_1"]


async def test_starting_and_stopping_twice_is_once(database: Database) -> None:
    ledger = GroupCommit(database)
    ledger.start()
    ledger.start()
    assert [thread.name for thread in threading.enumerate()].count("tollgate-ledger") == 1
    await asyncio.gather(ledger.stop(), ledger.stop())
    await ledger.stop()
    assert "tollgate-ledger" not in [thread.name for thread in threading.enumerate()]


async def test_stop_while_busy_writes_all_that_was_submitted(
    database: Database, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "BATCH_MAX", 7)
    ledger = GroupCommit(database)
    ledger.start()
    futures = [ledger.record(one) for one in settlements(200)]
    await ledger.stop()
    await asyncio.gather(*futures)
    assert len(ids(connection)) == 200


async def test_what_is_submitted_after_stop_is_refused_and_never_hangs(database: Database) -> None:
    ledger = GroupCommit(database)
    ledger.start()
    await ledger.stop()
    with pytest.raises(sqlite3.OperationalError, match="closed"):
        await ledger.record(SAMPLE)


async def test_a_start_while_it_stops_goes_on_in_order(database: Database, connection: sqlite3.Connection) -> None:
    ledger = GroupCommit(database)
    ledger.start()
    before = [ledger.record(one) for one in settlements(100)]
    stopping = asyncio.ensure_future(ledger.stop())
    await asyncio.sleep(0)
    ledger.start()
    await ledger.record(settlement("req_last"))
    await asyncio.gather(*before, stopping)
    ledger.check()
    await ledger.stop()
    assert ids(connection) == [*(one.id for one in settlements(100)), "req_last"]


def test_a_loop_that_closes_too_early_costs_nothing_but_a_warning(
    database: Database, connection: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    leave = threading.Event()

    async def leave_early() -> GroupCommit:
        ledger = GroupCommit(database)
        ledger.start()
        ledger.run(lambda _: leave.wait())
        ledger.record(SAMPLE)
        return ledger

    async def end(ledger: GroupCommit) -> None:
        await ledger.stop()

    with caplog.at_level(logging.WARNING):
        ledger = asyncio.run(leave_early())
        leave.set()
        asyncio.run(end(ledger))
    assert "the event loop closed" in caplog.text
    assert ids(connection) == ["req_1"]


batches = st.lists(st.lists(any_settlement, max_size=6), max_size=4)


@settings(max_examples=30, deadline=None)
@given(batches)
def test_rollups_are_the_sums_of_the_events_across_restarts(lives: list[list[Settlement]]) -> None:
    async def live(database: Database, batch: list[Settlement]) -> None:
        async with running(database) as ledger:
            again = batch[:1]  # recorded twice, counted once
            await asyncio.gather(*map(ledger.record, [*batch, *again]), return_exceptions=True)

    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/tollgate.db")
        database.create()
        for batch in lives:
            asyncio.run(live(database, batch))
        with closing(database.connect()) as connection:
            assert rollups(connection) == sums_of_events(connection)
            assert sorted(ids(connection)) == sorted(one.id for batch in lives for one in batch)


async def test_sums_stop_at_the_largest_integer(database: Database, connection: sqlite3.Connection) -> None:
    much = Usage(text_output=2**62)
    async with running(database) as ledger:
        for number in range(5):
            await asyncio.gather(
                ledger.record(settlement(f"a{number}", usage=much)), ledger.record(settlement(f"b{number}", usage=much))
            )
    assert connection.execute("SELECT requests, text_output FROM rollups").fetchall() == [(10, 2**63 - 1)]
