"""An invoice for machines, spreadsheets and paper."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from decimal import Decimal
from fractions import Fraction

import pytest

from proxy.billing.catalog import Snapshot
from proxy.billing.invoice import Invoice
from proxy.billing.money import DIGITS, total
from proxy.billing.periods import BillingPeriod
from proxy.billing.rating import rate
from proxy.billing.statement import money, statement_csv, statement_html, statement_json
from proxy.instants import parse_instant
from proxy.model import Tenant
from proxy.store.subscriptions import Subscription
from tests.billing.catalogs import FEE, UNIT, catalog, plan_text

FROM, TO = parse_instant("2026-04-13T10:30:15Z"), parse_instant("2026-05-13T10:30:15Z")
TIERED = """feature = "ai_tokens"
price = { type = "graduated", tiers = [
  { up_to_amount = 100000, unit_price = "0.000003" },
  { unit_price = "0.000002" },
] }
discounts = { usage = 10000, percentage = 10 }"""


def made(
    snapshot: Snapshot, quantities: dict[str, str], *, name: str = "Acme", share: Fraction = Fraction(1)
) -> Invoice:
    (phase, *_) = snapshot.plan.phases
    digits = DIGITS[snapshot.plan.currency]
    lines = tuple(
        rate(card, Decimal(quantities.get(card.key, "1")), digits=digits, share=share) for card in phase.rate_cards
    )
    period = BillingPeriod(FROM, TO, phase, share, is_first=True)
    subscription = Subscription(1, "user-001", snapshot.plan.key, 3, "UTC", FROM, FROM, None)
    owed = total(line.amount for line in lines)
    return Invoice(Tenant("user-001", name, "active", FROM), subscription, snapshot, period, lines, owed, is_open=True)


PRO = catalog(plan_text("pro", FEE, TIERED)).snapshot("pro")


def test_json_has_the_lines_and_the_total() -> None:
    found = json.loads(json.dumps(statement_json(made(PRO, {"ai_tokens": "250000"}))))
    assert list(found) == ["tenant", "period", "currency", "lines", "total"]
    assert (found["tenant"], found["currency"], found["total"]) == ("user-001", "USD", "20.52")
    assert found["period"] == {"from": "2026-04-13T10:30:15.000Z", "to": "2026-05-13T10:30:15.000Z"}
    fee, tokens = found["lines"]
    assert (fee["key"], fee["quantity"], fee["amount"], fee["feature"]) == ("base_fee", 1, "20.00", None)
    assert (tokens["key"], tokens["quantity"], tokens["free"], tokens["amount"]) == (
        "ai_tokens",
        250_000,
        10_000,
        "0.52",
    )
    assert tokens["discount"] == "0.06"
    assert tokens["charges"][0] == {
        "what": "tier 1, up to 100,000",
        "quantity": 100_000,
        "unit_price": "0.000003",
        "discount": "0.03",
        "amount": "0.27",
    }


def test_small_prices_have_no_exponent_and_quantities_that_are_not_whole_are_texts() -> None:
    of = catalog(plan_text("plan", UNIT.replace("0.000002", "0.00000015"))).snapshot("plan")
    (line,) = statement_json(made(of, {"ai_tokens": "0.25"}))["lines"]
    assert (line["quantity"], line["charges"][0]["unit_price"]) == ("0.25", "0.00000015")


def test_csv_has_a_row_for_each_line_and_the_total() -> None:
    rows = [*csv.DictReader(io.StringIO(statement_csv(made(PRO, {"ai_tokens": "250000"}))))]
    assert [(row["key"], row["quantity"], row["free"], row["discount"], row["amount"]) for row in rows] == [
        ("base_fee", "1", "0", "0.00", "20.00"),
        ("ai_tokens", "250000", "10000", "0.06", "0.52"),
        ("total", "", "", "", "20.52"),
    ]
    assert {row["tenant"] for row in rows} == {"user-001"}


def test_no_spreadsheet_takes_a_name_for_a_formula() -> None:
    of = catalog(plan_text("plan", FEE + '\nname = "=1+1"')).snapshot("plan")
    assert "'=1+1" in statement_csv(made(of, {}))


def page(one: Invoice) -> ET.Element:
    """The page, which is well-formed enough to be read as XML."""
    text = statement_html(one).replace("<!DOCTYPE html>", "")
    for name in ("charset", "name"):
        at = text.index(f"<meta {name}")
        end = text.index(">", at)
        text = text[:end] + "/" + text[end:]
    return ET.fromstring(text.replace("class=part", 'class="part"'))


def test_the_page_says_all_of_it() -> None:
    words = " ".join("".join(page(made(PRO, {"ai_tokens": "250000"})).itertext()).split())
    for part in ("Acme (user-001)", "2026-04-13T10:30:15Z until 2026-05-13T10:30:15Z", "pro, version 3", "250,000"):
        assert part in words
    for part in ("tier 2, and more", "0.000002", "−0.06", "20.52 USD", "The period is not over"):
        assert part in words


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = statement_html(made(PRO, {}))
    assert "src=" not in text
    assert "http" not in text
    assert "<script" not in text
    assert "size: A4" in text


EVIL = "</title><script>alert(1)</script>&\"'"


def test_the_page_escapes_whatever_people_wrote() -> None:
    quoted = EVIL.replace('"', '\\"')
    text = plan_text("plan", f'{FEE}\nname = "{quoted}"').replace("[plans.plan]", f'[plans.plan]\nname = "{quoted}"', 1)
    one = made(catalog(text).snapshot("plan"), {}, name=EVIL)
    html = statement_html(one)
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)") == 4
    found = [element.text for element in page(one).iter() if element.text and "alert" in element.text]
    assert EVIL in found


def test_a_part_of_a_fee_tells_which() -> None:
    html = statement_html(made(PRO, {}, share=Fraction(1, 3)))
    assert "fee for 33.33 % of a period" in html
    assert "6.67" in html
    assert "fee for" not in statement_html(made(PRO, {}))


@pytest.mark.parametrize(
    ("amount", "currency", "words"), [("0.3", "USD", "0.30"), ("1234567", "JPY", "1234567"), ("1.5", "KWD", "1.500")]
)
def test_money_has_the_digits_of_its_currency(amount: str, currency: str, words: str) -> None:
    assert money(Decimal(amount), currency) == words
