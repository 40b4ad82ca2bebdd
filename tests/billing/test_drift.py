"""Two ways of writing one thing are no difference, and everything else is one."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.billing.drift import METER_FIXED, PLAN_FIXED, PLAN_MAY_CHANGE, drift, feature_drift

CARD: dict[str, Any] = {"key": "a", "name": "1.0", "price": {"type": "unit", "amount": "0.000002"}}
KEYS = PLAN_FIXED + PLAN_MAY_CHANGE


def plan(card: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "P", "phases": [{"key": "default", "rate_cards": [card]}], **more}


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"payment_term": "in_arrears"}, {}),
        ({"billing_cadence": "P12M"}, {"billing_cadence": "P1Y"}),
        ({"billing_cadence": "P2W"}, {"billing_cadence": "P14D"}),
        ({"discounts": {"percentage": 12.5}}, {"discounts": {"percentage": "12.50"}}),
        ({"discounts": {"usage": "10000"}}, {"discounts": {"usage": "10000.00"}}),
        ({"entitlement": {"type": "metered", "limit": 5}}, {"entitlement": {"type": "metered", "limit": 5.0}}),
        ({"description": ""}, {"description": None, "commitments": {}, "labels": {"a": "b"}, "currency": "USD"}),
        ({}, {"tax_config": {"code": {"id": "x"}}}),
    ],
)
def test_it_is_the_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert drift(plan(CARD | left), plan(CARD | right), KEYS) == ()
    assert drift(plan(CARD | right), plan(CARD | left), KEYS) == ()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"name": "1.00"}, "phases[0].rate_cards[0].name: 1.00 is to be 1.0"),
        (
            {"price": {"type": "unit", "amount": "0.002"}},
            "phases[0].rate_cards[0].price.amount: 0.002 is to be 0.000002",
        ),
        ({"payment_term": "in_advance"}, "phases[0].rate_cards[0].payment_term: in_advance is to be nothing"),
        ({"entitlement": {"type": "boolean"}}, "phases[0].rate_cards[0].entitlement.type: boolean is to be nothing"),
        ({"billing_cadence": "never"}, "phases[0].rate_cards[0].billing_cadence: never is to be nothing"),
    ],
)
def test_it_is_not_the_same(found: dict[str, Any], words: str) -> None:
    assert drift(plan(CARD), plan(CARD | found), KEYS) == (words,)


def test_the_currency_of_a_plan_counts() -> None:
    assert drift(plan(CARD, currency="USD"), plan(CARD, currency="EUR"), KEYS) == ("currency: EUR is to be USD",)


def test_an_instant_is_compared_by_the_second() -> None:
    wanted = {"events_from": "2026-04-01T00:00:00Z"}
    assert drift(wanted, {"events_from": "2026-04-01T02:00:00.000+02:00"}, METER_FIXED) == ()
    assert len(drift(wanted, {"events_from": "2026-04-01T00:00:01Z"}, METER_FIXED)) == 1


def feature(meter: str, **filters: Any) -> dict[str, Any]:
    return {"meter": {"id": meter, "filters": filters}}


def test_features_are_compared_by_what_they_count() -> None:
    keys = {"1": "tokens", "2": "requests"}
    assert feature_drift(feature("1", model={"eq": "a"}), feature("1", model={"in": ["a"], "neq": None}), keys) == ()
    assert feature_drift(feature("1", model={"in": ["a", "b"]}), feature("1", model={"in": ["b", "a"]}), keys) == ()
    assert feature_drift(feature("1", model={"eq": "a"}), feature("1", model={"neq": "a"}), keys) == (
        "filters.model: not a is to be a",
    )
    assert feature_drift(feature("1"), feature("2"), keys) == ("meter: requests is to be tokens",)
    assert feature_drift(feature("1"), feature("3"), keys) == ("meter: 3 is to be tokens",)
    assert feature_drift({}, feature("1"), keys) == ("meter: tokens is to be nothing",)
    assert feature_drift(feature("1"), feature("1", model={"contains": "a"}), keys) == (
        'filters.model: {"contains":"a"} is to be nothing',
    )
