"""Catalogs to bill by, written as people write them."""

from __future__ import annotations

from proxy.billing.catalog import Catalog
from proxy.billing.catalog_file import parse

BASE = """
[meters.llm_total_tokens]
event_type = "llm_token_usage"
aggregation = "sum"
value_property = "$.total_tokens"
dimensions = { model = "$.model", model_family = "$.model_family", endpoint = "$.endpoint" }

[meters.requests]
event_type = "llm_token_usage"
aggregation = "count"

[features.ai_tokens]
meter = "llm_total_tokens"

[features.mini_tokens]
meter = "llm_total_tokens"
filters = { model_family = "gpt-4o-mini" }

[features.requests]
meter = "requests"

[features.support]
"""

HEAD = """
[plans.{key}]
currency = "USD"
billing_cadence = "P1M"
"""


def plan_text(key: str, *cards: str) -> str:
    """A plan with rate cards, each as its lines."""
    return HEAD.format(key=key) + "".join(f"[[plans.{key}.rate_cards]]\n{card}\n" for card in cards)


def catalog(*plans: str, more: str = "") -> Catalog:
    return parse(BASE + "".join(plans) + more, "billing.toml")


UNIT = 'feature = "ai_tokens"\nprice = { type = "unit", amount = "0.000002" }'
FREE = 'feature = "ai_tokens"\nprice = { type = "free" }\nentitlement = { limit = 10000 }'
FEE = 'key = "base_fee"\nprice = { type = "flat", amount = "20" }'
