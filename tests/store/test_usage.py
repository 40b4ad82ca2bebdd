"""What reports of usage must hold: the sums of the events, however they are told apart."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from itertools import count
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import TooMuch
from proxy.instants import HOUR_MS, Period
from proxy.limits import Calendar
from proxy.model import BUCKETS, UNITS, CostState, Settlement, Units, Usage, UsageSource
from proxy.store.database import Database, begin
from proxy.store.ledger import record
from proxy.store.tenants import create_key, create_tenant
from proxy.store.usage import Bounds, Costs, Group, Line, Report, first_ms, has_usage, key_names, parse_groups, report
from tests.running import EVER
from tests.store.samples import TIME_MS, any_settlement, settlement, settlements

BERLIN = Calendar.of("Europe/Berlin")
HOUR = TIME_MS // HOUR_MS * HOUR_MS
DAY_MS = 24 * HOUR_MS

_value_of: dict[Group, Callable[[Settlement], str]] = {
    Group.TENANT: attrgetter("subject"),
    Group.MODEL: attrgetter("model"),
    Group.ENDPOINT: attrgetter("endpoint"),
    Group.KEY: attrgetter("key_id"),
    Group.SOURCE: lambda one: str(one.usage_source),
    Group.DAY: lambda one: BERLIN.date_of(one.time_ms).isoformat(),
}


def told(
    connection: sqlite3.Connection,
    *groups: Group,
    subject: str = "",
    keys: Collection[str] | None = None,
    bounds: Bounds | None = None,
) -> Report:
    return report(connection, EVER, BERLIN, groups, subject=subject, keys=keys, bounds=bounds)


def requests(found: Report) -> dict[tuple[str, ...], int]:
    return {line.values: line.requests for line in found.lines}


def summed(values: tuple[str, ...], events: Sequence[Settlement]) -> Line:
    """What a line must be, from the events themselves."""

    def of(source: UsageSource) -> tuple[int, int]:
        found = [one.usage.total_tokens for one in events if one.usage_source is source]
        return len(found), sum(found)

    return Line(
        values,
        len(events),
        Usage(*(sum(getattr(one.usage, name) for one in events) for name in BUCKETS)),
        Units(*(sum(getattr(one.units, name) for one in events) for name in UNITS)),
        *of(UsageSource.REPORTED),
        *of(UsageSource.ESTIMATED),
        Costs(
            sum(one.cost.pico_usd for one in events),
            sum(one.cost.state is CostState.PRICED for one in events),
            sum(one.cost.state is CostState.FREE for one in events),
            sum(one.cost.state is CostState.UNPRICED for one in events),
            sum(one.usage.total_tokens for one in events if one.cost.state is CostState.UNPRICED),
        ),
    )


#: Over some days, one of which has 23 hours in Berlin, and with few enough models that many share a line.
an_event = st.builds(
    lambda one, time_ms, model: settlement(
        *(one.id,),
        **{
            name: getattr(one, name)
            for name in ("subject", "key_id", "endpoint", "usage", "usage_source", "units", "cost")
        },
        time_ms=time_ms,
        model=model,
    ),
    any_settlement,
    st.integers(1_774_650_000_000, 1_774_650_000_000 + 4 * DAY_MS),  # from 2026-03-27T22:20Z on
    st.sampled_from(["gpt-4o", "mødel-🙂", ""]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(an_event, max_size=12),
    st.lists(st.sampled_from(Group), unique=True),
    st.sampled_from(["", "user-001", "nobody"]),
)
def test_any_grouping_sums_the_events_and_its_lines_sum_to_the_totals(
    events: list[Settlement], groups: list[Group], subject: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/tollgate.db")
        database.create()
        with database.transaction() as connection:
            record(connection, events)
        with closing(database.connect(read_only=True)) as connection:
            found = told(connection, *groups, subject=subject)
    mine = [one for one in events if subject in ("", one.subject)]
    apart: dict[tuple[str, ...], list[Settlement]] = {}
    for one in mine:
        apart.setdefault(tuple(_value_of[group](one) for group in groups), []).append(one)
    assert found.lines == [summed(values, apart[values]) for values in sorted(apart)]
    assert found.total == summed((), mine)


def test_the_hours_that_begin_in_a_half_open_interval_are_counted(connection: sqlite3.Connection) -> None:
    times = [HOUR - 1, HOUR, HOUR + HOUR_MS - 1, HOUR + HOUR_MS]
    record(connection, [settlement(f"req_{at}", time_ms=at) for at in times])

    def counted(from_ms: int, to_ms: int) -> int:
        return report(connection, Period(from_ms, to_ms), BERLIN).total.requests

    assert counted(HOUR, HOUR + HOUR_MS) == 2
    assert counted(HOUR, HOUR + 2 * HOUR_MS) == 3
    assert counted(HOUR - HOUR_MS, HOUR) == 1
    assert counted(HOUR + 5 * HOUR_MS, HOUR + 9 * HOUR_MS) == 0
    assert counted(0, HOUR_MS * 2**33) == 4


def test_a_day_is_the_calendars(connection: sqlite3.Connection) -> None:
    record(connection, [settlement(f"req_{hour}", time_ms=HOUR + hour * HOUR_MS) for hour in range(24)])  # from 10:00Z
    assert requests(told(connection, Group.DAY)) == {("2026-04-13",): 12, ("2026-04-14",): 12}
    in_utc = report(connection, EVER, Calendar(), [Group.DAY])
    assert requests(in_utc) == {("2026-04-13",): 14, ("2026-04-14",): 10}


def test_values_stand_in_the_order_that_was_asked_for(connection: sqlite3.Connection) -> None:
    record(connection, [settlement("req_1"), settlement("req_2", model="a", time_ms=TIME_MS + DAY_MS)])
    by_model = told(connection, Group.MODEL, Group.DAY)
    assert [line.values for line in by_model.lines] == [
        ("a", "2026-04-14"),
        ("gpt-4o-mini-2024-07-18", "2026-04-13"),
    ]
    assert [line.values[0] for line in told(connection, Group.DAY, Group.MODEL).lines] == ["2026-04-13", "2026-04-14"]


def test_reported_and_estimated_are_apart_also_where_lines_are_not(connection: sqlite3.Connection) -> None:
    record(connection, settlements(3))
    record(connection, [settlement("guessed", usage_source=UsageSource.ESTIMATED, usage=Usage(text_output=9))])
    record(connection, [settlement("failed", usage_source=UsageSource.NONE, usage=Usage())])
    (line,) = told(connection, Group.TENANT).lines
    assert (line.requests, line.usage.total_tokens) == (5, 3 * 247 + 9)
    assert (line.reported_requests, line.reported_tokens) == (3, 3 * 247)
    assert (line.estimated_requests, line.estimated_tokens) == (1, 9)
    assert requests(told(connection, Group.SOURCE)) == {("estimated",): 1, ("none",): 1, ("reported",): 3}


def test_keys_that_are_not_to_be_told_are_one(connection: sqlite3.Connection) -> None:
    record(connection, [settlement(f"req_{number}", key_id=f"key_{number % 3}") for number in range(9)])
    assert requests(told(connection, Group.KEY, keys={"key_1"})) == {("",): 6, ("key_1",): 3}
    assert requests(told(connection, Group.KEY, keys=())) == {("",): 9}
    assert requests(told(connection, Group.KEY)) == {("key_0",): 3, ("key_1",): 3, ("key_2",): 3}
    assert requests(told(connection, keys=())) == {(): 9}


def test_a_keys_tenant_and_the_subject_have_the_keys_that_are_known(connection: sqlite3.Connection) -> None:
    ids = {}
    for tenant in ("mine", "speaker", "other"):
        create_tenant(connection, tenant, now_ms=1)
        ids[tenant] = create_key(connection, tenant, name=f"{tenant}'s", now_ms=1)[0].id
    mine, speaker = {ids["mine"]: "mine's"}, {ids["speaker"]: "speaker's"}
    assert key_names(connection, "mine", ids["mine"]) == mine
    assert key_names(connection, "mine", ids["speaker"]) == mine | speaker
    assert key_names(connection, "no tenant", ids["speaker"]) == speaker


def test_what_is_too_much_ends_with_it(connection: sqlite3.Connection) -> None:
    record(connection, [settlement(f"req_{number}", model=f"model-{number}") for number in range(11)])
    assert len(told(connection, Group.MODEL, bounds=Bounds(11, 60)).lines) == 11
    assert told(connection, bounds=Bounds(1, 60)).total.requests == 11
    with pytest.raises(TooMuch, match="more than 10 rows"):
        told(connection, Group.MODEL, bounds=Bounds(10, 60))
    clock = count(0, 7)
    with pytest.raises(TooMuch, match="too long"):
        report(connection, EVER, BERLIN, bounds=Bounds(10, 5), monotonic=lambda: next(clock))


def test_the_largest_counts_are_summed_exactly(connection: sqlite3.Connection) -> None:
    most = Usage(*[2**53] * 7)
    for start in range(0, 1000, 100):
        record(connection, [settlement(f"req_{start + number}", usage=most) for number in range(100)])
    assert told(connection).total.usage == Usage(*[1000 * 2**53] * 7)


def test_sums_beyond_sqlites_integers_stop_at_the_largest(connection: sqlite3.Connection) -> None:
    much = Usage(text_output=2**62)
    record(connection, [settlement(f"req_{number}", usage=much) for number in range(4)])
    record(connection, [settlement("req_more", usage=much)])
    assert told(connection).total.requests == 5
    assert told(connection).total.usage.text_output == 2**63 - 1
    record(connection, [settlement("req_tomorrow", usage=much, time_ms=TIME_MS + DAY_MS)])
    assert told(connection).total.usage.text_output == 2**63 - 1
    record(connection, [settlement("req_later", usage=much, time_ms=TIME_MS + HOUR_MS)])
    with pytest.raises(sqlite3.OperationalError, match="integer overflow"):
        told(connection)  # never a float


def test_a_subject_that_has_used_anything_is_known(connection: sqlite3.Connection) -> None:
    record(connection, settlements(1))
    assert has_usage(connection, "user-001")
    assert not has_usage(connection, "user-002")


def test_groups_are_words_with_commas() -> None:
    assert parse_groups("model, day", tuple(Group)) == (Group.MODEL, Group.DAY)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "'': use one or more of model, day"),
        ("model,", "'': use one"),
        ("key", "'key': use one"),
        ("MODEL", "'MODEL': use one"),
        ("model,day,model", "'model' stands there twice"),
        ("x" * 1_000, f"'{'x' * 100}': use"),
    ],
)
def test_what_is_no_group_is_refused_with_those_there_are(words: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        parse_groups(words, (Group.MODEL, Group.DAY))


def test_the_fields_are_named_as_in_events() -> None:
    fields: dict[str, Any] = {str(group): group.field for group in Group}
    assert fields == {
        "tenant": "subject",
        "model": "model",
        "endpoint": "endpoint",
        "day": "day",
        "key": "key_id",
        "source": "usage_source",
    }


def test_the_first_use_of_a_subject_is_known_to_the_millisecond(connection: sqlite3.Connection) -> None:
    assert first_ms(connection, "acme") is None
    with begin(connection):
        for name, subject, ms in (("a", "acme", 5_000), ("b", "acme", 4_999), ("c", "other", 0)):
            record(connection, [settlement(name, subject=subject, time_ms=TIME_MS + ms)])
    assert first_ms(connection, "acme") == TIME_MS + 4_999
