from __future__ import annotations

import sqlite3
from pathlib import Path

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from proxy.model import Settlement
from proxy.store import followups, ledger
from proxy.store.database import Database
from tests.store.samples import any_settlement, settlement


def connect(directory: Path) -> sqlite3.Connection:
    database = Database(f"sqlite:///{directory}/t.db")
    database.create()
    return database.connect()


def test_what_is_due_comes_longest_waiting_first_until_it_is_postponed_or_settled(tmp_path: Path) -> None:
    connection = connect(tmp_path)
    for number, next_ms in enumerate((30, 10, 20)):
        one = settlement(f"req_{number}", response_id=f"resp_{number}")
        followups.add(connection, one, next_ms=next_ms, until_ms=99)
    assert followups.next_ms(connection) == 10
    assert [one.response_id for one in followups.due(connection, 20, 9)] == ["resp_1", "resp_2"]
    followups.postpone(connection, "req_1", 50)
    assert [(one.response_id, one.tries) for one in followups.due(connection, 50, 9)] == [
        ("resp_2", 0),
        ("resp_0", 0),
        ("resp_1", 1),
    ]
    for number in range(3):
        followups.settle(connection, settlement(f"req_{number}"))
    assert followups.next_ms(connection) is None
    assert len(ledger.newest(connection, limit=9)) == 3
    connection.close()


def test_those_of_a_response_are_found_with_the_place_of_its_key(tmp_path: Path) -> None:
    connection = connect(tmp_path)
    for number in range(2):
        one = settlement(f"req_{number}", response_id=f"resp_{number}")
        followups.add(connection, one, next_ms=9, until_ms=99, upstream_key=f"env:KEY_{number}")
    (found,) = followups.of_response(connection, "resp_1")
    assert (found.settlement.id, found.upstream_key) == ("req_1", "env:KEY_1")
    assert followups.of_response(connection, "resp_2") == []
    connection.close()


def test_it_is_settled_once_however_often_its_end_is_seen(tmp_path: Path) -> None:
    connection = connect(tmp_path)
    one = settlement("req_1", response_id="resp_1")
    followups.add(connection, one, next_ms=0, until_ms=9)
    followups.settle(connection, one)
    followups.settle(connection, one)
    assert len(ledger.newest(connection, limit=9)) == 1
    connection.close()


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(one=any_settlement)
def test_every_settlement_comes_back_as_it_was(tmp_path: Path, one: Settlement) -> None:
    connection = connect(tmp_path)
    connection.execute("DELETE FROM followups")
    followups.add(connection, one, next_ms=0, until_ms=9)
    (pending,) = followups.due(connection, 0, 9)
    assert pending.settlement == one
    connection.close()
