"""Group commit while the file is in trouble: new requests are refused, nothing hangs, and it heals by itself."""

from __future__ import annotations

import asyncio
import logging
import resource
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from proxy.errors import LedgerUnavailable
from proxy.store.commit import GroupCommit
from proxy.store.database import Database, Link
from proxy.store.ledger import record
from tests.store.samples import SAMPLE, rollups, settlement, settlements, sums_of_events

pytestmark = pytest.mark.anyio

PROBE_S = 0.02


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[GroupCommit]:
    made = GroupCommit(database, probe_s=PROBE_S)
    made.start()
    yield made
    await made.stop()


@contextmanager
def another_process(database: Database) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
        yield connection


async def healthy(ledger: GroupCommit) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                ledger.check()
            except LedgerUnavailable:
                await asyncio.sleep(PROBE_S)
            else:
                return


async def refuses(ledger: GroupCommit, event_id: str = "req_refused") -> sqlite3.Error:
    """Recording fails, and so do new requests."""
    with pytest.raises(sqlite3.Error) as failed:
        await ledger.record(settlement(event_id))
    with pytest.raises(LedgerUnavailable):
        ledger.check()
    return failed.value


def ids(connection: sqlite3.Connection) -> list[str]:
    return [event_id for (event_id,) in connection.execute("SELECT id FROM events ORDER BY seq")]


async def test_a_locked_file_is_trouble_until_it_is_free(
    database: Database, ledger: GroupCommit, caplog: pytest.LogCaptureFixture
) -> None:
    await ledger.record(SAMPLE)
    with another_process(database) as other, caplog.at_level(logging.WARNING):
        other.execute("BEGIN IMMEDIATE")
        for number in range(3):
            error = await refuses(ledger, f"req_refused_{number}")
            assert "locked" in str(error)
        await asyncio.sleep(5 * PROBE_S)
        other.execute("ROLLBACK")
        await healthy(ledger)
        await ledger.record(settlement("req_2"))
        assert ids(other) == ["req_1", "req_2"]
        assert rollups(other) == sums_of_events(other)
    said = [record.message for record in caplog.records]
    assert len(said) == 2, "once when it begins and once when it ends, whatever the number of events"
    assert said[0].startswith("the ledger cannot be written")
    assert said[1] == "the ledger can be written again"


async def test_a_lock_that_is_short_is_waited_for(database: Database) -> None:
    patient = GroupCommit(Database(f"sqlite:///{database.path}", busy_ms=5_000))
    patient.start()
    with another_process(database) as other:
        other.execute("BEGIN IMMEDIATE")
        future = patient.record(SAMPLE)
        await asyncio.sleep(0.1)
        patient.check()
        assert not future.done()
        other.execute("ROLLBACK")
        await future
    await patient.stop()


async def test_a_full_disk_is_trouble_until_there_is_room_for_a_whole_batch(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = {"pages": 0}

    def limited(self: Link) -> sqlite3.Connection:
        connection = connect(self)
        connection.execute(f"PRAGMA max_page_count = {limit['pages'] or 1_000_000}")
        return connection

    connect = Link.connection
    monkeypatch.setattr(Link, "connection", limited)
    ledger = GroupCommit(database, probe_s=PROBE_S)
    ledger.start()
    await ledger.record(SAMPLE)
    with another_process(database) as other:
        limit["pages"] = other.execute("PRAGMA page_count").fetchone()[0]
        # Those that still fit may be recorded; then one does not.
        results = await asyncio.gather(*[ledger.record(one) for one in settlements(500)], return_exceptions=True)
        assert "full" in str(results[-1])
        with pytest.raises(LedgerUnavailable):
            ledger.check()
        await asyncio.sleep(5 * PROBE_S)
        with pytest.raises(LedgerUnavailable):
            ledger.check()
        assert rollups(other) == sums_of_events(other)
        limit["pages"] = 0
        await healthy(ledger)
        await ledger.record(settlement("req_2"))
        recorded = [one.id for one, result in zip(settlements(500), results, strict=True) if result is None]
        assert ids(other) == ["req_1", *recorded, "req_2"]
        assert other.execute("SELECT count(*) FROM probe").fetchone() == (0,)
    await ledger.stop()


async def test_a_commit_that_fails_records_nothing_and_its_repeat_counts_once(
    database: Database, ledger: GroupCommit
) -> None:
    await ledger.record(SAMPLE)
    log_bytes = database.path.with_name("tollgate.db-wal").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The write-ahead log cannot grow: the statements succeed, the COMMIT does not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (log_bytes + 5_000, before[1]))
    try:
        await refuses(ledger, "req_2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    await healthy(ledger)
    await ledger.record(settlement("req_2"))
    with pytest.raises(sqlite3.IntegrityError):
        await ledger.record(settlement("req_2"))
    with another_process(database) as other:
        assert ids(other) == ["req_1", "req_2"]
        assert rollups(other) == sums_of_events(other)


async def test_a_file_that_was_moved_away_is_trouble_until_it_is_back(database: Database, ledger: GroupCommit) -> None:
    await ledger.record(SAMPLE)
    away = database.path.with_name("away.db")
    database.path.rename(away)
    error = await refuses(ledger)
    assert "No such file" in str(error)
    await asyncio.sleep(5 * PROBE_S)
    with pytest.raises(LedgerUnavailable):
        ledger.check()
    assert not database.path.exists(), "an empty ledger must not take its place"
    away.rename(database.path)
    await healthy(ledger)
    await ledger.record(settlement("req_2"))
    with another_process(database) as other:
        assert ids(other) == ["req_1", "req_2"]


async def test_a_deleted_file_is_trouble(database: Database, ledger: GroupCommit) -> None:
    await ledger.record(SAMPLE)
    for path in database.path.parent.iterdir():
        path.unlink()
    await refuses(ledger)


async def test_a_file_that_was_replaced_by_another_ledger_is_used_from_then_on(
    database: Database, ledger: GroupCommit
) -> None:
    await ledger.record(SAMPLE)
    backup = Database(f"sqlite:///{database.path.with_name('backup.db')}")
    backup.create()
    for path in database.path.parent.glob("tollgate.db*"):
        path.unlink()
    backup.path.rename(database.path)
    await ledger.record(settlement("req_2"))
    with another_process(database) as other:
        assert ids(other) == ["req_2"]


@pytest.mark.parametrize("content", [b"", b"this is no database" * 1000])
async def test_a_file_that_was_replaced_by_something_else_is_trouble(
    database: Database, ledger: GroupCommit, content: bytes
) -> None:
    await ledger.record(SAMPLE)
    for path in database.path.parent.iterdir():
        path.unlink()
    database.path.write_bytes(content)
    await refuses(ledger)
    await asyncio.sleep(3 * PROBE_S)
    with pytest.raises(LedgerUnavailable):
        ledger.check()


async def test_a_file_that_was_moved_away_is_noticed_while_nobody_writes(
    database: Database, ledger: GroupCommit
) -> None:
    database.path.rename(database.path.with_name("away.db"))
    async with asyncio.timeout(5):
        while not ledger.trouble:  # noqa: ASYNC110 (nobody signals it)
            await asyncio.sleep(PROBE_S)
    with pytest.raises(LedgerUnavailable):
        ledger.check()


async def test_a_write_ahead_log_that_was_deleted_is_saved_and_written_anew(
    database: Database, ledger: GroupCommit, caplog: pytest.LogCaptureFixture
) -> None:
    reader = Link(database, read_only=True)
    assert ids(reader.connection()) == []
    await ledger.record(SAMPLE)
    wal = database.path.with_name("tollgate.db-wal")
    wal.unlink()
    await ledger.record(settlement("req_2"))
    with suppress(sqlite3.Error):  # a reader of the old log may fail once
        ids(reader.connection())
    reader.close()
    assert ids(reader.connection()) == ["req_1", "req_2"]
    # What a process finds that starts after a kill -9 of this one.
    copy = database.path.with_name("copy")
    copy.mkdir()
    for path in (database.path, wal):
        (copy / path.name).write_bytes(path.read_bytes())
    with another_process(Database(f"sqlite:///{copy}/tollgate.db")) as other:
        assert ids(other) == ["req_1", "req_2"]
    reader.close()
    assert [line for line in caplog.messages if "was deleted while in use" in line]


async def test_a_deleted_log_is_held_on_to_until_it_is_saved(database: Database, ledger: GroupCommit) -> None:
    await ledger.record(SAMPLE)
    reader = Link(database, read_only=True)
    reader.connection().execute("BEGIN")
    assert ids(reader.connection()) == ["req_1"]
    await ledger.record(settlement("req_2"))
    database.path.with_name("tollgate.db-wal").unlink()
    error = await refuses(ledger)
    assert "cannot be saved while another process reads" in str(error)
    reader.connection().execute("COMMIT")
    await healthy(ledger)
    await ledger.record(settlement("req_3"))
    reader.close()
    assert ids(reader.connection()) == ["req_1", "req_2", "req_3"]
    reader.close()


async def test_a_damaged_file_is_trouble_until_another_takes_its_place(database: Database) -> None:
    backup = Database(f"sqlite:///{database.path.with_name('backup.db')}")
    backup.create()
    with database.transaction() as connection:
        record(connection, settlements(2_000))
    ledger = GroupCommit(database, probe_s=PROBE_S)
    ledger.start()
    size = database.path.stat().st_size // 2
    with database.path.open("r+b") as file:
        file.seek(size)
        file.write(b"\xa5" * size)
    assert "malformed" in str(await refuses(ledger))
    await asyncio.sleep(5 * PROBE_S)
    assert "is damaged; if it is your ledger" in str(await refuses(ledger))
    backup.path.rename(database.path)
    await healthy(ledger)
    await ledger.record(SAMPLE)
    await ledger.stop()
    with another_process(database) as other:
        assert ids(other) == ["req_1"]


async def test_a_file_that_may_only_be_read_is_trouble(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # By SQLite's own means, for root may write to every file.
    connect = Database.connect
    monkeypatch.setattr(Database, "connect", lambda self, **options: connect(self, read_only=True))
    ledger = GroupCommit(database, probe_s=PROBE_S)
    ledger.start()
    error = await refuses(ledger)
    assert "readonly" in str(error)
    monkeypatch.undo()
    await healthy(ledger)
    await ledger.record(SAMPLE)
    await ledger.stop()


async def test_a_ledger_without_its_tables_is_trouble(database: Database, ledger: GroupCommit) -> None:
    with another_process(database) as other:
        other.execute("ALTER TABLE events RENAME TO lost")
        error = await refuses(ledger)
        assert "no such table" in str(error)


async def test_it_stops_while_in_trouble_and_tells_who_waits(database: Database, ledger: GroupCommit) -> None:
    with another_process(database) as other:
        other.execute("BEGIN IMMEDIATE")
        futures = [ledger.record(one) for one in settlements(20)]
        async with asyncio.timeout(5):
            await ledger.stop()
            results = await asyncio.gather(*futures, return_exceptions=True)
        assert all(isinstance(result, sqlite3.OperationalError) for result in results)
