"""The plans of the queries that must cost the same at ten million events as at ten."""

from __future__ import annotations

import sqlite3

import pytest

from proxy.model import BUCKETS, EventState
from proxy.store import accounts, queries
from proxy.store.database import begin
from proxy.store.ledger import record
from tests.store.samples import settlements


def plan(connection: sqlite3.Connection, sql: str) -> str:
    parameters = [None] * sql.count("?")
    return " | ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters))


@pytest.fixture(params=["empty", "large", "large and analysed"])
def ledger(request: pytest.FixtureRequest, connection: sqlite3.Connection) -> sqlite3.Connection:
    """Plans must not depend on how much there is, nor on whether somebody ran ANALYZE."""
    if request.param != "empty":
        with begin(connection):
            record(connection, settlements(2_000))
    if "analysed" in request.param:
        connection.execute("ANALYZE")
    return connection


@pytest.mark.parametrize("sql", [queries.PENDING_EVENTS, queries.PENDING_EVENTS_NEWEST], ids=["oldest", "newest"])
def test_what_is_pending_is_read_from_its_index_in_order(ledger: sqlite3.Connection, sql: str) -> None:
    assert plan(ledger, sql) == "SEARCH events USING INDEX events_pending (state=?)"


@pytest.mark.parametrize("sql", [*queries.MOVE_EVENTS.values(), queries.NOTE_FAILURE])
def test_events_are_moved_by_their_unique_ids(ledger: sqlite3.Connection, sql: str) -> None:
    assert "SEARCH events USING INDEX sqlite_autoindex_events_1 (id=?)" in plan(ledger, sql)


def test_the_backlog_is_counted_without_reading_events(ledger: sqlite3.Connection) -> None:
    found = plan(ledger, queries.PENDING_COUNT)
    assert found.startswith("SEARCH events USING COVERING INDEX events_pending (state=?)")
    assert found.endswith("SEARCH events USING INDEX events_pending (state=?)")
    assert plan(ledger, queries.DEAD_COUNT) == "SEARCH events USING COVERING INDEX events_dead (state=?)"
    assert plan(ledger, queries.DISCARDED_COUNT) == "SEARCH events USING COVERING INDEX events_discarded (state=?)"


@pytest.mark.parametrize("state", [EventState.PENDING, EventState.DEAD, EventState.DISCARDED])
def test_the_rare_states_are_listed_from_their_indexes(ledger: sqlite3.Connection, state: EventState) -> None:
    found = plan(ledger, queries.EVENTS_NEWEST[state])
    assert found.startswith(f"SEARCH events USING INDEX events_{state} (state=? AND rowid<?)")


def test_a_page_of_dead_letters_begins_where_the_last_one_ended(ledger: sqlite3.Connection) -> None:
    found = plan(ledger, queries.DEAD_LETTERS)
    assert found == "SEARCH events USING INDEX events_dead (state=? AND rowid>? AND rowid<?)"


def test_one_event_is_found_by_its_id(ledger: sqlite3.Connection) -> None:
    assert plan(ledger, queries.EVENT) == "SEARCH events USING INDEX sqlite_autoindex_events_1 (id=?)"


def test_the_newest_events_are_read_backwards(ledger: sqlite3.Connection) -> None:
    for state in (None, EventState.ACCEPTED):
        found = plan(ledger, queries.EVENTS_NEWEST[state])
        assert found.startswith("SEARCH events USING INTEGER PRIMARY KEY (rowid<?)")
        assert "TEMP B-TREE" not in found


def test_a_page_of_tenants_keys_and_top_ups_begins_where_the_last_one_ended(ledger: sqlite3.Connection) -> None:
    found = plan(ledger, accounts.TENANTS)
    assert found.startswith("SEARCH tenants USING INDEX sqlite_autoindex_tenants_1 (id>?)")
    assert "TEMP B-TREE" not in found
    assert "SEARCH keys USING INDEX keys_by_tenant (tenant_id>?)" in plan(ledger, accounts.KEYS)
    assert plan(ledger, accounts.TOP_UPS).startswith("SEARCH top_ups USING INTEGER PRIMARY KEY (rowid<?)")


@pytest.mark.parametrize("columns", [*queries.USAGE])
def test_usage_reads_its_subjects_hours_or_all_of_its_hours_and_no_event(
    ledger: sqlite3.Connection, columns: tuple[str, ...]
) -> None:
    found = plan(ledger, queries.USAGE_OF_SUBJECT[columns])
    assert found.startswith("SEARCH rollups USING PRIMARY KEY (subject=? AND hour>? AND hour<?)")
    everybodys = plan(ledger, queries.USAGE[columns])
    assert everybodys.startswith("SEARCH rollups USING INDEX rollups_by_hour (hour>? AND hour<?)")
    assert "events" not in found + everybodys


@pytest.mark.parametrize("columns", [*queries.USAGE])
def test_usage_is_moved_on_by_the_rows_that_came_since(ledger: sqlite3.Connection, columns: tuple[str, ...]) -> None:
    found = plan(ledger, queries.USAGE_SINCE[columns])
    assert found.startswith("SEARCH events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)")
    assert plan(ledger, queries.LAST_EVENT) == "SCAN events", "backwards, by its row numbers"
    assert plan(ledger, queries.EVENT_ID_AT) == "SEARCH events USING INTEGER PRIMARY KEY (rowid=?)"


def test_where_usage_begins_and_ends_is_seen_without_reading_it(ledger: sqlite3.Connection) -> None:
    ends = plan(ledger, queries.USAGE_HOURS_OF_SUBJECT)
    assert ends.count("SEARCH rollups USING PRIMARY KEY (subject=? AND hour>? AND hour<?)") == 2
    assert plan(ledger, queries.USAGE_HOURS).count("USING COVERING INDEX rollups_by_hour (hour>? AND hour<?)") == 2
    assert plan(ledger, queries.HAS_USAGE) == "SEARCH rollups USING PRIMARY KEY (subject=?)"


def test_a_tenants_keys_are_found_by_its_id(ledger: sqlite3.Connection) -> None:
    assert "SCAN" not in plan(ledger, accounts.KEY_NAMES)


def test_a_key_is_found_by_its_hash(ledger: sqlite3.Connection) -> None:
    assert "SEARCH keys USING INDEX sqlite_autoindex_keys_2 (hash=?)" in plan(ledger, accounts.CALLER)


def test_every_query_is_valid(connection: sqlite3.Connection) -> None:
    for name, value in (*vars(queries).items(), *vars(accounts).items()):
        if name.isupper() and not name.startswith("_") and name not in ("BUCKETS", "COSTS", "UNITS"):
            for sql in value.values() if isinstance(value, dict) else (value,):
                plan(connection, sql)


def test_the_buckets_stand_in_the_columns_order(connection: sqlite3.Connection) -> None:
    for table in ("events", "rollups"):
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        start = columns.index(BUCKETS[0])
        assert tuple(columns[start : start + len(BUCKETS)]) == BUCKETS


def test_the_first_use_of_a_subject_reads_one_hour(ledger: sqlite3.Connection) -> None:
    assert plan(ledger, queries.FIRST_HOUR) == "SEARCH rollups USING PRIMARY KEY (subject=?)"
    assert "events_by_time (time_ms>? AND time_ms<?)" in plan(ledger, queries.FIRST_EVENT)
