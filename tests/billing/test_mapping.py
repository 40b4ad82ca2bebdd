"""Every body that is sent, against what the engines describe."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.billing import catalog_file
from proxy.billing.catalog import (
    Entitlement,
    Feature,
    Filter,
    Flat,
    Free,
    Graduated,
    Package,
    PerUnit,
    Phase,
    Plan,
    RateCard,
    Tier,
    Volume,
)
from proxy.billing.drift import PLAN_FIXED, PLAN_MAY_CHANGE, drift
from proxy.billing.durations import Duration
from proxy.billing.mapping import LABELS, feature_body, is_ours, meter_body, meter_update, plan_body, plan_update
from tests.billing import contract, selling
from tests.billing.shop import catalog

ID = "01G65Z755AFWAKHE12NY000001"

amounts = st.decimals(min_value=0, max_value=10**12, places=12, allow_nan=False)
prices = st.one_of(
    st.just(Free()),
    st.builds(Flat, amounts),
    st.builds(PerUnit, amounts),
    st.builds(Package, amounts, st.integers(1, 10**9).map(Decimal)),
    *(
        st.builds(kind, st.tuples(st.builds(Tier, amounts, amounts), st.builds(Tier, st.none(), amounts, amounts)))
        for kind in (Graduated, Volume)
    ),
)
durations = st.sampled_from(["P1D", "P1M", "P1W", "PT1H", "P1Y"]).map(Duration.parse)
names = st.text(st.characters(codec="utf-8", categories=["L", "N", "Zs"]), min_size=1, max_size=40)
cards = st.builds(
    RateCard,
    st.just("ai_tokens"),
    names,
    prices,
    feature=st.sampled_from(["", "ai_tokens"]),
    one_time=st.booleans(),
    minimum_amount=st.none() | amounts,
    maximum_amount=st.none() | amounts,
    discount_percent=st.none() | st.decimals(0, 100, places=4),
    free_units=st.none() | amounts,
    entitlement=st.none()
    | st.just(Entitlement("boolean"))
    | st.builds(Entitlement, st.just("metered"), st.integers(0, 10**15), st.booleans(), st.none() | durations),
    description=st.just("") | names,
)
plans = st.builds(
    lambda found, duration, pro_rating: Plan(
        "starter",
        "Starter",
        "USD",
        Duration.parse("P1M"),
        (Phase("trial", "Trial", tuple(found), duration), Phase("default", "Default", tuple(found))),
        pro_rating_enabled=pro_rating,
    ),
    st.lists(cards, max_size=3),
    durations,
    st.booleans(),
)


def faults(path: str, method: str, body: dict[str, Any]) -> list[str]:
    sent = orjson.loads(orjson.dumps(body))
    return contract.faults_of_question((f"/openmeter{path}", method), sent, selling.DOCUMENTS)


@settings(max_examples=40, deadline=None)
@given(plan=plans)
def test_any_plan_is_one_that_both_engines_describe(plan: Plan) -> None:
    ids = {"ai_tokens": ID}
    body = plan_body(plan, ids)
    assert faults("/plans", "post", body) == []
    assert faults("/plans/{planId}", "put", plan_update(plan, ids)) == []
    assert drift(body, orjson.loads(orjson.dumps(body)), PLAN_FIXED + PLAN_MAY_CHANGE) == ()


@given(amount=amounts)
def test_no_amount_is_written_with_an_exponent(amount: Decimal) -> None:
    card = RateCard("fee", "Fee", PerUnit(amount))
    (sent,) = plan_body(Plan("p", "P", "USD", Duration.parse("P1M"), (Phase("default", "Default", (card,)),)), {})[
        "phases"
    ][0]["rate_cards"]
    assert "e" not in sent["price"]["amount"].lower()
    assert Decimal(sent["price"]["amount"]) == amount


def test_all_of_a_catalog_is_what_both_engines_describe() -> None:
    for one in (catalog(), catalog_file.load(None)):
        ids = dict.fromkeys([*one.meters, *one.features], ID)
        for meter in one.meters.values():
            assert faults("/meters", "post", meter_body(meter)) == []
            assert faults("/meters/{meterId}", "put", meter_update(meter, meter_body(meter))) == []
        for feature in one.features.values():
            assert faults("/features", "post", feature_body(feature, ids)) == []
        for plan in one.plans.values():
            assert faults("/plans", "post", plan_body(plan, ids)) == []


def test_a_count_has_no_value_property() -> None:
    assert "value_property" not in meter_body(catalog().meters["requests"])


def test_filters_are_said_as_they_are_meant() -> None:
    kinds = [Filter("eq", ("a",)), Filter("neq", ("a",)), Filter("in", ("a", "b")), Filter("nin", ("a", "b"))]
    filters = {f"d{at}": one for at, one in enumerate(kinds)}
    body = feature_body(Feature("f", "F", "m", filters), {"m": ID})
    assert body["meter"] == {
        "id": ID,
        "filters": {"d0": {"eq": "a"}, "d1": {"neq": "a"}, "d2": {"in": ["a", "b"]}, "d3": {"nin": ["a", "b"]}},
    }
    assert "meter" not in feature_body(Feature("f", "F"), {})


def test_a_package_is_a_price_of_a_unit_that_is_a_package() -> None:
    card = RateCard("f", "F", Package(Decimal(2), Decimal(1000)))
    (sent,) = plan_body(Plan("p", "P", "USD", Duration.parse("P1M"), (Phase("default", "Default", (card,)),)), {})[
        "phases"
    ][0]["rate_cards"]
    assert sent["price"] == {"type": "unit", "amount": "2"}
    assert sent["unit_config"] == {"operation": "divide", "conversion_factor": "1000", "rounding": "ceiling"}


def test_an_entitlement_says_its_period_also_where_that_is_the_plans() -> None:
    card = RateCard("f", "F", Free(), entitlement=Entitlement("metered", 5))
    (sent,) = plan_body(Plan("p", "P", "USD", Duration.parse("P3M"), (Phase("default", "Default", (card,)),)), {})[
        "phases"
    ][0]["rate_cards"]
    assert sent["entitlement"] == {"type": "metered", "limit": 5, "is_soft_limit": False, "usage_period": "P3M"}


def test_what_is_ours_says_so() -> None:
    meter = catalog().meters["requests"]
    assert is_ours(meter_body(meter))
    assert not is_ours({"labels": {"managed_by": "hand"}})
    assert not is_ours({"labels": None})
    hand = {"name": "By hand", "labels": {"team": "a"}, "dimensions": {"region": "$.region"}, "description": "D"}
    total = catalog().meters["llm_total_tokens"]
    assert meter_update(total, hand) == hand | {"dimensions": {"region": "$.region", **total.dimensions}}
    ours = meter_update(meter, {"labels": LABELS, "dimensions": {"region": "$.region"}, "description": "old"})
    assert ours == {"name": "requests", "labels": LABELS, "dimensions": {}, "description": ""}
