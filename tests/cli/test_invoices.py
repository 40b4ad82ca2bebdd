from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from proxy.billing import onboarding
from proxy.billing.catalog_file import load
from proxy.billing.onboarding import Person
from proxy.cli.instants import now_ms
from proxy.instants import parse_instant
from proxy.model import Usage
from tests.billing.catalogs import BASE, plan_text
from tests.cli.conftest import Command, settlement

START = "2026-04-10T00:00:00Z"
APRIL = ("--period", "2026-04")


@pytest.fixture(autouse=True)
def acme(tollgate: Command) -> None:
    """On the plan `pro` since 10 April, with 15,000 tokens then."""
    with tollgate.database.transaction() as connection:
        person = Person("acme", "Acme Inc.", wants_key=False)
        onboarding.onboard(connection, load(None), person, "pro", zone="UTC", now_ms=parse_instant(START))
    usage = Usage(uncached_input=5_000, text_output=10_000)
    tollgate.record(settlement("req_1", time_ms=parse_instant("2026-04-11T00:00:00Z"), usage=usage))


def test_json_is_what_programs_are_promised(tollgate: Command) -> None:
    found = tollgate.json("billing", "invoice", "acme", *APRIL)
    assert set(found) == {"tenant", "period", "currency", "lines", "total"}
    assert found["tenant"] == "acme"
    assert found["period"] == {"from": "2026-04-10T00:00:00.000Z", "to": "2026-05-10T00:00:00.000Z"}
    assert [(one["key"], one["quantity"], one["amount"]) for one in found["lines"]] == [
        ("base_fee", 1, "20.00"),
        ("ai_tokens", 15_000, "0.01"),  # 10,000 of them are free
    ]
    assert (found["currency"], found["total"]) == ("USD", "20.01")


def test_people_see_a_table(tollgate: Command) -> None:
    said = tollgate.done("billing", "invoice", "acme", *APRIL)
    assert said.startswith("Invoice for acme from 2026-04-10T00:00:00Z until 2026-05-10T00:00:00Z\nPlan pro, version 1")
    rows = [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in said.splitlines()[2:]]
    assert rows[0] == ["item", "quantity", "unit price", "discount", "amount in USD"]
    assert [row for row in rows[2:] if row] == [
        ["Base fee", "1", "20", "20.00"],
        ["AI tokens", "15,000", "0.01"],
        ["of these free", "10,000"],
        ["tier 1, up to 1,000,000", "5,000", "0.000002", "0.01"],
        ["total", "20.01"],
    ]


def test_spreadsheets_get_rows(tollgate: Command) -> None:
    rows = [*csv.DictReader(io.StringIO(tollgate.done("billing", "invoice", "acme", *APRIL, "--csv")))]
    assert [(row["key"], row["amount"]) for row in rows] == [
        ("base_fee", "20.00"),
        ("ai_tokens", "0.01"),
        ("total", "20.01"),
    ]


def test_a_page_is_written_or_printed(tollgate: Command) -> None:
    page = tollgate.done("billing", "invoice", "acme", *APRIL, "--html", "-")
    assert page.startswith("<!DOCTYPE html>")
    assert "Acme Inc. (acme)" in page
    said = tollgate.done("billing", "invoice", "acme", *APRIL, "--html", "invoice.html")
    assert said == "The invoice is in invoice.html.\n"
    assert Path("invoice.html").read_text("utf-8") == page
    assert "No such file" in tollgate.refused("billing", "invoice", "acme", "--html", "nowhere/invoice.html")


def test_without_a_period_it_is_the_running_one(tollgate: Command) -> None:
    tollgate.record(settlement("req_2", time_ms=now_ms()))
    found = tollgate.json("billing", "invoice", "acme")
    assert parse_instant(found["period"]["from"]) <= now_ms() < parse_instant(found["period"]["to"])
    assert found["lines"][1]["quantity"] == 247
    assert "so far" in tollgate.done("billing", "invoice", "acme")
    before = tollgate.json("billing", "invoice", "acme", "--period", "previous")
    assert before["period"]["to"] == found["period"]["from"]
    assert before["lines"][1]["quantity"] == 0


def test_a_span_of_ones_own(tollgate: Command) -> None:
    found = tollgate.json("billing", "invoice", "acme", "--from", "2026-04-11", "--to", "2026-04-12")
    assert found["lines"][0]["amount"] == "0.67"
    assert found["lines"][1]["quantity"] == 15_000
    same = tollgate.json("billing", "invoice", "acme", "--from", "2026-04-11")
    assert same == tollgate.json("billing", "invoice", "acme", *APRIL)


def test_dates_are_those_of_the_time_zone(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_LIMITS__TIME_ZONE", "Asia/Kolkata")
    found = tollgate.json("billing", "invoice", "acme", "--from", "2026-04-11", "--to", "2026-04-12")
    assert found["period"]["from"] == "2026-04-10T18:30:00.000Z"
    # The subscription's own periods stay those that it began with.
    assert tollgate.json("billing", "invoice", "acme", *APRIL)["period"]["from"] == "2026-04-10T00:00:00.000Z"


def test_an_invoice_stays_when_the_catalog_changes(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tollgate.json("billing", "invoice", "acme", *APRIL)
    card = 'feature = "ai_tokens"\nprice = { type = "unit", amount = "5", confirmed = true }'
    Path("billing.toml").write_text(BASE + plan_text("pro", card))
    monkeypatch.setenv("TOLLGATE_BILLING__FILE", "billing.toml")
    tollgate.done("billing", "change", "acme", "--plan", "pro")
    assert tollgate.json("billing", "invoice", "acme", *APRIL) == before
    Path("billing.toml").write_text("wrong")
    assert tollgate.json("billing", "invoice", "acme", *APRIL) == before


@pytest.mark.parametrize(
    ("args", "words", "code"),
    [
        (["acme", "--csv", "--json"], "choose one of --csv, --json and --html", 2),
        (["acme", "--csv", "--html", "x"], "choose one of --csv, --json and --html", 2),
        (["acme", "--period", "2026-04", "--from", "2026-04-01"], "choose one of --period and --from", 2),
        (["acme", "--to", "2026-04-01"], "--to: it needs --from", 2),
        (["acme", "--period", "April"], "--period: 'April': write current, previous or a month such as 2026-04", 2),
        (["acme", "--from", "April"], "--from: 'April': write a date", 2),
        (["acme", "--from", "2026-04-12", "--to", "2026-04-11"], "--from, --to: 2026-04-11 is not after 2026-04-12", 2),
        (["acme", "--period", "2026-03"], "no billing period begins in 2026-03 (tenant acme is subscribed since", 1),
        (["nobody"], "there is no tenant nobody", 1),
    ],
)
def test_a_slip_is_told_in_one_line(tollgate: Command, args: list[str], words: str, code: int) -> None:
    assert words in tollgate.refused("billing", "invoice", *args, code=code)


def test_who_has_no_subscription_is_told_the_command_that_makes_one(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "other")
    refusal = tollgate.refused("billing", "invoice", "other")
    assert refusal == "tenant other has no subscription; make one: tollgate billing onboard other --plan PLAN"
