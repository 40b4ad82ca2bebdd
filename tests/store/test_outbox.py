"""The events that the sink has not accepted yet, and their moves."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from dataclasses import replace

import orjson
import pytest

from proxy.model import MOVES, EventState
from proxy.store import ledger, outbox, queries
from proxy.store.commit import GroupCommit
from proxy.store.database import Database
from proxy.store.ledger import Delivery, record
from proxy.store.outbox import EVENTS, Backlog, Outbox
from tests.store.samples import SAMPLE, TIME_MS, settlement, settlements


def standing(connection: sqlite3.Connection, event_id: str) -> tuple[EventState, int, str, int | None]:
    delivery = ledger.event(connection, event_id)
    assert isinstance(delivery, Delivery)
    return delivery.state, delivery.attempts, delivery.error, delivery.delivered_ms


def test_the_oldest_commits_come_first_whatever_their_times(connection: sqlite3.Connection) -> None:
    record(connection, [settlement("b", time_ms=2), settlement("a", time_ms=3), settlement("c", time_ms=1)])
    assert [one.id for one in outbox.pending(connection, 2)] == ["b", "a"]
    assert [one.id for one in outbox.pending(connection, 2, newest=True)] == ["c", "a"]
    outbox.accept(connection, ["b"], now_ms=9)
    assert [one.id for one in outbox.pending(connection, 2)] == ["a", "c"]


def test_a_failed_try_leaves_an_event_pending(connection: sqlite3.Connection) -> None:
    record(connection, [SAMPLE])
    outbox.note_failure(connection, ["req_1"], "503")
    outbox.note_failure(connection, ["req_1"], "no answer")
    assert standing(connection, "req_1") == (EventState.PENDING, 2, "no answer", None)
    outbox.accept(connection, ["req_1"], now_ms=9)
    assert standing(connection, "req_1") == (EventState.ACCEPTED, 3, "", 9)


def test_moves_touch_only_the_pending_events_that_they_name(connection: sqlite3.Connection) -> None:
    record(connection, settlements(3))
    first, second, third = (one.id for one in settlements(3))
    outbox.accept(connection, [first], now_ms=1)
    outbox.refuse(connection, second, "no")
    for _ in range(2):
        outbox.accept(connection, [first, second, "unknown"], now_ms=2)
        outbox.refuse(connection, first, "too late")
        outbox.refuse(connection, second, "too late")
        outbox.note_failure(connection, [first, second, "unknown"], "too late")
        outbox.accept(connection, [], now_ms=2)
    assert standing(connection, first) == (EventState.ACCEPTED, 1, "", 1)
    assert standing(connection, second) == (EventState.DEAD, 1, "no", None)
    assert standing(connection, third) == (EventState.PENDING, 0, "", None)


def test_the_receivers_words_are_bounded_and_may_be_anything(connection: sqlite3.Connection) -> None:
    record(connection, settlements(2))
    outbox.refuse(connection, "req_000000", "é" * 100_000)
    outbox.note_failure(connection, ["req_000001"], "\ud800\0'")
    assert standing(connection, "req_000000")[2] == "é" * 2_000
    assert standing(connection, "req_000001")[2] == "?\0'"


def test_the_backlog_counts_what_waits_and_what_is_dead(connection: sqlite3.Connection) -> None:
    assert outbox.backlog(connection) == Backlog(pending=0, dead=0, discarded=0, oldest_ms=None)
    record(connection, [settlement(f"req_{number}", time_ms=TIME_MS + number) for number in range(5)])
    outbox.accept(connection, ["req_0"], now_ms=1)
    outbox.refuse(connection, "req_1", "no")
    outbox.refuse(connection, "req_4", "no")
    outbox.move(connection, EventState.DEAD, EventState.DISCARDED, ["req_4"], "ours")
    assert outbox.backlog(connection) == Backlog(pending=2, dead=1, discarded=1, oldest_ms=TIME_MS + 2)
    assert outbox.recorded(connection) == 5


def test_what_waits_is_summed_by_subject(connection: sqlite3.Connection) -> None:
    assert outbox.undelivered(connection) == {}
    one, other, third = settlements(3)
    record(connection, [one, replace(other, subject="other"), third])
    assert outbox.undelivered(connection) == {
        one.subject: one.usage.total_tokens + third.usage.total_tokens,
        "other": other.usage.total_tokens,
    }
    outbox.accept(connection, [one.id], now_ms=9)
    outbox.refuse(connection, other.id, "no")
    assert outbox.undelivered(connection) == {third.subject: third.usage.total_tokens}


def test_an_age_is_whole_seconds_and_never_negative() -> None:
    assert Backlog(0, 0, 0, None).age_s(5_000) is None
    assert Backlog(1, 0, 0, 1_001).age_s(5_000) == 3
    assert Backlog(1, 0, 0, 9_000).age_s(5_000) == 0


def test_there_is_a_statement_for_each_move_and_for_no_other() -> None:
    assert queries.MOVE_EVENTS.keys() == MOVES.keys()
    changing = [sql for name, sql in vars(queries).items() if isinstance(sql, str) and "UPDATE events SET state" in sql]
    assert all(sql in queries.MOVE_EVENTS.values() for sql in changing)


@pytest.mark.parametrize("before", EventState)
@pytest.mark.parametrize("after", EventState)
def test_an_event_moves_only_from_where_it_stands_and_only_as_the_table_says(
    connection: sqlite3.Connection, before: EventState, after: EventState
) -> None:
    record(connection, settlements(4))
    ids = [one.id for one in settlements(4)]
    for event_id, state in zip(ids, EventState, strict=True):
        connection.execute("UPDATE events SET state = ?, delivered_ms = 7 WHERE id = ?", (state, event_id))
    if (before, after) not in MOVES:
        with pytest.raises(KeyError):
            outbox.move(connection, before, after, ids)
        return
    sql = queries.MOVE_EVENTS[before, after]
    noted = [5] * (sql.count("?") - 1 - sql.count("delivered_ms <="))
    until = [7] * sql.count("delivered_ms <=")
    assert connection.execute(sql, (*noted, orjson.dumps(ids).decode(), *until)).rowcount == 1
    states = [standing(connection, event_id)[0] for event_id in ids]
    assert states == [after if state is before else state for state in EventState]


@pytest.mark.anyio
async def test_what_the_relay_sees_follows_the_ledger(database: Database, connection: sqlite3.Connection) -> None:
    commit = GroupCommit(database)
    commit.start()
    box = Outbox(database, commit, lambda: 42, EVENTS)
    await asyncio.gather(*map(commit.record, settlements(4)))
    assert [one.id for one in await box.pending(2)] == ["req_000000", "req_000001"]
    await box.accept(["req_000000", "req_000001"])
    await box.refuse("req_000002", "no")
    await box.note_failure(["req_000003"], "503")
    assert [one.id for one in await box.pending(9)] == ["req_000003"]
    assert standing(connection, "req_000000") == (EventState.ACCEPTED, 1, "", 42)
    assert standing(connection, "req_000002") == (EventState.DEAD, 1, "no", None)
    box.close()
    box.close()
    assert len(await box.pending(9)) == 1
    box.close()
    await commit.stop()


@pytest.mark.anyio
async def test_a_read_that_failed_is_made_on_a_new_connection(database: Database) -> None:
    box = Outbox(database, GroupCommit(database), lambda: 0, EVENTS)
    assert await box.pending(1) == []
    away = database.path.with_name("away.db")
    database.path.rename(away)
    with pytest.raises(sqlite3.Error):
        await box.pending(1)
    away.rename(database.path)
    assert await box.pending(1) == []
    box.close()


@pytest.mark.anyio
async def test_closing_waits_for_a_read_whose_caller_was_cancelled(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()
    done: list[bool] = []

    def slow(connection: sqlite3.Connection, line: object, limit: int, *, newest: bool) -> list[object]:
        entered.set()
        leave.wait()
        connection.execute("SELECT 1").fetchone()
        done.append(True)
        return []

    monkeypatch.setattr(outbox, "waiting", slow)
    box = Outbox(database, GroupCommit(database), lambda: 0, EVENTS)
    reading = asyncio.ensure_future(box.pending(1))
    await asyncio.to_thread(entered.wait)
    reading.cancel()
    await asyncio.wait([reading])
    threading.Timer(0.05, leave.set).start()
    box.close()
    assert done == [True]
