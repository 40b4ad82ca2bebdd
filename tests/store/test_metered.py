from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from operator import attrgetter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.model import BUCKETS, UNITS, Settlement
from proxy.store.database import begin
from proxy.store.ledger import HOUR_MS, record
from proxy.store.metered import Totals, events, hours
from tests.store.samples import TIME_MS, any_settlement, settlement

HOUR = TIME_MS // HOUR_MS


def test_events_are_those_of_the_subject_in_the_order_of_their_times(connection: sqlite3.Connection) -> None:
    later, first, last = (settlement(name, time_ms=TIME_MS + at) for name, at in (("b", 5), ("a", 0), ("c", 9)))
    record(connection, [later, first, last, settlement("d", subject="user-002")])
    assert [one.id for one in events(connection, "user-001", TIME_MS, TIME_MS + 9)] == ["a", "b"]
    assert [*events(connection, "user-001", TIME_MS, TIME_MS + 1)] == [first]
    assert [*events(connection, "nobody", 0, 2**53)] == []


def amounts(found: Sequence[Settlement | Totals]) -> list[int]:
    """What they come to, each bucket and unit by itself."""
    of_usage, of_units = attrgetter(*BUCKETS), attrgetter(*UNITS)
    rows = [(*of_usage(one.usage), *of_units(one.units)) for one in found]
    return [sum(column) for column in zip(*rows, strict=True)]


def places(found: Sequence[Settlement | Totals]) -> set[tuple[str, str]]:
    return {(one.endpoint, one.usage_source) for one in found}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(any_settlement, max_size=6, unique_by=lambda one: one.id))
def test_totals_are_the_sums_of_the_events(connection: sqlite3.Connection, found: list[Settlement]) -> None:
    with begin(connection):
        connection.execute("DELETE FROM events")
        connection.execute("DELETE FROM rollups")
        record(connection, found)
    totals = [*hours(connection, "user-001", HOUR, HOUR + 1)]
    inside = [one for one in found if one.subject == "user-001" and one.time_ms // HOUR_MS == HOUR]
    assert sum(one.requests for one in totals) == len(inside)
    assert amounts(totals) == amounts(inside)
    assert places(totals) == places(inside)
    assert len({(one.model, one.endpoint, one.usage_source) for one in totals}) == len(totals)
