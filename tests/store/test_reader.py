from __future__ import annotations

import asyncio
import sqlite3
import threading

import pytest

from proxy.store.database import Database
from proxy.store.ledger import event, record
from proxy.store.reader import Reader
from tests.store.samples import settlements


def count(connection: sqlite3.Connection) -> int:
    (found,) = connection.execute("SELECT count(*) FROM events").fetchone()
    return int(found)


async def test_a_question_does_not_hold_the_loop_up_and_the_next_one_waits_for_it(database: Database) -> None:
    reader = Reader(database)
    go_on, threads = threading.Event(), []

    def slow(_: sqlite3.Connection) -> None:
        threads.append(threading.current_thread())
        assert go_on.wait(10)

    def quick(_: sqlite3.Connection) -> bool:
        threads.append(threading.current_thread())
        return go_on.is_set()

    first, second = asyncio.create_task(reader.read(slow)), asyncio.create_task(reader.read(quick))
    await asyncio.sleep(0.01)
    assert not second.done()
    go_on.set()
    assert await second is True
    await first
    assert len({*threads}) == 1
    assert threads[0] is not threading.current_thread()
    await reader.stop()


async def test_a_question_has_one_view_of_the_data_and_the_next_one_a_new_one(database: Database) -> None:
    reader = Reader(database)

    def twice(connection: sqlite3.Connection) -> tuple[int, int]:
        before = count(connection)
        with database.transaction() as other:
            record(other, settlements(3))
        return before, count(connection)

    assert await reader.read(twice) == (0, 0)
    assert await reader.read(count) == 3
    await reader.stop()


async def test_nothing_can_be_written(database: Database) -> None:
    reader = Reader(database)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await reader.read(lambda connection: record(connection, settlements(1)))
    assert await reader.read(count) == 0
    await reader.stop()


async def test_trouble_ends_with_its_cause(database: Database) -> None:
    reader = Reader(database)
    with database.transaction() as connection:
        record(connection, settlements(1))
    aside = database.path.with_suffix(".aside")
    database.path.rename(aside)
    with pytest.raises(sqlite3.Error):
        await reader.read(count)
    aside.rename(database.path)
    assert await reader.read(lambda connection: event(connection, "req_000000")) is not None
    await reader.stop()


async def test_what_a_question_raises_is_raised_and_leaves_no_view_open(database: Database) -> None:
    reader = Reader(database)

    def wrong(connection: sqlite3.Connection) -> None:
        count(connection)
        raise LookupError

    with pytest.raises(LookupError):
        await reader.read(wrong)
    with database.transaction() as connection:
        record(connection, settlements(1))
    assert await reader.read(count) == 1
    await reader.stop()


async def test_what_was_asked_is_answered_before_it_stops(database: Database) -> None:
    reader = Reader(database)
    asked = asyncio.create_task(reader.read(count))
    await asyncio.sleep(0)
    await reader.stop()
    assert await asked == 0
    with pytest.raises(RuntimeError):
        await reader.read(count)
