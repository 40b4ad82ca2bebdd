from __future__ import annotations

import sqlite3

import pytest

from proxy.admin.standings import Standing, standing_json, standings
from proxy.instants import iso, parse_instant
from proxy.limits import Calendar
from proxy.model import Counted, Limit, Unit, Window
from proxy.store.ledger import record
from tests.cli.conftest import settlement

NOW_MS = parse_instant("2026-11-25T21:17:05Z")
ANCHOR_MS = parse_instant("2026-01-15T08:30:00Z")


def limit(unit: Unit, window: Window = Window.TOTAL, value: int = 1_000, **filters: str) -> Limit:
    return Limit(Counted("tenant", "acme", unit, window, anchor_ms=ANCHOR_MS, **filters), value, "tenant")


def standing_of(connection: sqlite3.Connection, *limits: Limit, calendar: Calendar | None = None) -> list[Standing]:
    return standings(connection, limits, calendar or Calendar(), NOW_MS)


@pytest.mark.parametrize(
    ("window", "renews", "used"),
    [
        (Window.MINUTE, None, 1),
        (Window.HOUR, "2026-11-25T22:00:00.000Z", 2),
        (Window.DAY, "2026-11-26T00:00:00.000Z", 3),
        (Window.PERIOD, "2026-12-15T08:30:00.000Z", 4),
        (Window.MONTH, "2026-12-01T00:00:00.000Z", 5),
        (Window.TOTAL, None, 6),
    ],
)
def test_each_window_has_what_arrived_in_it_and_renews_when_it_ends(
    connection: sqlite3.Connection, window: Window, renews: str | None, used: int
) -> None:
    arrived = ["2026-11-25T21:17:00Z", "2026-11-25T21:01:00Z", "2026-11-25T00:00:00Z", "2026-11-15T08:30:00Z"]
    arrived += ["2026-11-15T08:29:59Z", "2026-10-31T23:59:59Z"]
    record(connection, [settlement(f"req_{at}", time_ms=parse_instant(at)) for at in arrived])
    (found,) = standing_of(connection, limit(Unit.REQUESTS, window))
    told_json = standing_json(found)
    assert (told_json["used"], told_json["remaining"], told_json["renews_at"]) == (used, 1_000 - used, renews)


def test_limits_are_told_in_one_order_whatever_they_come_from(connection: sqlite3.Connection) -> None:
    of_key = Limit(Counted("key", "key_1", Unit.TOKENS, Window.DAY), 5, "key")
    in_order = [
        limit(Unit.REQUESTS, Window.MINUTE),
        limit(Unit.TOKENS, Window.DAY),
        of_key,
        limit(Unit.TOKENS, Window.DAY, kind="output"),
        limit(Unit.TOKENS, Window.DAY, model="gpt-4o"),
        limit(Unit.TOKENS, Window.MONTH),
        limit(Unit.INFLIGHT),
    ]
    assert [one.limit for one in standing_of(connection, *reversed(in_order))] == in_order


def test_what_is_not_summed_over_time_comes_last_and_without_usage(connection: sqlite3.Connection) -> None:
    order = [Unit.MAX_TOKENS, Unit.TOKENS, Unit.INFLIGHT, Unit.REQUESTS]
    found = standing_of(connection, *map(limit, order))
    assert [(one.limit.counted.unit, one.used, one.left, one.renews_ms) for one in found] == [
        (Unit.REQUESTS, 0, 1_000, None),
        (Unit.TOKENS, 0, 1_000, None),
        (Unit.INFLIGHT, None, None, None),
        (Unit.MAX_TOKENS, None, None, None),
    ]
    assert [standing_json(one)["window"] for one in found] == ["total", "total", None, None]


def test_what_is_beyond_a_limit_leaves_nothing_and_not_less(connection: sqlite3.Connection) -> None:
    record(connection, [settlement("req_1")])
    (found,) = standing_of(connection, limit(Unit.TOKENS, value=100))
    assert (found.used, found.left) == (247, 0)


def test_days_begin_in_the_calendar_s_time_zone(connection: sqlite3.Connection) -> None:
    (found,) = standing_of(connection, limit(Unit.TOKENS, Window.DAY), calendar=Calendar.of("Europe/Berlin"))
    assert found.renews_ms is not None
    assert iso(found.renews_ms) == "2026-11-25T23:00:00.000Z"


def test_filters_are_told_and_null_where_there_are_none(connection: sqlite3.Connection) -> None:
    plain, filtered = standing_of(
        connection, limit(Unit.TOKENS, Window.DAY), limit(Unit.TOKENS, Window.DAY, model="gpt-4o*", kind="output")
    )
    assert [(one["limit"], one["model"], one["kind"]) for one in map(standing_json, (plain, filtered))] == [
        ("tokens/day", None, None),
        ("tokens/day (output of gpt-4o*)", "gpt-4o*", "output"),
    ]
