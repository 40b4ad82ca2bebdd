"""A settlement as JSON: how one waits that is not in the ledger yet, wherever it waits."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import orjson

from proxy.model import Cost, CostState, Outcome, Settlement, Units, Usage, UsageSource

_NAMES = tuple(field.name for field in fields(Settlement) if field.type == "str")


def write(settlement: Settlement) -> bytes:
    """One line of JSON. Lone surrogates, which upstreams may put into names, are replaced."""
    try:
        return orjson.dumps(settlement)
    except orjson.JSONEncodeError:
        names = {name: getattr(settlement, name).encode("utf-8", "replace").decode() for name in _NAMES}
        return orjson.dumps(replace(settlement, **names))


def settlement_of(document: dict[str, Any]) -> Settlement:
    """The settlement that was written so. Raises `TypeError`, `KeyError` or `ValueError` for what is none."""
    known = dict(document)
    known["usage"] = Usage(**known["usage"])
    known["units"] = Units(**known["units"])
    known["outcome"] = Outcome(known["outcome"])
    known["usage_source"] = UsageSource(known["usage_source"])
    if "cost" in known:  # what a version wrote that knew of no costs has none
        known["cost"] = Cost(**known["cost"] | {"state": CostState(known["cost"]["state"])})
    return Settlement(**known)
