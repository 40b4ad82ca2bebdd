from __future__ import annotations

import sqlite3
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.limits import SLIDING_MS, Calendar, amount_of, counts
from proxy.model import Cost, CostState, Counted, Settlement, Unit, Usage, Window
from proxy.store import queries
from proxy.store.database import begin
from proxy.store.ledger import HOUR_MS, record
from proxy.store.spent import spent, spent_by_second
from tests.store.samples import TIME_MS, settlement
from tests.store.test_queries import plan

#: Half past the hour: days there begin in the middle of a rollup.
CALENDARS = (Calendar(), Calendar(ZoneInfo("Asia/Kolkata")), Calendar(ZoneInfo("America/St_Johns")))
counted = st.builds(
    Counted,
    scope=st.just("tenant"),
    owner=st.sampled_from(["user-001", "user-002"]),
    unit=st.sampled_from([Unit.TOKENS, Unit.REQUESTS, Unit.USD]),
    window=st.sampled_from(Window),
    model=st.sampled_from(["", "gpt-4o*", "o3"]),
    kind=st.sampled_from(["", "input", "output", "reasoning"]),
    anchor_ms=st.sampled_from([0, TIME_MS - 1_234_567]),
)
ages = st.integers(0, 3 * SLIDING_MS) | st.integers(0, 60 * 86_400_000)


@given(
    st.lists(
        st.tuples(ages, st.sampled_from(["user-001", "user-002"]), st.sampled_from(["o3", "gpt-4o"])), max_size=12
    ),
    counted,
    st.sampled_from(CALENDARS),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_was_spent_is_the_sum_of_the_events_in_the_window(
    connection: sqlite3.Connection, given_: list[tuple[int, str, str]], what: Counted, calendar: Calendar
) -> None:
    events = [
        settlement(
            f"req_{n}",
            time_ms=TIME_MS - age,
            subject=who,
            model=model,
            usage=Usage(1 << n, 2, text_output=4, reasoning=8),
            cost=Cost((1 << n) + 123_456_789_012_345, CostState.PRICED),
        )
        for n, (age, who, model) in enumerate(given_)
    ]
    with begin(connection):
        connection.execute("DELETE FROM events")
        connection.execute("DELETE FROM rollups")
        record(connection, events)
    start_ms, end_ms = calendar.bounds(what.window, TIME_MS, what.anchor_ms)
    if what.window is Window.MINUTE:
        end_ms += 1_000

    def is_counted(one: Settlement) -> bool:
        return one.subject == what.owner and start_ms <= one.time_ms < end_ms and counts(what, one.model)

    assert spent(connection, what, calendar, TIME_MS) == sum(
        amount_of(what, one.usage, one.cost.pico_usd) for one in events if is_counted(one)
    )


def test_money_is_summed_beyond_the_integers_of_a_row(connection: sqlite3.Connection) -> None:
    most = Cost(2**63 - 1, CostState.PRICED)
    with begin(connection):
        record(connection, [settlement(str(n), time_ms=TIME_MS - n * 3_600_000, cost=most) for n in range(3)])
    assert (
        spent(connection, Counted("tenant", "user-001", Unit.USD, Window.TOTAL), Calendar(), TIME_MS)
        == 3 * most.pico_usd
    )


def test_a_keys_usage_is_counted_whoever_it_acted_for(connection: sqlite3.Connection) -> None:
    with begin(connection):
        record(connection, [settlement("1", key_id="k", subject="a"), settlement("2", key_id="k", subject="b")])
    assert spent(connection, Counted("key", "k", Unit.REQUESTS, Window.TOTAL), Calendar(), TIME_MS) == 2


def test_a_minute_comes_in_seconds(connection: sqlite3.Connection) -> None:
    with begin(connection):
        record(
            connection,
            [settlement(str(n), time_ms=TIME_MS - age) for n, age in enumerate((0, 300, 999, 30_001, 70_000))],
        )
    found = spent_by_second(
        connection, Counted("tenant", "user-001", Unit.REQUESTS, Window.MINUTE), Calendar(), TIME_MS
    )
    assert found == [(TIME_MS - 31_000, 1), (TIME_MS - 1_000, 2), (TIME_MS, 1)]


def test_what_is_in_flight_is_not_in_the_ledger(connection: sqlite3.Connection) -> None:
    assert spent(connection, Counted("tenant", "user-001", Unit.INFLIGHT, Window.TOTAL), Calendar(), TIME_MS) == 0


@pytest.mark.parametrize("scope", ["tenant", "key"])
def test_only_the_owners_rollups_are_read(connection: sqlite3.Connection, scope: str) -> None:
    found = plan(connection, queries.SPENT_BY[scope])
    assert "SEARCH rollups USING" in found
    assert "hour>? AND hour<?" in found
    assert plan(connection, queries.SPENT_LATELY_BY[scope]).startswith("SEARCH events USING INDEX events_by_time")
    assert "SEARCH rollups USING" in (found := plan(connection, queries.SPENT_SINCE[scope]))
    assert "hour>?" in found


@pytest.mark.parametrize("scope", ["tenant", "key"])
def test_the_last_minute_is_looked_through_only_for_who_used_something_in_its_hours(
    connection: sqlite3.Connection, scope: str
) -> None:
    hour_ms = TIME_MS - TIME_MS % HOUR_MS
    owner = {"tenant": "user-001", "key": "key_1"}[scope]
    of = Counted(scope, owner, Unit.REQUESTS, Window.MINUTE)
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    record(connection, [settlement("1", time_ms=hour_ms - 1_000)])
    assert spent(connection, of, Calendar(), hour_ms + 30_000) == 1  # of the hour before
    assert any("events_by_time" in statement for statement in asked)
    asked.clear()
    assert spent(connection, of, Calendar(), hour_ms + 2 * HOUR_MS) == 0
    assert not any("events_by_time" in statement for statement in asked)
