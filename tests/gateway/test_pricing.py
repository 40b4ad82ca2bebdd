from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from proxy.gateway.pricing import most_of
from proxy.model import NO_UNITS, Units
from proxy.wire.endpoints import Routes
from tests.gateway.test_quotas import call, caller


@dataclass
class Most:
    is_free: bool = False

    def pico(self, output_tokens: int) -> int:
        return output_tokens

    def tokens_within(self, pico: int) -> int | None:
        return pico


class Prices:
    def __init__(self) -> None:
        self.asked: tuple[Any, ...] = ()

    def most(self, *asked: Any) -> Most | None:
        self.asked = asked
        return Most() if asked[1] == "gpt-4o" else None


@pytest.mark.parametrize(
    ("path", "request_", "units"),
    [
        (b"/v1/chat/completions", {}, NO_UNITS),
        (b"/v1/images/generations", {"prompt": "A cat", "n": 4}, Units(images=4)),
        (b"/v1/audio/speech", {"input": "Hello"}, Units(characters=5)),
    ],
)
def test_all_that_is_known_before_is_asked_for(path: bytes, request_: dict[str, Any], units: Units) -> None:
    rule = Routes(()).match("POST", path, own_account=False)
    asked = replace(call(caller(), tokens=7), rule=rule, request=request_, service_tier="flex")
    prices = Prices()
    assert most_of(prices, asked, "openai", 123) == Most()
    assert prices.asked == ("openai", "gpt-4o", 123, 7, units, "flex")
    assert most_of(prices, replace(asked, model="mine"), "openai", 123) is None
