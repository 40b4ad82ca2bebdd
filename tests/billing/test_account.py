"""The billing periods that people ask for, over a tenant's subscriptions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.billing.account import Account, Wanted
from proxy.billing.onboarding import Person, cancel, change, onboard
from proxy.errors import StoreError
from proxy.instants import iso_short, parse_instant
from proxy.limits import Calendar
from proxy.store import tenants
from proxy.store.database import Database
from proxy.store.ledger import record
from tests.billing.catalogs import FEE, UNIT, catalog, plan_text
from tests.store.samples import settlement

OF = catalog(plan_text("starter", UNIT), plan_text("pro", FEE, UNIT))
UTC = Calendar()


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Of user-001, on `starter` since 10 April, and on `pro` since 15 June."""
    database = Database(f"sqlite:///{tmp_path}/tollgate.db")
    database.create()
    with closing(database.connect()) as made:
        person = Person("user-001")
        onboard(made, OF, person, "starter", zone="UTC", now_ms=parse_instant("2026-04-10T00:00:00Z"))
        change(made, OF, "user-001", "pro", now_ms=parse_instant("2026-06-15T00:00:00Z"))
        yield made


def asked(connection: sqlite3.Connection, wanted: Wanted, now: str = "2026-07-20") -> tuple[str, str, str, str]:
    found = Account(connection, "user-001").invoice(wanted, UTC, parse_instant(now))
    begins, ends = (iso_short(ms)[:10] for ms in (found.period.from_ms, found.period.to_ms))
    return begins, ends, found.snapshot.plan.key, str(found.total)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(), ("2026-07-10", "2026-08-10", "pro", "20.00")),
        (Wanted("previous"), ("2026-06-15", "2026-07-10", "pro", "16.67")),
        (Wanted("2026-04"), ("2026-04-10", "2026-05-10", "starter", "0.00")),
        (Wanted("2026-05"), ("2026-05-10", "2026-06-10", "starter", "0.00")),
        (Wanted("2026-08"), ("2026-08-10", "2026-09-10", "pro", "20.00")),
        (Wanted(begin="2026-06-12"), ("2026-06-10", "2026-06-15", "starter", "0.00")),
        (Wanted(begin="2026-06-20", end="2026-06-21"), ("2026-06-20", "2026-06-21", "pro", "0.67")),
        (Wanted(begin="2026-07-10", end="2026-10-10"), ("2026-07-10", "2026-10-10", "pro", "60.00")),
    ],
)
def test_the_period_that_is_asked_for(
    connection: sqlite3.Connection, wanted: Wanted, found: tuple[str, str, str, str]
) -> None:
    assert asked(connection, wanted) == found


def test_the_period_before_a_change_is_billed_by_the_plan_before_it(connection: sqlite3.Connection) -> None:
    assert asked(connection, Wanted("previous"), "2026-06-20") == ("2026-06-10", "2026-06-15", "starter", "0.00")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (
            Wanted("2026-06"),
            "several billing periods begin in 2026-06; name one with --from, of 2026-06-10T00:00:00Z, 2026-",
        ),
        (Wanted("April"), "'April': write current, previous or a month such as 2026-04"),
        (Wanted("2026-13"), "month must be in 1"),
        (Wanted(begin="April"), "'April': write a date"),
        (Wanted(begin="2026-06-20", end="2026-06-20"), "2026-06-20 is not after 2026-06-20"),
    ],
)
def test_what_is_no_period_is_told(connection: sqlite3.Connection, wanted: Wanted, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        asked(connection, wanted)


@pytest.mark.parametrize(
    ("wanted", "now", "words"),
    [
        (Wanted("2026-03"), "2026-07-20", "no billing period begins in 2026-03"),
        (Wanted("previous"), "2026-04-20", "there was no subscription at 2026-04-09T23:59:59Z"),
        (Wanted(begin="2026-04-01", end="2026-04-20"), "2026-07-20", "there was no subscription at 2026-04-01"),
        (Wanted(begin="2026-06-01", end="2026-07-01"), "2026-07-20", "the plan, or its phase, changes within it"),
    ],
)
def test_what_was_not_billed_is_told_with_since_when_it_is(
    connection: sqlite3.Connection, wanted: Wanted, now: str, words: str
) -> None:
    with pytest.raises(StoreError, match=words) as refused:
        asked(connection, wanted, now)
    assert str(refused.value).endswith("(tenant user-001 is subscribed since 2026-04-10T00:00:00Z)")


def test_after_its_end_the_last_period_is_the_previous_one(connection: sqlite3.Connection) -> None:
    cancel(connection, "user-001", now_ms=parse_instant("2026-07-20T00:00:00Z"))
    assert asked(connection, Wanted("previous"), "2026-12-01") == ("2026-07-10", "2026-07-20", "pro", "6.45")
    with pytest.raises(StoreError, match=r"since 2026-04-10T00:00:00Z until 2026-07-20T00:00:00Z"):
        asked(connection, Wanted(), "2026-12-01")


def test_a_past_invoice_stays_when_the_catalog_changes(connection: sqlite3.Connection) -> None:
    record(connection, [settlement("a", time_ms=parse_instant("2026-04-11T00:00:00Z"))])
    before = Account(connection, "user-001").invoice(Wanted("2026-04"), UTC, 0)
    dearer = catalog(plan_text("starter", UNIT.replace('"0.000002"', '"100", confirmed = true')))
    change(connection, dearer, "user-001", "starter", now_ms=parse_instant("2026-07-20T00:00:00Z"))
    assert Account(connection, "user-001").invoice(Wanted("2026-04"), UTC, 0) == before


def test_months_are_those_of_the_calendar_that_is_given(connection: sqlite3.Connection) -> None:
    late = Calendar.of("Pacific/Kiritimati")  # where it is 10 April at 10 o'clock the day before
    found = Account(connection, "user-001").invoice(Wanted(begin="2026-05-10"), late, 0)
    assert iso_short(found.period.from_ms) == "2026-04-10T00:00:00Z"


def test_who_never_had_a_subscription_is_told_how_to_make_one(connection: sqlite3.Connection) -> None:
    tenants.create_tenant(connection, "user-002", now_ms=0)
    with pytest.raises(StoreError, match="make one: tollgate billing onboard user-002 --plan PLAN"):
        Account(connection, "user-002")
    with pytest.raises(StoreError, match="there is no tenant nobody"):
        Account(connection, "nobody")


@pytest.mark.parametrize(
    ("begins", "ends", "charged"),
    [
        ("2026-07-10", "2026-08-10", "20.00"),  # a whole period of pro
        ("2026-07-10", "2026-09-10", "40.00"),  # and two
        ("2026-06-01", "2026-07-10", "16.67"),  # of starter, which is free without usage, and of pro's first part
        ("2026-07-10", "2026-07-20", "6.45"),  # ten days of thirty-one
        ("2026-01-01", "2026-04-10", None),  # before it was subscribed
        ("2026-09-10", "2026-12-10", None),  # and after now
    ],
)
def test_what_is_charged_for_a_span_is_the_sum_of_its_periods_and_their_parts(
    connection: sqlite3.Connection, begins: str, ends: str, charged: str | None
) -> None:
    span = parse_instant(begins), parse_instant(ends)
    found = Account(connection, "user-001").revenue(*span, parse_instant("2026-09-10"))
    assert {currency: str(amount) for currency, amount in found.items()} == ({"USD": charged} if charged else {})


def test_nothing_is_charged_after_a_subscription_has_ended(connection: sqlite3.Connection) -> None:
    cancel(connection, "user-001", now_ms=parse_instant("2026-07-20"))
    span = parse_instant("2026-07-10"), parse_instant("2026-12-10")
    found = Account(connection, "user-001").revenue(*span, parse_instant("2026-12-31"))
    assert str(found["USD"]) == "6.45"
