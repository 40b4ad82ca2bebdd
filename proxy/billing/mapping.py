"""The catalog in the words of the OpenMeter v3 API: the bodies that create and update what it has.

The API's schemas are closed. So nothing is sent that they do not name, and nothing that says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from proxy.billing.catalog import (
    Entitlement,
    Feature,
    Filter,
    Flat,
    Free,
    Graduated,
    Meter,
    Package,
    PerUnit,
    Phase,
    Plan,
    Price,
    RateCard,
    Tier,
    Volume,
)
from proxy.billing.money import plain
from proxy.billing.openmeter import Document
from proxy.instants import iso_short

#: What tells our own things from others'.
LABELS = {"managed_by": "tollgate"}


def is_ours(found: Document) -> bool:
    """Whether it was created from a catalog."""
    labels = found.get("labels")
    return isinstance(labels, dict) and LABELS.items() <= labels.items()


def meter_body(meter: Meter) -> Document:
    """`CreateMeterRequest`"""
    return _said(
        key=meter.key,
        name=meter.name,
        description=meter.description,
        event_type=meter.event_type,
        aggregation=meter.aggregation.value,
        value_property=meter.value_property,
        dimensions=dict(meter.dimensions),
        events_from=iso_short(meter.events_from_ms),
        labels=LABELS,
    )


def meter_update(meter: Meter, found: Document) -> Document:
    """`UpdateMeterRequest`: all that may change. Another's meter only gets the dimensions that it lacks."""
    theirs = {key: found[key] for key in ("name", "description", "labels", "dimensions") if found.get(key)}
    if not is_ours(found):
        return theirs | {"dimensions": _table(found, "dimensions") | dict(meter.dimensions)}
    body = {"name": meter.name, "dimensions": dict(meter.dimensions), "labels": _table(found, "labels")}
    # Left out, one that is there might stay.
    return body | ({"description": meter.description} if meter.description or "description" in theirs else {})


def feature_body(feature: Feature, meter_ids: Mapping[str, str]) -> Document:
    """`CreateFeatureRequest`. `meter_ids` are the engine's, by our keys."""
    meter = {"id": meter_ids[feature.meter]} if feature.meter else {}
    filters = {name: _filter(one) for name, one in feature.filters.items()}
    return _said(
        key=feature.key,
        name=feature.name,
        description=feature.description,
        meter=_said(**meter, filters=filters),
        labels=LABELS,
    )


def plan_body(plan: Plan, feature_ids: Mapping[str, str]) -> Document:
    """`CreatePlanRequest`. `feature_ids` are the engine's, by our keys."""
    fixed = {"key": plan.key, "currency": plan.currency, "billing_cadence": plan.billing_cadence.iso}
    return fixed | plan_update(plan, feature_ids)


def plan_update(plan: Plan, feature_ids: Mapping[str, str]) -> Document:
    """`UpsertPlanRequest`: all of a draft that may change."""
    phases = [_phase(phase, plan, feature_ids) for phase in plan.phases]
    return {"name": plan.name, "pro_rating_enabled": plan.pro_rating_enabled, "phases": phases} | _said(
        description=plan.description, labels=LABELS
    )


def _phase(phase: Phase, plan: Plan, feature_ids: Mapping[str, str]) -> Document:
    said = _said(description=phase.description, duration=phase.duration.iso if phase.duration else "")
    cards = [_card(card, plan, feature_ids) for card in phase.rate_cards]
    return {"key": phase.key, "name": phase.name} | said | {"rate_cards": cards}


def _card(card: RateCard, plan: Plan, feature_ids: Mapping[str, str]) -> Document:
    cadence = "" if card.one_time else plan.billing_cadence.iso
    package = card.price if isinstance(card.price, Package) else None
    return _said(
        key=card.key,
        name=card.name,
        description=card.description,
        feature={"id": feature_ids[card.feature]} if card.feature else {},
        billing_cadence=cadence,
        payment_term=card.payment_term,
        price=_price(card.price),
        unit_config=_packages(package) if package else {},
        commitments=_said(minimum_amount=_numeric(card.minimum_amount), maximum_amount=_numeric(card.maximum_amount)),
        # Of all numbers the only one that the API wants as a number: a float prints as it was written.
        discounts=({} if card.discount_percent is None else {"percentage": float(card.discount_percent)})
        | _said(usage=_numeric(card.free_units)),
        entitlement=_entitlement(card.entitlement, plan) if card.entitlement else {},
    )


def _price(price: Price) -> Document:
    match price:
        case Free():
            return {"type": "free"}
        case Flat() | PerUnit():
            return {"type": price.type, "amount": plain(price.amount)}
        case Package():
            return {"type": "unit", "amount": plain(price.amount)}
        case Graduated() | Volume():
            return {"type": price.type, "tiers": [_tier(tier) for tier in price.tiers]}


def _packages(price: Package) -> Document:
    """v3 has no price by the package: a unit is then a package that was begun."""
    factor = plain(price.quantity_per_package)
    return {"operation": "divide", "conversion_factor": factor, "rounding": "ceiling"}


def _tier(tier: Tier) -> Document:
    return _said(
        up_to_amount=_numeric(tier.up_to_amount),
        unit_price={} if tier.unit_price is None else {"type": "unit", "amount": plain(tier.unit_price)},
        flat_price={} if tier.flat_price is None else {"type": "flat", "amount": plain(tier.flat_price)},
    )


def _entitlement(one: Entitlement, plan: Plan) -> Document:
    if one.type == "boolean":
        return {"type": "boolean"}
    period = one.usage_period or plan.billing_cadence
    return {"type": "metered", "limit": one.limit, "is_soft_limit": one.is_soft_limit, "usage_period": period.iso}


def _filter(one: Filter) -> Document:
    return {one.operator: one.values[0] if one.operator in ("eq", "neq") else list(one.values)}


def _numeric(number: Decimal | None) -> str:
    return "" if number is None else plain(number)


def _said(**values: object) -> Document:
    """Without what says nothing."""
    return {key: value for key, value in values.items() if value not in ("", {}, None)}


def _table(found: Document, key: str) -> Document:
    value = found.get(key)
    return dict(value) if isinstance(value, dict) else {}
