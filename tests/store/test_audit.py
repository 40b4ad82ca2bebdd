"""The ledger as a reconciliation reads it."""

from __future__ import annotations

import sqlite3
from itertools import pairwise

import pytest

from proxy.model import MOVES, EventState
from proxy.store import audit, followups, outbox, queries
from proxy.store.audit import PAGE_ROWS, Recorded
from proxy.store.database import begin
from proxy.store.ledger import record
from tests.store.samples import TIME_MS, settlement, settlements
from tests.store.test_queries import plan


def ids(found: list[Recorded]) -> list[str]:
    return [one.settlement.id for one in found]


def between(connection: sqlite3.Connection, from_ms: int, to_ms: int) -> list[Recorded]:
    return list(audit.between(connection, from_ms, to_ms))


def test_settlements_come_in_the_order_of_arrival_whatever_they_are_called(connection: sqlite3.Connection) -> None:
    with begin(connection):  # in another order than they arrived in: long answers are settled late
        record(
            connection,
            [
                settlement("zzz:of-another-tool", time_ms=TIME_MS + 1),
                settlement("req_c", time_ms=TIME_MS + 3),
                settlement("0-imported", time_ms=TIME_MS + 2),
                settlement("req_a", time_ms=TIME_MS),
                settlement("req_b", time_ms=TIME_MS + 3),
                settlement("before", time_ms=TIME_MS - 1),
                settlement("after", time_ms=TIME_MS + 4),
            ],
        )
    found = between(connection, TIME_MS, TIME_MS + 4)
    assert ids(found) == ["req_a", "zzz:of-another-tool", "0-imported", "req_c", "req_b"]
    assert found[0].settlement == settlement("req_a", time_ms=TIME_MS)


@pytest.mark.parametrize("count", [0, 1, PAGE_ROWS - 1, PAGE_ROWS, PAGE_ROWS + 1, 2 * PAGE_ROWS + 7])
def test_pages_join_without_a_gap_or_a_repeat(connection: sqlite3.Connection, count: int) -> None:
    written = [settlement(f"req_{number:06}", time_ms=TIME_MS + number // 3) for number in range(count)]
    with begin(connection):
        record(connection, written)
    found = between(connection, TIME_MS, TIME_MS + 10**9)
    assert ids(found) == [one.id for one in written]
    assert all(a.settlement.time_ms <= b.settlement.time_ms for a, b in pairwise(found))


def test_no_transaction_stays_open_while_the_caller_thinks(connection: sqlite3.Connection) -> None:
    with begin(connection):
        record(connection, settlements(PAGE_ROWS + 5))
    walk = audit.between(connection, 0, 2**53)
    next(walk)
    assert not connection.in_transaction
    with begin(connection):  # what comes meanwhile, and is not passed yet, is seen
        record(connection, [settlement("late", time_ms=TIME_MS + 1)])
    assert ids(list(walk))[-1] == "late"


def test_a_page_is_read_from_the_index_of_times(connection: sqlite3.Connection) -> None:
    with begin(connection):
        record(connection, settlements(2_000))
    for analysed in (False, True):
        if analysed:
            connection.execute("ANALYZE")
        found = plan(connection, queries.EVENTS_BY_TIME)
        assert found == "SEARCH events USING INDEX events_by_time (time_ms>? AND time_ms<?)"
    assert "sqlite_autoindex_events_1 (id=?)" in plan(connection, queries.SEND_AGAIN)
    assert "sqlite_autoindex_events_1 (id=?)" in plan(connection, queries.NOTE_SENT)


def test_one_settlement_is_found_by_its_id(connection: sqlite3.Connection) -> None:
    with begin(connection):
        record(connection, settlements(3))
        outbox.accept(connection, ["req_000001"], TIME_MS + 9)
    found = audit.recorded(connection, "req_000001")
    assert found == Recorded(settlement("req_000001"), EventState.ACCEPTED, TIME_MS + 9)
    assert audit.recorded(connection, "req_9") is None


def test_only_accepted_events_are_sent_again_and_none_that_was_delivered_since(connection: sqlite3.Connection) -> None:
    assert (EventState.ACCEPTED, EventState.PENDING) in MOVES
    with begin(connection):
        record(connection, settlements(5))
        outbox.accept(connection, ["req_000000", "req_000001"], TIME_MS)
        outbox.accept(connection, ["req_000002"], TIME_MS + 1)
        outbox.refuse(connection, "req_000003", "400")
    every = [one.id for one in settlements(5)]
    with begin(connection):
        assert audit.send_again(connection, every[1:], TIME_MS) == 1
        assert audit.send_again(connection, every[1:], TIME_MS) == 0
    states = {one.settlement.id: (one.state, one.delivered_ms) for one in between(connection, 0, 2**53)}
    assert states == {
        "req_000000": (EventState.ACCEPTED, TIME_MS),
        "req_000001": (EventState.PENDING, None),
        "req_000002": (EventState.ACCEPTED, TIME_MS + 1),
        "req_000003": (EventState.DEAD, None),
        "req_000004": (EventState.PENDING, None),
    }
    assert [one.id for one in outbox.pending(connection, 10)] == ["req_000001", "req_000004"]


def test_what_was_sent_once_more_counts_as_delivered_then(connection: sqlite3.Connection) -> None:
    with begin(connection):
        record(connection, settlements(2))
        outbox.accept(connection, ["req_000000"], TIME_MS)
        audit.note_sent(connection, "req_000000", TIME_MS + 5)
        audit.note_sent(connection, "req_000001", TIME_MS + 5)  # pending: not ours to say
    assert [one.delivered_ms for one in between(connection, 0, 2**53)] == [TIME_MS + 5, None]


def test_background_responses_that_are_waited_for_are_counted(connection: sqlite3.Connection) -> None:
    assert audit.awaited(connection) == 0
    with begin(connection):
        followups.add(connection, settlement("req_1", response_id="resp_1"), next_ms=1, until_ms=2)
    assert audit.awaited(connection) == 1
