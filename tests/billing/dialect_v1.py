"""What an engine has, told in v1: the dialect of the official client. Only what is asked for here can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import orjson
from starlette.responses import Response

from tests.billing.engine import problem

Item = dict[str, Any]

_NAMES = {"created_at": "createdAt", "updated_at": "updatedAt", "labels": "metadata", "description": "description"}


class Having(Protocol):
    """What an engine has, as v3 tells it."""

    meters: list[Item]
    features: list[Item]
    plans: list[Item]
    customers: list[Item]
    subscriptions: list[Item]


def answer_v1(has: Having, path: str, query: Mapping[str, str]) -> Response:
    """The answer to a GET of `/meters`, `/features`, `/plans` or `/customers`."""
    slugs = {one["id"]: one["key"] for one in has.meters}
    keys = {one["id"]: one["key"] for one in has.features}
    listed: dict[str, list[Item]] = {
        "/meters": [_meter(one) for one in has.meters],
        "/features": [_feature(one, slugs) for one in has.features],
        "/plans": [_plan(one, keys) for one in has.plans],
        "/customers": [_customer(one) for one in has.customers],
    }
    if path not in listed:
        return problem(404, "it is not told in v1 here")
    page: Any = listed[path]
    if path != "/meters" and (path != "/features" or "page" in query):
        page = {"items": page, "totalCount": len(page), "page": 1, "pageSize": 100}
    return Response(orjson.dumps(page), media_type="application/json")


def _common(one: Item) -> Item:
    return {"id": one["id"], "name": one["name"]} | {_NAMES[key]: one[key] for key in _NAMES if key in one}


def _meter(one: Item) -> Item:
    known = {"slug": one["key"], "eventType": one["event_type"], "aggregation": one["aggregation"].upper()}
    value = {"valueProperty": one["value_property"]} if "value_property" in one else {}
    return _common(one) | known | value | {"groupBy": one.get("dimensions", {})}


def _feature(one: Item, slugs: Mapping[str, str]) -> Item:
    meter = one.get("meter")
    metered: Item = {}
    if meter is not None:
        filters = {
            name: {f"${operator}": value for operator, value in condition.items()}
            for name, condition in meter.get("filters", {}).items()
        }
        metered = {"meterSlug": slugs[meter["id"]], "advancedMeterGroupByFilters": filters}
    return _common(one) | {"key": one["key"]} | metered


def _plan(one: Item, keys: Mapping[str, str]) -> Item:
    return _common(one) | {
        "key": one["key"],
        "version": one["version"],
        "status": one["status"],
        "currency": one["currency"],
        "billingCadence": one["billing_cadence"],
        "validationErrors": None,
        "phases": [
            {
                "key": phase["key"],
                "name": phase["name"],
                "duration": phase.get("duration"),
                "rateCards": [_card(card, keys) for card in phase["rate_cards"]],
            }
            for phase in one["phases"]
        ],
    }


def _card(card: Item, keys: Mapping[str, str]) -> Item:
    is_flat = card["price"]["type"] == "flat"
    told = {"type": "flat_fee" if is_flat else "usage_based", "key": card["key"], "name": card["name"]}
    told |= {"billingCadence": card.get("billing_cadence"), "price": _price(card)}
    if "feature" in card:
        told["featureKey"] = keys[card["feature"]["id"]]
    if card.get("entitlement", {}).get("type") == "metered":
        one = card["entitlement"]
        told["entitlementTemplate"] = {
            "type": "metered",
            "isSoftLimit": one.get("is_soft_limit", False),
            "issueAfterReset": one["limit"],
            "usagePeriod": one["usage_period"],
        }
    if "usage" in card.get("discounts", {}):
        told["discounts"] = {"usage": {"quantity": card["discounts"]["usage"]}}
    return told


def _price(card: Item) -> Item | None:
    price = card["price"]
    match price["type"]:
        case "free":
            return None
        case "flat":
            return {"type": "flat", "amount": price["amount"], "paymentTerm": card.get("payment_term", "in_arrears")}
        case "unit":
            return {"type": "unit", "amount": price["amount"]}
        case mode:
            tiers = [
                {"flatPrice": tier.get("flat_price"), "unitPrice": tier.get("unit_price")}
                | ({"upToAmount": tier["up_to_amount"]} if "up_to_amount" in tier else {})
                for tier in price["tiers"]
            ]
            return {"type": "tiered", "mode": mode, "tiers": tiers}


def _customer(one: Item) -> Item:
    subjects = one.get("usage_attribution", {}).get("subject_keys", [])
    return _common(one) | {"key": one["key"], "usageAttribution": {"subjectKeys": subjects}}
