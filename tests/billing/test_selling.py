"""The descriptions that a catalog is written by, and what the official client reads of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from openmeter import Client

from proxy.billing.openmeter import OpenMeter
from proxy.errors import EngineRefused
from tests.billing.contract import excerpt, faults_of_question
from tests.billing.selling import DOCUMENTS, KONNECT, OPENMETER, OPERATIONS, Selling
from tests.billing.shop import apply
from tests.delivery.contract import load


@pytest.mark.parametrize(("path", "variable"), [(OPENMETER, "OPENMETER_V3_YAML"), (KONNECT, "KONNECT_V3_YAML")])
def test_an_excerpt_says_what_the_whole_document_says(path: Path, variable: str) -> None:
    if variable not in os.environ:
        pytest.skip(f"{variable} does not name the document")
    assert load(path) == excerpt(load(Path(os.environ[variable])), OPERATIONS)


def test_the_check_refuses_what_the_engines_refuse() -> None:
    meter = {"key": "m", "name": "M", "event_type": "x", "aggregation": "count"}
    at = ("/openmeter/meters", "post")
    assert faults_of_question(at, meter, DOCUMENTS) == []
    assert faults_of_question(at, meter | {"eventType": "x"}, DOCUMENTS), "a member of v1"
    assert faults_of_question(at, meter | {"key": "M-1"}, DOCUMENTS)
    assert faults_of_question(at, meter | {"aggregation": "COUNT"}, DOCUMENTS)
    customer = {"key": "a", "name": "A", "usageAttribution": {"subjectKeys": ["a"]}}
    assert faults_of_question(("/openmeter/customers", "post"), customer, DOCUMENTS)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/meters/starter", {"name": "x"}, 400),
        ("/meters/01G65Z755AFWAKHE12NY999999", {"name": "x"}, 404),
        ("/plans/01G65Z755AFWAKHE12NY000007", {"name": "x", "phases": []}, 400),
    ],
)
async def test_the_engine_is_strict(other: Selling, path: str, body: dict[str, Any], status: int) -> None:
    engine = OpenMeter(other.url)
    try:
        with pytest.raises(EngineRefused) as refused:
            await engine.change("PUT", path, body)
        assert refused.value.status == status
    finally:
        await engine.close()
    other.faults.clear()  # it was meant to find them


def test_the_official_client_reads_what_was_applied(selling: Selling) -> None:
    """It speaks v1 alone: the same server tells in that what it was told in v3."""
    apply(selling)
    with Client(endpoint=selling.base) as client:
        meters = {one.slug: one for one in client.meters.list()}
        plans = {one.key: one.as_dict() for one in client.plans.list()}
        features: list[Any] = list(client.features.list())
    assert (meters["llm_total_tokens"].aggregation, meters["requests"].aggregation) == ("SUM", "COUNT")
    assert meters["llm_total_tokens"].value_property == "$.total_tokens"
    assert {one["key"]: one.get("meterSlug") for one in features} == {
        "ai_tokens": "llm_total_tokens",
        "mini_tokens": "llm_total_tokens",
        "requests": "requests",
        "support": None,
    }
    assert (plans["pro"]["status"], plans["pro"]["currency"], plans["pro"]["billingCadence"]) == (
        "active",
        "USD",
        "P1M",
    )
    cards = {one["key"]: one for one in plans["pro"]["phases"][0]["rateCards"]}
    assert cards["base_fee"]["price"] == {"type": "flat", "amount": "20", "paymentTerm": "in_advance"}
    first, last = cards["ai_tokens"]["price"]["tiers"]
    assert (first["upToAmount"], first["unitPrice"]["amount"]) == ("1000000", "0.000002")
    assert (last.get("upToAmount"), last["flatPrice"]["amount"]) == (None, "1")
    assert cards["ai_tokens"]["entitlementTemplate"] == {
        "type": "metered",
        "isSoftLimit": True,
        "issueAfterReset": 5_000_000,
        "usagePeriod": "P1D",
    }
    (card,) = plans["starter"]["phases"][0]["rateCards"]
    assert (card["featureKey"], card["price"]) == ("ai_tokens", {"type": "unit", "amount": "0.000002"})
