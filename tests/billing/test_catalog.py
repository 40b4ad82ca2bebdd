from __future__ import annotations

import pytest

from proxy.billing.catalog import Filter, Snapshot
from proxy.billing.catalog_file import load
from tests.billing.catalogs import FEE, UNIT, catalog, plan_text

SHIPPED = load(None)


@pytest.mark.parametrize("plan", [*SHIPPED.plans])
def test_a_plan_comes_back_from_the_store_as_it_was(plan: str) -> None:
    one = SHIPPED.snapshot(plan)
    assert Snapshot.from_json(one.to_json()) == one
    assert Snapshot.from_json(one.to_json()).to_json() == one.to_json()


def test_all_that_a_rate_card_can_say_comes_back() -> None:
    card = """feature = "ai_tokens"
name = "Größe, \\"quoted\\""
price = { type = "volume", tiers = [{ up_to_amount = "10", flat_price = "1" }, { unit_price = "0.0000001" }] }
commitments = { minimum_amount = "1", maximum_amount = "2" }
discounts = { percentage = "12.5", usage = 10 }
entitlement = { limit = 5, is_soft_limit = true, usage_period = "P1D" }"""
    one = catalog(plan_text("plan", FEE, card)).snapshot("plan")
    assert Snapshot.from_json(one.to_json()) == one


def test_a_plan_is_kept_with_the_features_and_meters_that_it_names_alone() -> None:
    one = catalog(plan_text("plan", FEE, UNIT)).snapshot("plan")
    assert ([*one.features], [*one.meters]) == (["ai_tokens"], ["llm_total_tokens"])


@pytest.mark.parametrize(
    ("operator", "values", "passes"),
    [
        ("eq", ("a",), [True, False, False]),
        ("neq", ("a",), [False, True, True]),
        ("in", ("a", "b"), [True, True, False]),
        ("nin", ("a", "b"), [False, False, True]),
    ],
)
def test_filters(operator: str, values: tuple[str, ...], passes: list[bool]) -> None:
    one = Filter(operator, values)  # type: ignore[arg-type]
    assert [one.passes(value) for value in ("a", "b", "")] == passes
