from __future__ import annotations

from decimal import Decimal

import pytest

from proxy.billing.catalog import Entitlement, Plan
from proxy.billing.durations import Duration
from proxy.errors import CatalogError
from tests.billing.catalogs import FEE, HEAD, UNIT, catalog, plan_text


def plan(*cards: str) -> Plan:
    return catalog(plan_text("plan", *cards)).plans["plan"]


def faults(text: str) -> str:
    """What is wrong, without the lines."""
    with pytest.raises(CatalogError) as refused:
        catalog(text)
    return "\n".join(one.partition(": ")[2] for one in refused.value.faults)


def test_a_plan_with_rate_cards_has_one_phase() -> None:
    one = plan(FEE + '\npayment_term = "in_advance"\nname = "Fee"', UNIT)
    (phase,) = one.phases
    assert (one.name, one.currency, one.billing_cadence.iso, one.pro_rating_enabled) == ("plan", "USD", "P1M", True)
    assert (phase.key, phase.duration, [card.key for card in phase.rate_cards]) == (
        "default",
        None,
        ["base_fee", "ai_tokens"],
    )
    fee, tokens = phase.rate_cards
    assert (fee.name, fee.payment_term, fee.feature) == ("Fee", "in_advance", "")
    assert (tokens.name, tokens.payment_term, tokens.feature) == ("ai_tokens", "in_arrears", "ai_tokens")


def test_what_a_rate_card_can_say() -> None:
    card = (
        UNIT
        + """
commitments = { minimum_amount = "1.50", maximum_amount = 20 }
discounts = { percentage = 12.5, usage = 10000 }
entitlement = { limit = 5, is_soft_limit = true, usage_period = "P1D" }
description = "Some tokens"
"""
    )
    (one,) = plan(card).phases[0].rate_cards
    assert (one.minimum_amount, one.maximum_amount) == (Decimal("1.50"), Decimal(20))
    assert (one.discount_percent, one.free_units) == (Decimal("12.5"), Decimal(10_000))
    assert one.entitlement == Entitlement("metered", 5, True, Duration.parse("P1D"))
    assert one.description == "Some tokens"


def test_a_fee_may_be_charged_once_and_a_feature_only_be_had() -> None:
    support = 'feature = "support"\nprice = { type = "free" }\nentitlement = { type = "boolean" }'
    once, had = plan(FEE + '\nbilling_cadence = "once"', support).phases[0].rate_cards
    assert (once.one_time, had.one_time, had.entitlement) == (True, False, Entitlement("boolean"))


PHASES = (
    HEAD.format(key="plan")
    + """
[[plans.plan.phases]]
key = "trial"
{trial}
rate_cards = [{{ feature = "ai_tokens", price = {{ type = "free" }} }}]
[[plans.plan.phases]]
key = "{paid}"
{end}
rate_cards = [{{ feature = "ai_tokens", price = {{ type = "unit", amount = "0.000002" }} }}]
"""
)


def test_phases() -> None:
    text = PHASES.format(trial='duration = "P14D"\nname = "Trial"', paid="paid", end="")
    trial, paid = catalog(text).plans["plan"].phases
    assert (trial.key, trial.name, trial.duration) == ("trial", "Trial", Duration.parse("P14D"))
    assert (paid.key, paid.name, paid.duration) == ("paid", "paid", None)


@pytest.mark.parametrize(
    ("trial", "paid", "end", "fault"),
    [
        ("", "paid", "", "plans.plan.phases[0]: only the last phase has no end"),
        ('duration = "P14D"', "paid", 'duration = "P1M"', "phases[1].duration: the last phase does not end"),
        ('duration = "two weeks"', "paid", "", "phases[0].duration: 'two weeks' is no duration"),
        ('duration = "PT59M"', "paid", "", "phases[0].duration: a phase lasts an hour at least"),
        ('duration = "P14D"', "trial", "", "phases[1].key: the key trial stands there twice"),
        ('duration = "P14D"', "Paid", "", "phases[1].key: 'Paid' is no key that the engine takes"),
    ],
)
def test_what_is_wrong_with_phases(trial: str, paid: str, end: str, fault: str) -> None:
    assert fault in faults(PHASES.format(trial=trial, paid=paid, end=end))


@pytest.mark.parametrize(
    ("card", "fault"),
    [
        ('price = { type = "flat", amount = "1" }', "rate_cards[0]: it must say key"),
        ('key = "Fee"\nprice = { type = "flat", amount = "1" }', "rate_cards[0].key: 'Fee' is no key"),
        (
            f'{UNIT}\nkey = "tokens"',
            'rate_cards[0].key: a rate card with a feature has the feature\'s key, fix: write key = "ai_tokens"',
        ),
        (
            UNIT.replace("ai_tokens", "ai_token"),
            "rate_cards[0].feature: there is no feature ai_token, fix: did you mean ai_tokens?",
        ),
        ('feature = "ai_tokens"', "rate_cards[0]: it must say price"),
        (
            UNIT.replace('feature = "ai_tokens"', 'key = "x"'),
            "rate_cards[0].price: what is priced by usage needs a feature",
        ),
        (
            UNIT.replace("ai_tokens", "support"),
            "rate_cards[0].price: what is priced by usage needs a feature with a meter",
        ),
        (f'{UNIT}\npayment_term = "in_advance"', "payment_term: only a flat price can be paid in advance"),
        (f'{UNIT}\npayment_term = "later"', "payment_term: it cannot be 'later'"),
        (f'{UNIT}\nbilling_cadence = "once"', "billing_cadence: only a flat price can be charged once"),
        (f'{FEE}\nbilling_cadence = "P1Y"', "billing_cadence: a rate card recurs as its plan does"),
        (f"{FEE}\ncommitments = {{ minimum_amount = 1 }}", "commitments: only what is priced by usage can have"),
        (
            f"{UNIT}\ncommitments = {{ minimum_amount = 3, maximum_amount = 2 }}",
            "minimum_amount: it is more than maximum_amount",
        ),
        (f'{UNIT}\ncommitments = {{ maximum_amount = "0.001" }}', "maximum_amount: USD has 2 digits after the point"),
        (f"{UNIT}\ncommitments = {{ most = 2 }}", "commitments.most: there is no such key"),
        (f"{FEE}\ndiscounts = {{ usage = 5 }}", "discounts.usage: only of what is priced by usage can some be free"),
        (f"{UNIT}\ndiscounts = {{ percentage = 101 }}", "discounts.percentage: it must be more than 0 and at most 100"),
        (f"{UNIT}\ndiscounts = {{ percentage = 0 }}", "discounts.percentage: it must be more than 0"),
        (f"{FEE}\nentitlement = {{ limit = 5 }}", "entitlement: an entitlement is to a feature"),
        (f"{UNIT}\nentitlement = {{ is_soft_limit = true }}", "entitlement: it must say limit"),
        (f"{UNIT}\nentitlement = {{ limit = 1.5 }}", "entitlement.limit: it must be a whole number"),
        (
            f'{UNIT}\nentitlement = {{ limit = 5, usage_period = "PT5M" }}',
            "usage_period: an allowance lasts an hour at least",
        ),
        (
            'feature = "support"\nprice = { type = "free" }\nentitlement = { limit = 5 }',
            "entitlement.type: feature support has no meter",
        ),
        (
            UNIT.replace('"unit"', '"package", quantity_per_package = 7') + "\ndiscounts = { usage = 9 }",
            "discounts.usage: only whole packages can be free",
        ),
        (f"{UNIT}\ncolour = 1", "rate_cards[0].colour: there is no such key"),
    ],
)
def test_what_is_wrong_with_a_rate_card(card: str, fault: str) -> None:
    assert fault in faults(plan_text("plan", card))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (plan_text("plan"), "plans.plan: it charges nothing at all, fix: add [[plans.plan.rate_cards]]"),
        (plan_text("plan", UNIT, UNIT), "rate_cards[1]: there is a rate card ai_tokens in this phase already"),
        (plan_text("plan", UNIT).replace("USD", "DOLLAR"), "plans.plan.currency: it cannot be 'DOLLAR'"),
        (plan_text("plan", UNIT).replace("P1M", "P1D"), "plans.plan.billing_cadence: it cannot be 'P1D'"),
        (plan_text("Plan", UNIT), "plans.Plan: 'Plan' is no key that the engine takes"),
        (
            plan_text("plan", UNIT).replace("billing_cadence", "cadence"),
            "plans.plan.cadence: there is no such key, fix: did you",
        ),
        (
            plan_text("plan", UNIT) + PHASES.partition('P1M"')[2].format(trial='duration = "P1M"', paid="paid", end=""),
            "plans.plan.rate_cards: it has phases, which have the rate cards",
        ),
    ],
)
def test_what_is_wrong_with_a_plan(text: str, fault: str) -> None:
    assert fault in faults(text)


def test_one_mistake_is_one_fault() -> None:
    for name in ("nothing", "No Such Key", ""):
        assert faults(plan_text("plan", UNIT.replace("ai_tokens", name))).count("\n") == 0
    for right, wrong in (("0.000002", "2e-6"), ("0.000002", "2"), ("unit", "units"), ('type = "unit", ', "")):
        assert faults(plan_text("plan", UNIT.replace(right, wrong))).count("\n") == 0
