"""From events in the ledger to money."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.billing.catalog import Catalog
from proxy.billing.invoice import Invoice, invoice
from proxy.billing.periods import Timeline
from proxy.instants import HOUR_MS, parse_instant
from proxy.model import Settlement, Tenant, Usage
from proxy.store.database import Database
from proxy.store.ledger import record
from proxy.store.subscriptions import Subscription
from tests.billing.catalogs import FEE, UNIT, catalog, plan_text
from tests.billing.slow import owed
from tests.store.samples import settlement

START = parse_instant("2026-04-13T10:30:15Z")
DAY_MS = 24 * HOUR_MS
TENANT = Tenant("user-001", "Acme", "active", START)


def used(tokens: int, at_ms: int, event_id: str = "req") -> Settlement:
    return settlement(
        f"{event_id}_{at_ms}", time_ms=at_ms, usage=Usage(uncached_input=tokens // 2, text_output=tokens - tokens // 2)
    )


def billed(
    folder: Path | str, of: Catalog, plan: str, events: Iterable[Settlement], at_ms: int = START, now_ms: int = START
) -> Invoice:
    database = Database(f"sqlite:///{folder}/tollgate.db")
    database.create()
    with database.transaction() as connection:
        record(connection, [*events])
    subscription = Subscription(1, TENANT.id, plan, 1, "UTC", START, START, None)
    snapshot = of.snapshot(plan)
    period = Timeline(subscription, snapshot.plan).at(at_ms)
    with closing(database.connect(read_only=True)) as connection:
        return invoice(connection, TENANT, subscription, snapshot, period, now_ms)


def test_what_was_used_in_the_period_is_charged_and_nothing_else(tmp_path: Path) -> None:
    end = parse_instant("2026-05-13T10:30:15Z")
    events = [used(15_000, START), used(999_999, START - 1), used(2_500, end - 1), used(999_999, end)]
    found = billed(tmp_path, catalog(plan_text("starter", UNIT)), "starter", events)
    (line,) = found.lines
    assert (line.card.key, int(line.quantity), str(line.amount), str(found.total)) == (
        "ai_tokens",
        17_500,
        "0.04",
        "0.04",
    )
    assert (found.currency, found.is_open) == ("USD", True)
    assert billed(tmp_path, catalog(plan_text("starter", UNIT)), "starter", [], now_ms=end).is_open is False


def test_a_line_for_each_rate_card_and_their_sum(tmp_path: Path) -> None:
    cards = [
        FEE,
        UNIT,
        'feature = "requests"\nprice = { type = "unit", amount = "0.5" }',
        'feature = "support"\nprice = { type = "flat", amount = "5" }',
        'key = "setup"\nprice = { type = "flat", amount = "100" }\nbilling_cadence = "once"',
    ]
    events = [used(5_000, START + 1), used(10_000, START + DAY_MS)]
    of = catalog(plan_text("pro", *cards))
    first = billed(tmp_path, of, "pro", events)
    assert [(line.card.key, int(line.quantity), str(line.amount)) for line in first.lines] == [
        ("base_fee", 1, "20.00"),
        ("ai_tokens", 15_000, "0.03"),
        ("requests", 2, "1.00"),
        ("support", 1, "5.00"),
        ("setup", 1, "100.00"),
    ]
    assert str(first.total) == "126.03"
    second = billed(tmp_path, of, "pro", [], START + 40 * DAY_MS)
    assert [line.card.key for line in second.lines] == ["base_fee", "ai_tokens", "requests", "support"]
    assert str(second.total) == "25.00"


def test_a_phase_has_its_own_prices(tmp_path: Path) -> None:
    phases = """
[plans.trial]
currency = "JPY"
billing_cadence = "P1M"
[[plans.trial.phases]]
key = "trial"
duration = "P14D"
rate_cards = [{ feature = "ai_tokens", price = { type = "free" } }]
[[plans.trial.phases]]
key = "paid"
rate_cards = [
  { feature = "ai_tokens", price = { type = "unit", amount = "0.02" } },
  { key = "base_fee", price = { type = "flat", amount = "3000" } },
]
"""
    of, events = catalog(phases), [used(1_000, START), used(1_025, START + 14 * DAY_MS)]
    trial = billed(tmp_path, of, "trial", events)
    paid = billed(tmp_path, of, "trial", [], START + 14 * DAY_MS)
    assert (trial.period.phase.key, int(trial.lines[0].quantity), str(trial.total)) == ("trial", 1_000, "0")
    assert [(line.card.key, str(line.amount)) for line in paid.lines] == [("ai_tokens", "21"), ("base_fee", "1600")]
    assert paid.period.share == Fraction(16, 30)


PRICES = {
    "unit": '{ type = "unit", amount = "0.35", confirmed = true }',
    "package": '{ type = "package", amount = "1.17", quantity_per_package = 7, confirmed = true }',
    "graduated": """{ type = "graduated", confirmed = true, tiers = [
  { up_to_amount = 10, unit_price = "0.333" }, { up_to_amount = 30, unit_price = "0.111", flat_price = "1.5" },
  { flat_price = "0.01" } ] }""",
    "volume": """{ type = "volume", confirmed = true, tiers = [
  { up_to_amount = 10, unit_price = "0.333" }, { up_to_amount = 30, unit_price = "0.2" },
  { unit_price = "0.05" } ] }""",
}
TERMS = 'discounts = { percentage = "12.5" }\ncommitments = { minimum_amount = "1", maximum_amount = "9.99" }'
PRICED = catalog(*(plan_text(key, f'feature = "ai_tokens"\nprice = {price}\n{TERMS}') for key, price in PRICES.items()))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(PRICES)),
    st.lists(st.integers(0, 15), max_size=6),
    st.lists(st.integers(0, 30 * DAY_MS - 1), min_size=6, max_size=6, unique=True),
)
def test_any_split_of_usage_into_events_gives_the_same_invoice(
    plan: str, tokens: Sequence[int], offsets: Sequence[int]
) -> None:
    events = [used(count, START + offset) for count, offset in zip(tokens, offsets, strict=False)]
    with tempfile.TemporaryDirectory() as apart, tempfile.TemporaryDirectory() as together:
        found = billed(apart, PRICED, plan, events)
        assert found.lines == billed(together, PRICED, plan, [used(sum(tokens), START)]).lines
    (line,) = found.lines
    assert Fraction(found.total) == owed(line.card, sum(tokens), digits=2)
