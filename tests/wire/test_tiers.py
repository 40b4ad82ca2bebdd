from __future__ import annotations

from typing import Any

import pytest

from proxy.wire.tiers import tier_of


@pytest.mark.parametrize(
    ("document", "tier"),
    [
        ({"service_tier": "priority"}, "priority"),
        ({"type": "response.completed", "response": {"service_tier": "flex"}}, "flex"),
        ({"service_tier": None, "response": "x"}, ""),
        ({"service_tier": 3}, ""),
        ({"service_tier": "a b\n"}, ""),
        ({"service_tier": "x" * 33}, ""),
        ({}, ""),
    ],
)
def test_a_tier_is_a_short_word(document: dict[str, Any], tier: str) -> None:
    assert tier_of(document) == tier
