"""What a request may cost at most, before it is answered: so much money is reserved for it."""

from __future__ import annotations

from typing import Protocol

from proxy.gateway.call import Call
from proxy.model import NO_UNITS, Units
from proxy.wire.units import units_asked


class Most(Protocol):
    """What a request may cost at most (`proxy.billing.tariff`)."""

    @property
    def is_free(self) -> bool: ...

    def pico(self, output_tokens: int) -> int:
        """Pico-dollars, with so much output."""

    def tokens_within(self, pico: int) -> int | None:
        """How many output tokens so much pays for; None where they cost nothing."""


class Prices(Protocol):
    """List prices (`proxy.billing.prices`)."""

    def most(self, provider: str, model: str, time_ms: int, input_tokens: int, units: Units, tier: str) -> Most | None:
        """What a request may cost at most, at the service tier that it asks for; None where no price is known."""


def most_of(prices: Prices, call: Call, provider: str, now_ms: int) -> Most | None:
    """What a call to this provider may cost at most; None where something that it asks for has no price."""
    units = units_asked(call.rule, call.request) if call.request else NO_UNITS
    return prices.most(provider, call.model, now_ms, call.input_tokens, units, call.service_tier)
