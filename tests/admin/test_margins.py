"""What tenants are charged, beside what they cost, by a plan that charges 0.000002 USD for each token."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.admin.operation import Context
from proxy.admin.usage import ReportUsage, UsageReport, report_usage
from proxy.billing.onboarding import Person, onboard
from proxy.instants import parse_instant
from proxy.model import Cost, CostState, Usage
from proxy.money import PICO
from proxy.settings import load
from proxy.store.database import Database
from proxy.store.ledger import record
from tests.billing.catalogs import FREE, UNIT, catalog, plan_text
from tests.store.samples import settlement

OF = catalog(plan_text("starter", UNIT), plan_text("free", FREE))
NOW = parse_instant("2026-04-20T00:00:00Z")
PRICED = Cost(PICO // 8, CostState.PRICED)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    database = Database(f"sqlite:///{tmp_path}/tollgate.db")
    database.create()
    with closing(database.connect()) as made:
        onboard(made, OF, Person("user-001"), "starter", zone="UTC", now_ms=parse_instant("2026-04-10T00:00:00Z"))
        yield made


def report(connection: sqlite3.Connection, tmp_path: Path, group_by: str = "tenant") -> UsageReport:
    asked = ReportUsage.model_validate({"from": "2026-04-01", "to": "2026-05-01", "group_by": group_by, "costs": True})
    return report_usage.do(Context(connection, load({}, directory=tmp_path), NOW), asked)


def test_the_margin_is_what_is_charged_less_the_cost(connection: sqlite3.Connection, tmp_path: Path) -> None:
    of = [settlement(f"req_{at}", usage=Usage(7_000, text_output=500), cost=PRICED, time_ms=NOW - 1) for at in range(2)]
    record(connection, of)
    margin = report(connection, tmp_path).margins["user-001"]
    assert (margin.revenue, margin.margin_usd) == ({"USD": "0.03"}, "-0.22")


@pytest.mark.parametrize("state", [CostState.UNPRICED, CostState.UNKNOWN])
def test_it_is_not_known_where_something_has_no_price(
    connection: sqlite3.Connection, tmp_path: Path, state: CostState
) -> None:
    record(connection, [settlement("req_1", cost=Cost(0, state), time_ms=NOW - 1)])
    margin = report(connection, tmp_path).margins["user-001"]
    assert margin.margin_usd is None
    assert margin.revenue


def test_who_is_not_billed_here_has_none(connection: sqlite3.Connection, tmp_path: Path) -> None:
    record(connection, [settlement("req_1", subject="stranger", cost=PRICED, time_ms=NOW - 1)])
    margin = report(connection, tmp_path).margins["stranger"]
    assert (margin.revenue, margin.margin_usd) == ({}, None)


def test_other_groups_have_none(connection: sqlite3.Connection, tmp_path: Path) -> None:
    record(connection, [settlement("req_1", cost=PRICED, time_ms=NOW - 1)])
    assert report(connection, tmp_path, "tenant,model").margins == {}
