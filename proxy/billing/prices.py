"""The price book: what a model costs at a time, by the operator's own prices and then by the list; remembered."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Protocol

from proxy.billing.listed import Listed
from proxy.billing.overrides import Overrides
from proxy.billing.tariff import FREE, NOTHING, UNPRICED, Holding, Most, Tariff, used_nothing
from proxy.model import Cost, CostState, Settlement, Units

log = logging.getLogger(__name__)

#: Models that are remembered; beyond it all are forgotten. Whoever asks may name what they like.
_REMEMBERED_MAX = 10_000
_NAME_CHARS_MAX = 256

#: What events call the embedded upstream.
SANDBOX = "sandbox"


class PriceList(Protocol):
    """Prices of models (`proxy.billing.listed`, `proxy.billing.overrides`)."""

    def find(self, provider: str, model: str, time_ms: int, tier: str = "") -> Holding:
        """What holds for a provider's model at a time, where it is served at this tier."""


class SandboxPrices:
    """The embedded upstream makes its text without any model, and is free."""

    _holding = Holding(Tariff((FREE,), (), "the sandbox"))

    def find(self, provider: str, model: str, time_ms: int, tier: str = "") -> Holding:
        del model, time_ms, tier
        return self._holding if provider == SANDBOX else Holding(None)


class PriceBook:
    """Several lists, of which the first that knows a model tells its price. Not for use by several threads."""

    def __init__(self, lists: Sequence[PriceList]) -> None:
        self._lists = lists
        self._known: dict[tuple[str, str, str], Holding] = {}

    @classmethod
    def of(cls, file: str | None) -> PriceBook:
        """The operator's own prices, from this file, and then the list's. Raises `ConfigurationError`."""
        return cls([Overrides.read(file), SandboxPrices(), Listed()])

    def tariff(self, provider: str, model: str, time_ms: int, tier: str = "") -> Tariff | None:
        """What holds for a provider's model, as it is named in a request or in an answer; None: no price is known."""
        return self.holding(provider, model, time_ms, tier).tariff

    def holding(self, provider: str, model: str, time_ms: int, tier: str = "") -> Holding:
        """The same, and for how long."""
        holding = self._known.get((provider, model, tier))
        if holding is None or not holding.from_ms <= time_ms < holding.until_ms:
            if len(model) > _NAME_CHARS_MAX:
                return Holding(None)
            if len(self._known) >= _REMEMBERED_MAX:
                self._known.clear()
            holding = self._known[provider, model, tier] = self._find(provider, model, time_ms, tier)
        return holding

    def cost(self, one: Settlement) -> Cost:
        """What a request cost, at the prices of its time: of the model that answered, or else of the one asked for."""
        if used_nothing(one):
            return NOTHING
        for model in (one.model, one.requested_model):
            tariff = self.tariff(one.provider, model, one.time_ms, one.service_tier) if model else None
            if tariff is not None:
                return tariff.cost(one)
        return UNPRICED

    def costed(self, one: Settlement) -> Settlement:
        """The settlement with its cost, unless it has one already."""
        return one.with_cost(self.cost(one)) if one.cost.state is CostState.UNKNOWN else one

    def most(
        self, provider: str, model: str, time_ms: int, input_tokens: int, units: Units, tier: str = ""
    ) -> Most | None:
        """The most that a request may cost, before it is answered. None: what it asks for has no price."""
        tariff = self.tariff(provider, model, time_ms, tier)
        return None if tariff is None else tariff.most(input_tokens, units)

    def _find(self, provider: str, model: str, time_ms: int, tier: str) -> Holding:
        from_ms, until_ms = -math.inf, math.inf
        for one in self._lists:
            try:
                holding = one.find(provider, model, time_ms, tier).within(from_ms, until_ms)
            except Exception:
                # Others' code and data: whatever is wrong there, requests must be settled.
                log.exception("the price of model %r at %s could not be looked up: it is unpriced", model, provider)
                break
            if holding.tariff is not None:
                return holding
            from_ms, until_ms = holding.from_ms, holding.until_ms  # where an earlier list may know better
        return Holding(None, from_ms, until_ms)
