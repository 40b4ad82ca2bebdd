"""Settlements as rows, and the totals that are read from them."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.limits import Calendar
from proxy.model import EventState, Settlement
from proxy.store import ledger, outbox
from proxy.store.database import Database, begin
from proxy.store.ledger import HOUR_MS, Wanted, record
from proxy.store.usage import Group, report
from tests.running import EVER
from tests.store.samples import SAMPLE, TIME_MS, any_settlement, rollups, settlement, settlements, sums_of_events


@settings(max_examples=40, deadline=None)
@given(st.lists(any_settlement, max_size=8))
def test_every_settlement_comes_back_as_it_was(batch: list[Settlement]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/tollgate.db")
        database.create()
        with database.transaction() as connection:
            record(connection, batch)
        with closing(database.connect(read_only=True)) as connection:
            found = ledger.newest(connection, limit=100)
            assert [delivery.settlement for delivery in found] == batch[::-1]
            assert outbox.pending(connection, 100) == batch
            assert rollups(connection) == sums_of_events(connection)


@pytest.mark.parametrize(
    "name", ["nul\0inside", "emoji 🙂", "\N{COMBINING ACUTE ACCENT}", "ft:gpt-4o:org::id", "'; --"]
)
def test_names_that_clients_choose_are_kept(connection: sqlite3.Connection, name: str) -> None:
    record(connection, [settlement("req_1", requested_model=name, model=name)])
    delivery = ledger.event(connection, "req_1")
    assert delivery is not None
    assert delivery.settlement.requested_model == delivery.settlement.model == name
    (line,) = report(connection, EVER, Calendar(), [Group.MODEL]).lines
    assert line.values == (name,)


def test_a_name_that_is_no_text_does_not_keep_its_event_from_being_written(connection: sqlite3.Connection) -> None:
    record(connection, [settlement("req_1", model="gpt-\ud83d", requested_model="\udfff", provider="\ud800é")])
    delivery = ledger.event(connection, "req_1")
    assert delivery is not None
    assert delivery.settlement.model == "gpt-?"
    assert delivery.settlement.provider == "?é"
    assert rollups(connection) == sums_of_events(connection)


def test_a_name_of_any_size_takes_a_bounded_row(connection: sqlite3.Connection) -> None:
    record(connection, [settlement("req_1", model="m" * 10_000_000, requested_model="é" * 10_000_000)])
    delivery = ledger.event(connection, "req_1")
    assert delivery is not None
    assert delivery.settlement.model == "m" * 512
    assert delivery.settlement.requested_model == "é" * 512
    assert rollups(connection) == sums_of_events(connection)


def test_an_event_is_recorded_once(connection: sqlite3.Connection) -> None:
    with begin(connection):
        record(connection, [SAMPLE])
    with pytest.raises(sqlite3.IntegrityError), begin(connection):
        record(connection, [settlement("req_2"), SAMPLE])
    assert ledger.event(connection, "req_2") is None
    assert rollups(connection) == sums_of_events(connection)


def test_an_unknown_event_is_none(connection: sqlite3.Connection) -> None:
    assert ledger.event(connection, "req_none") is None


def test_an_event_tells_how_its_delivery_stands(connection: sqlite3.Connection) -> None:
    record(connection, settlements(3))
    outbox.note_failure(connection, ["req_000000"], "no answer")
    outbox.accept(connection, ["req_000001"], now_ms=77)
    outbox.refuse(connection, "req_000002", "unknown subject")
    found = [ledger.event(connection, one.id) for one in settlements(3)]
    assert [(one.state, one.attempts, one.error, one.delivered_ms) for one in found if one is not None] == [
        (EventState.PENDING, 1, "no answer", None),
        (EventState.ACCEPTED, 1, "", 77),
        (EventState.DEAD, 1, "unknown subject", None),
    ]


def test_newest_comes_first_all_or_of_a_subject_or_a_state(connection: sqlite3.Connection) -> None:
    mine, theirs = settlements(4), [settlement("other", subject="user-002")]
    record(connection, [*mine, *theirs])
    outbox.refuse(connection, "req_000001", "no")
    outbox.refuse(connection, "other", "no")

    def found(*, subject: str = "", state: EventState | None = None, limit: int) -> list[str]:
        return [one.settlement.id for one in ledger.newest(connection, Wanted(subject), state=state, limit=limit)]

    assert found(limit=2) == ["other", "req_000003"]
    assert found(limit=9, subject="user-001") == ["req_000003", "req_000002", "req_000001", "req_000000"]
    assert found(limit=9, state=EventState.DEAD) == ["other", "req_000001"]
    assert found(limit=9, state=EventState.DEAD, subject="user-001") == ["req_000001"]
    assert found(limit=9, state=EventState.ACCEPTED) == []
    assert found(limit=0) == []


def test_a_probe_leaves_nothing_behind(connection: sqlite3.Connection) -> None:
    ledger.probe(connection)
    assert connection.execute("SELECT count(*) FROM probe").fetchone() == (0,)


def test_a_response_given_twice_within_a_day_is_recorded_once(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/t.db")
    database.create()
    day_ms = 24 * HOUR_MS
    with database.transaction() as connection:
        for number, after_ms in enumerate((0, 1, day_ms, day_ms + 2)):
            one = settlement(f"req_{number}", response_id="resp_1", time_ms=TIME_MS + after_ms)
            ledger.record_once(connection, one)
        assert [one.settlement.id for one in ledger.newest(connection, limit=9)] == ["req_3", "req_0"]
