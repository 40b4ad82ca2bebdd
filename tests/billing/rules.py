"""Rules that the schemas do not say: of meters, and those that a plan's draft may still break."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Item = dict[str, Any]


def broken_rules(plan: Item, features: list[Item]) -> Iterator[tuple[str, str]]:
    """Code and words of each."""
    *phases, last = plan["phases"]
    if "duration" in last or not all("duration" in one for one in phases):
        yield "plan_phase_duration", "only the last phase has no duration"
    for card in (card for phase in plan["phases"] for card in phase["rate_cards"]):
        if "feature" in card:
            feature = next((one for one in features if one["id"] == card["feature"]["id"]), None)
            if feature is None or feature["key"] != card["key"]:
                yield "rate_card_key_feature_key_mismatch", "a rate card's key must be its feature's"
        price = card["price"]
        if card.get("payment_term") == "in_advance" and price["type"] != "flat":
            yield "rate_card_payment_term", "in_advance is for flat prices"
        if "billing_cadence" not in card and price["type"] != "flat":
            yield "rate_card_billing_cadence", "only flat prices are charged once"
        if card.get("billing_cadence", plan["billing_cadence"]) != plan["billing_cadence"]:
            yield "rate_card_billing_cadence_mismatch", "cadences must fit"
        *tiers, open_tier = price.get("tiers", [{}])
        if "up_to_amount" in open_tier or not all("up_to_amount" in tier for tier in tiers):
            yield "tier_bounds", "only the last tier is open"
        if card.get("entitlement", {}).get("type") == "metered" and "limit" not in card["entitlement"]:
            yield "entitlement_limit", "a metered entitlement needs a limit"


def dimensions_fault(meter: Item, value_property: str | None) -> str:
    """What is wrong with a meter's dimensions."""
    dimensions = meter.get("dimensions", {})
    if dimensions.keys() & {"subject", "customer_id"} or value_property in dimensions.values():
        return "a reserved dimension, or one that is the value"
    return "" if all(path.startswith("$") for path in dimensions.values()) else "a path begins with $"
