"""The file: read strictly, all that is wrong told at once, each with its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.billing.catalog import Aggregation, Filter
from proxy.billing.catalog_file import load, parse
from proxy.errors import CatalogError
from proxy.instants import parse_instant
from tests.billing.catalogs import BASE, UNIT, plan_text
from tests.billing.test_positions import quoted, written

ROOT = Path(__file__).parent.parent.parent


def faults(text: str) -> list[str]:
    with pytest.raises(CatalogError) as refused:
        parse(text, "config/billing.toml")
    return refused.value.faults


def test_the_catalog_that_comes_along_is_the_one_in_the_repository() -> None:
    inside = files("proxy.billing") / "billing.toml"
    assert inside.read_text("utf-8") == (ROOT / "config" / "billing.toml").read_text("utf-8")
    assert load(None) == load(str(ROOT / "config" / "billing.toml"))


def test_the_catalog_that_comes_along_has_the_tutorial_s_meters_feature_and_plan() -> None:
    one = load(None)
    total, completion = one.meters["llm_total_tokens"], one.meters["llm_completion_tokens"]
    assert (total.event_type, total.aggregation, total.value_property) == (
        "llm_token_usage",
        Aggregation.SUM,
        "$.total_tokens",
    )
    assert completion.value_property == "$.completion_tokens"
    assert one.features["ai_tokens"].meter == "llm_total_tokens"
    (card,) = one.plans["starter"].phases[0].rate_cards
    assert (card.key, card.feature, card.price.type) == ("ai_tokens", "ai_tokens", "unit")
    (free,) = one.plans["free"].phases[0].rate_cards
    assert free.entitlement is not None
    assert (free.entitlement.limit, free.entitlement.is_soft_limit) == (10_000, False)
    assert len(one.plans["by_model"].phases[0].rate_cards) == 6
    assert one.subscriptions == {}


def test_meters_and_features_are_read_with_all_that_they_can_say() -> None:
    text = """
[meters.m]
name = "Meter"
description = "Of something"
event_type = "kong.llm_request"
aggregation = "unique_count"
value_property = "$['request_id']"
dimensions = { kind = "$.type", model = "$.model" }
events_from = 2026-04-13T00:00:00Z
[features.f]
name = "Feature"
description = "Of it"
meter = "m"
filters = { kind = "input", model = ["a", "b"] }
[features.g]
meter = "m"
filters.kind.nin = ["input", "output"]
filters.model.neq = "a"
[subscriptions]
"""
    one = parse(text, "x")
    meter = one.meters["m"]
    assert (meter.name, meter.description, meter.aggregation) == ("Meter", "Of something", Aggregation.UNIQUE_COUNT)
    assert (meter.value_property, meter.dimensions) == ("$['request_id']", {"kind": "$.type", "model": "$.model"})
    assert meter.events_from_ms == parse_instant("2026-04-13T00:00:00Z")
    assert one.features["f"].filters == {"kind": Filter("eq", ("input",)), "model": Filter("in", ("a", "b"))}
    assert one.features["g"].filters == {"kind": Filter("nin", ("input", "output")), "model": Filter("neq", ("a",))}


METER = '[meters.m]\nevent_type = "llm_token_usage"\naggregation = "sum"\nvalue_property = "$.total_tokens"\n'
SOLD = METER + 'dimensions = { model = "$.model" }\n[features.f]\nmeter = "m"\n'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (METER.replace("meters.m", "meters.M"), "1: meters.M: 'M' is no key that the engine takes"),
        (
            METER.replace("llm_token_usage", "llm_tokens"),
            "2: meters.m.event_type: it cannot be 'llm_tokens', fix: did you mean llm_token_usage?",
        ),
        (METER.replace('"sum"', '"SUM"'), "3: meters.m.aggregation: it cannot be 'SUM'"),
        (
            METER.replace('"sum"', '"count"'),
            "4: meters.m.value_property: a count has no value, fix: leave value_property away",
        ),
        (METER.replace("value_property", "value"), "1: meters.m: sum is of a value, fix: add value_property"),
        (METER.replace("$.total", "total"), "4: meters.m.value_property: 'total_tokens' is no JSONPath"),
        (
            METER.replace("total_tokens", "total_token"),
            "4: meters.m.value_property: events of type llm_token_usage have no 'total_token' in their data",
        ),
        (METER + "dimensions.subject = '$.model'", "5: meters.m.dimensions.subject: a dimension cannot have this name"),
        (METER + "dimensions.1x = '$.model'", "5: meters.m.dimensions.1x: a dimension cannot have this name"),
        (METER + "dimensions.x = '$.total_tokens'", "5: meters.m.dimensions.x: it is the value that the meter adds up"),
        (METER + "dimensions.x = 'model'", "5: meters.m.dimensions.x: 'model' is no JSONPath"),
        (METER + "dimensions = 'model'", "5: meters.m.dimensions: it must be a table"),
        (METER + "events_from = 'soon'", "5: meters.m.events_from: 'soon': write a date"),
        (SOLD.replace('meter = "m"', 'meter = "n"'), "7: features.f.meter: there is no meter n, fix: there are m"),
        (
            SOLD.replace("sum", "avg"),
            "7: features.f.meter: the engine bills no avg, fix: use a meter that is a sum, count",
        ),
        (
            SOLD + "filters.colour = 'red'",
            "8: features.f.filters.colour: meter m has no such dimension, fix: there are model, or add it",
        ),
        (SOLD + "filters.model = 1", "8: features.f.filters.model: dimensions are compared as texts"),
        (SOLD + "filters.model = []", "8: features.f.filters.model: it has none, more than 100, or one twice"),
        (SOLD + "filters.model = ['a', 'a']", "8: features.f.filters.model: it has none, more than 100, or one twice"),
        (
            SOLD + "filters.model = { like = 'a' }",
            "8: features.f.filters.model: it must have one operator, fix: use one of eq",
        ),
        (
            SOLD + "filters.model = { eq = ['a'] }",
            "8: features.f.filters.model.eq: dimensions are compared as texts, fix: write a text",
        ),
        (
            SOLD + "filters.model = { in = 'a' }",
            "8: features.f.filters.model.in: dimensions are compared as texts, fix: write a list",
        ),
        (
            "[features.f]\nfilters.model = 'a'",
            "2: features.f.filters.model: a feature without a meter has nothing to filter",
        ),
        ("[subscriptions]\nacme = 'pro'", "2: subscriptions.acme: there is no such plan"),
        ("[subscriptions]\n'a b' = 'pro'", "2: subscriptions.a b: no tenant can have this id"),
        ("[meter.m]", "1: meter: there is no such key, fix: did you mean meters?"),
        ("meters = 1", "1: meters: it must be a table"),
        ("x = ", "1: Invalid value (at end of document), fix: mend the TOML there"),
        ("[meters.m]\n[meters.m]", "2: Cannot declare ('meters', 'm') twice, fix: mend the TOML there"),
        ("a = 1\n[x", "2: Expected ']' at the end of a table declaration"),
    ],
)
def test_what_is_wrong_is_told_with_line_key_rule_and_fix(text: str, fault: str) -> None:
    assert f"config/billing.toml:{fault}" in "\n".join(faults(text))
    assert all(", fix: " in one for one in faults(text))


def test_all_that_is_wrong_is_told_at_once_in_the_order_of_the_lines() -> None:
    dear = plan_text("plan", UNIT.replace("0.000002", "2").replace("price", "colour = 1\nprice"))
    text = BASE.replace('"count"', '"counts"').replace("gpt-4o-mini", "") + dear
    found = faults(text)
    lines = [int(one.split(":")[1]) for one in found]
    assert len(found) == 4
    assert lines == sorted(lines)
    assert any("prices are for one token" in one for one in found)


def test_the_error_s_own_words_are_one_line_that_says_how_many_there_are() -> None:
    with pytest.raises(CatalogError, match=r"^x:1: a: there is no such key.* \(and 1 more: tollgate billing check\)$"):
        parse("a = 1\nb = 2", "x")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"nowhere\.toml: cannot be read"):
        load(str(tmp_path / "nowhere.toml"))
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(CatalogError, match=r"latin\.toml: cannot be read"):
        load(str(tmp_path / "latin.toml"))


def test_lines_may_end_as_they_do_elsewhere() -> None:
    assert faults(METER.replace("total_tokens", "x").replace("\n", "\r\n"))[0].startswith("config/billing.toml:4: ")


def _paths(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from _paths(part, (*path, key))


WHOLE = tomllib.loads(
    (ROOT / "config" / "billing.toml").read_text()
    + 'user-001 = "starter"\n'
    + """
[[plans.by_model.rate_cards]]
feature = "ai_tokens"
price = { type = "package", amount = "1", quantity_per_package = 1000 }
commitments = { minimum_amount = "1", maximum_amount = "2" }
discounts = { percentage = 10, usage = 1000 }
entitlement = { limit = 5, usage_period = "P1D", is_soft_limit = true }
"""
)
ODD = [
    {},
    [],
    "",
    "x",
    "free",
    0,
    -1,
    True,
    "1",
    "P1M",
    [{}],
    {"x": 1},
    [1],
    "$.tokens",
    10**30,
    "\x7f",
    "usd",
    "a" * 2000,
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*_paths(WHOLE)]), st.sampled_from(ODD)), min_size=1, max_size=3))
def test_whatever_stands_there_is_read_or_told_with_its_line(
    changes: list[tuple[tuple[str | int, ...], object]],
) -> None:
    document = deepcopy(WHOLE)
    for path, value in changes:
        part: Any = document
        try:
            for key in path[:-1]:
                part = part[key]
            part[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # another change took it away
    text = "\n".join(f"{quoted(key)} = {written(value)}" for key, value in document.items())
    faults: list[str] = []
    try:
        catalog = parse(text, "x")
    except CatalogError as error:
        faults = error.faults
    else:
        assert all(catalog.snapshot(key).plan.key == key for key in catalog.plans)
    assert all(re.match(r"x:\d+: .*, fix: ", one) for one in faults)
