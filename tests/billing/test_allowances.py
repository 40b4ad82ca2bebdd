from __future__ import annotations

import pytest

from proxy.billing.allowances import allowances
from tests.billing.catalogs import FREE, catalog, plan_text


def held(*cards: str, more: str = "", cadence: str = "P1M") -> tuple[list[str], list[str]]:
    """The limits as they are written, and the features without one, with the reason."""
    text = plan_text("plan", *cards).replace("P1M", cadence, 1)
    found, unheld = allowances(catalog(text, more=more).snapshot("plan"))
    told = [
        f"{one.written.unit}/{one.written.window}={one.written.value}"
        + f" --model {one.model}" * bool(one.model)
        + f" --kind {one.kind}" * bool(one.kind)
        + " --soft" * one.soft
        for one in found
    ]
    return told, [f"{one.feature}: {one.reason}" for one in unheld]


def card(feature: str, entitlement: str) -> str:
    return f'feature = "{feature}"\nprice = {{ type = "free" }}\nentitlement = {{ {entitlement} }}'


@pytest.mark.parametrize(
    ("of", "limit"),
    [
        (FREE, "tokens/period=10000"),
        (card("ai_tokens", "limit = 5, is_soft_limit = true"), "tokens/period=5 --soft"),
        (card("ai_tokens", 'limit = 5, usage_period = "P1D"'), "tokens/day=5"),
        (card("ai_tokens", 'limit = 5, usage_period = "PT1H"'), "tokens/hour=5"),
        (card("mini_tokens", "limit = 5"), "tokens/period=5 --model gpt-4o-mini"),
        (card("requests", "limit = 0"), "requests/period=0"),
    ],
)
def test_an_entitlement_is_a_limit_where_one_says_the_same(of: str, limit: str) -> None:
    assert held(of) == ([limit], [])


KINDS = """
[meters.out]
event_type = "llm_token_usage"
aggregation = "sum"
value_property = "$.completion_tokens"
dimensions = { model = "$.model", model_family = "$.model_family", endpoint = "$.endpoint" }
[features.out]
meter = "out"
[features.by_name]
meter = "out"
filters = { model = "gpt-4o" }
[features.but_one]
meter = "out"
filters = { model_family = { neq = "gpt-4o" } }
[features.dated]
meter = "out"
filters = { model_family = "gpt-4o-2024-08-06" }
[features.wild]
meter = "out"
filters = { model_family = "gpt*" }
[features.two]
meter = "out"
filters = { model_family = ["gpt-4o", "o1"] }
[meters.kinds]
event_type = "kong.llm_request"
aggregation = "sum"
value_property = "$.tokens"
[features.kinds]
meter = "kinds"
[meters.models]
event_type = "llm_token_usage"
aggregation = "unique_count"
value_property = "$.model"
[features.models]
meter = "models"
"""


def test_a_limit_counts_one_kind_of_tokens() -> None:
    assert held(card("out", "limit = 5"), more=KINDS) == (["tokens/period=5 --kind output"], [])


@pytest.mark.parametrize("feature", ["by_name", "but_one", "dated", "wild", "two"])
def test_filters_that_no_limit_has_are_not_held_to(feature: str) -> None:
    assert held(card(feature, "limit = 5"), more=KINDS) == ([], [f"{feature}: limits have no such filters"])


@pytest.mark.parametrize("feature", ["kinds", "models"])
def test_what_no_limit_counts_is_not_held_to(feature: str) -> None:
    reason = f"{feature}: limits do not count what meter {feature} does"
    assert held(card(feature, "limit = 5"), more=KINDS) == ([], [reason])


def test_a_period_that_no_limit_has_is_not_held_to() -> None:
    assert held(FREE, cadence="P1W") == ([], ["ai_tokens: limits do not renew every P1W"])


def test_what_is_only_had_or_not_is_no_limit() -> None:
    assert held(card("support", 'type = "boolean"')) == ([], [])


def test_an_entitlement_that_changes_with_the_phases_is_not_held_to() -> None:
    entitled = 'rate_cards = [{ feature = "ai_tokens", price = { type = "free" }, entitlement = { limit = %d } }]'
    head = '[plans.plan]\ncurrency = "USD"\nbilling_cadence = "P1M"\n'
    phases = '[[plans.plan.phases]]\nkey = "a"\nduration = "P1M"\n%s\n[[plans.plan.phases]]\nkey = "b"\n%s\n'
    same = catalog(head + phases % (entitled % 5, entitled % 5)).snapshot("plan")
    other = catalog(head + phases % (entitled % 5, entitled % 6)).snapshot("plan")
    assert [one.written.value for one in allowances(same)[0]] == [5]
    assert [one.reason for one in allowances(other)[1]] == ["it changes with the phases"]
    assert allowances(other)[0] == []


def test_two_features_that_are_one_limit_are_told() -> None:
    twin = '[features.twin]\nmeter = "llm_total_tokens"\n'
    limits, unheld = held(FREE, card("twin", "limit = 7"), more=twin)
    assert (limits, unheld) == (["tokens/period=10000"], ["twin: another feature has the same limit"])
