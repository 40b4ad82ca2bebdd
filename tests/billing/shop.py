"""A catalog that has one of everything, and engines to bring it to."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from typing import Any

from proxy.billing.applying import Applied, Applying
from proxy.billing.catalog import Catalog
from proxy.billing.catalog_file import parse
from proxy.billing.openmeter import OpenMeter
from tests.billing.catalogs import BASE, plan_text
from tests.billing.selling import Item, Selling

PRO = (
    'key = "base_fee"\nprice = { type = "flat", amount = "20" }\npayment_term = "in_advance"',
    'key = "set_up"\nprice = { type = "flat", amount = "5" }\nbilling_cadence = "once"',
    (
        'feature = "ai_tokens"\ndiscounts = { usage = 10000, percentage = 12.5 }\n'
        'commitments = { minimum_amount = "5", maximum_amount = "100" }\n'
        'price = { type = "graduated", tiers = [\n'
        '  { up_to_amount = 1000000, unit_price = "0.000002" }, { unit_price = "0.0000015", flat_price = "1" } ] }\n'
        'entitlement = { limit = 5000000, is_soft_limit = true, usage_period = "P1D" }'
    ),
    'feature = "support"\nprice = { type = "free" }\nentitlement = { type = "boolean" }',
    'feature = "requests"\nprice = { type = "package", amount = "2", quantity_per_package = 1000 }',
    'feature = "mini_tokens"\nprice = { type = "volume", tiers = [ { unit_price = "0.000001" } ] }',
)
STARTER = 'feature = "ai_tokens"\nprice = { type = "unit", amount = "0.000002" }'
TEXT = BASE + plan_text("starter", STARTER) + plan_text("pro", *PRO)


def catalog(text: str = TEXT) -> Catalog:
    return parse(text, "billing.toml")


async def no_wait(_: float) -> None:
    """Nobody waits in a test."""


async def applied(selling: Selling, text: str = TEXT, **options: Any) -> Applied:
    """What `apply` does at an engine."""
    engine = OpenMeter(selling.url, sleep=no_wait)
    try:
        return await Applying(engine, catalog(text), **{"sleep": no_wait, **options}).run()
    finally:
        await engine.close()


_STOCKED: dict[str, Any] = {}


async def stocked(selling: Selling) -> None:
    """What `applied` leads to, without the way there, but for the first time."""
    if not _STOCKED:
        await applied(selling)
        _STOCKED.update({name: deepcopy(getattr(selling, name)) for name in ("meters", "features", "plans", "count")})
    for name, value in _STOCKED.items():
        setattr(selling, name, deepcopy(value))
    selling.asked.clear()


def apply(selling: Selling, text: str = TEXT, **options: Any) -> list[str]:
    """The steps that it took."""
    return [str(step) for step in asyncio.run(applied(selling, text, **options)).steps]


def has(selling: Selling) -> dict[str, list[Item]]:
    """What the engine has, without what no two runs have in common: ids are the keys that they stand for."""
    keys = {one["id"]: one["key"] for one in (*selling.meters, *selling.features)}
    return {
        kind: sorted(
            (_without_ids(one, keys) for one in getattr(selling, kind)), key=lambda one: (one["key"], str(one))
        )
        for kind in ("meters", "features", "plans")
    }


def _without_ids(part: Any, keys: dict[str, str]) -> Any:
    if isinstance(part, list):
        return [_without_ids(one, keys) for one in part]
    if not isinstance(part, dict):
        return keys.get(part, part) if isinstance(part, str) else part
    inner = {key: value for key, value in part.items() if key not in ("created_at", "updated_at")}
    if "key" in inner:
        inner.pop("id", None)
    return {key: _without_ids(value, keys) for key, value in inner.items()}
