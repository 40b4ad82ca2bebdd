"""Service tiers: providers serve the same model faster or later for another price, and say so in `service_tier`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TIER = re.compile(r"[a-z0-9_-]{1,32}")


def tier_of(document: Mapping[str, Any]) -> str:
    """The tier that a request asks for, or at which an answer was given; empty where it is none."""
    inner = document.get("response")  # in an event of the Responses API
    value = document.get("service_tier") or (inner.get("service_tier") if isinstance(inner, dict) else None)
    return value if isinstance(value, str) and _TIER.fullmatch(value) else ""
