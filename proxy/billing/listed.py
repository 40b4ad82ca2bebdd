"""List prices, from the data that the `genai-prices` package brings along. Nothing is asked of any network.

The package can fetch newer prices; that is never begun. It is loaded when a model's price is first needed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from proxy.billing.tariff import FREE, MILLION, Holding, Rates, Tariff, parts

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

_PACKAGE = "genai_prices"
_HOUR_S = 3_600
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_DAY = timedelta(days=1)

#: What events call providers, where the list has other names for them.
_NAMES = {"xai": "x-ai"}

#: What the list calls the price of each kind, and for how many. Tools, pages and messages are not counted here.
_KEYS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("uncached_input", ("input_mtok",), MILLION),
    ("cached_input", ("cache_read_mtok",), MILLION),
    ("cache_write", ("cache_write_mtok",), MILLION),
    ("audio_input", ("input_audio_mtok",), MILLION),
    ("text_output", ("output_mtok",), MILLION),
    ("reasoning", ("output_reasoning_mtok",), MILLION),
    ("audio_output", ("output_audio_mtok",), MILLION),
    ("image_input", ("input_image_mtok",), MILLION),
    ("image_output", ("output_image_mtok",), MILLION),
    ("audio_ms", ("audio_hours", "input_audio_hours"), _HOUR_S * 1000),
    ("characters", ("input_mchars",), MILLION),
    ("request", ("requests_kcount",), 1_000),
)
#: Groq charges for ten seconds at least, which the package's own sum knows by these names too.
_LEAST_AUDIO_MS = {("groq", "whisper-large-v3"): 10_000, ("groq", "whisper-large-v3-turbo"): 10_000}


class Listed:
    """The list, by provider and model. Of its data only the providers that were asked for are kept."""

    def __init__(self) -> None:
        self._kept: dict[str, list[Provider]] = {}

    @cached_property
    def version(self) -> str:
        return importlib.metadata.version(_PACKAGE)

    def find(self, provider: str, model: str, time_ms: int, tier: str = "") -> Holding:
        """`provider` is the list's own id, another name that events have for it, or the upstream's host."""
        providers = self._kept.get(provider)
        if providers is None:
            providers = self._kept[provider] = _named(_NAMES.get(provider, provider).lower())
        found = providers[0].find_model(model, all_providers=providers) if providers else None
        if found is None:
            return Holding(None)
        at = _EPOCH + time_ms * _MS
        # Tiers are the provider's own: models that it takes over from another one have that one's standard price alone.
        is_own = any(found is one for one in providers[0].models)
        price = found.get_prices(at, {"service_tier": tier} if tier and is_own else None)
        at_tier = f" ({tier})" if tier and price != found.get_prices(at) else ""
        origin = f"{_PACKAGE.replace('_', '-')} {self.version}: {providers[0].id}/{found.id}{at_tier}"
        tariff = _tariff(providers[0].id, found, price, origin)
        return Holding(tariff, *_span(found, at))


def _named(name: str) -> list[Provider]:
    """The provider of this id or host, and then those whose models it offers too; none where it is not known."""
    if not any(char.isalpha() for char in name):
        return []  # an address of somebody's own
    every = _read()
    found = next((one for one in every if one.id == name), None)
    # Its address must be the provider's; that a name sounds like it does not tell what is charged.
    found = found or next((one for one in every if "." in name and _is_host_of(one, name)), None)
    return [] if found is None else [found, *(one for one in every if one.id in (found.fallback_model_providers or ()))]


def _read() -> list[Provider]:
    """All that the package knows: 12 ms, and 4 MiB for as long as somebody holds it, as no module is kept of it."""
    spec = importlib.util.find_spec(f"{_PACKAGE}.data")
    assert spec is not None
    assert spec.loader is not None
    data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(data)
    providers: list[Provider] = data.providers
    return providers


def _is_host_of(provider: Provider, host: str) -> bool:
    """Whether the whole of it is: patterns are of how addresses begin, and some end within a domain's last part."""
    url = f"https://{host}"
    found = re.match(provider.api_pattern, url)
    return found is not None and "." not in url[found.end() :]


def _tariff(provider: str, model: ModelInfo, price: ModelPrice, origin: str) -> Tariff | None:
    """The tariff for a price. An empty one is of what is free, or of what the list does not know: None."""
    prices = {key: value for key, value in vars(price).items() if value is not None}
    if not prices:
        is_free = model.id.endswith(":free") or (provider, model.id) == ("openai", "moderation")
        return Tariff((FREE,), (), origin) if is_free else None
    starts = sorted({tier.start for value in prices.values() for tier in getattr(value, "tiers", ())})
    least_ms = _LEAST_AUDIO_MS.get((provider, model.id), 0)
    rates = tuple(_rates(prices, above, least_ms) for above in (-1, *starts))
    if all(rate == Rates(least_audio_ms=least_ms) for rate in rates):
        return None  # it has prices only for what is not counted here
    return Tariff(rates, tuple(starts), origin)


def _rates(prices: dict[str, Any], above: int, least_audio_ms: int) -> Rates:
    """The rates for inputs of more tokens than this, up to the next step."""
    known: dict[str, int] = {"least_audio_ms": least_audio_ms}
    for name, keys, per in _KEYS:
        value = next((prices[key] for key in keys if key in prices), None)
        if value is not None:
            known[name] = parts(_at(value, above), per)
    return Rates(**known).filled()


def _at(value: Any, above: int) -> Decimal:
    """Of a price by steps, the last that begins at or below this one."""
    price: Decimal = getattr(value, "base", value)
    for tier in getattr(value, "tiers", ()):
        if tier.start <= above:
            price = tier.price
    return price


def _span(model: ModelInfo, at: datetime) -> tuple[float, float]:
    """Since when, and until when, the same of a model's prices holds (unix milliseconds)."""
    now_ms = (at - _EPOCH) // _MS
    instants = [(instant - _EPOCH) // _MS for instant in _changes(model, at)]
    before = max((instant for instant in instants if instant <= now_ms), default=-math.inf)
    after = min((instant for instant in instants if instant > now_ms), default=math.inf)
    return before, after


def _changes(model: ModelInfo, at: datetime) -> Iterator[datetime]:
    """The instants at which a model's price may change; of those that come daily, the ones around this time."""
    prices = model.prices if isinstance(model.prices, list) else []
    for conditional in (*prices, *(model.price_variants or ())):
        constraint: Any = conditional.constraint
        if hasattr(constraint, "start_date"):
            yield datetime.combine(constraint.start_date, time(), UTC)
        elif constraint is not None:
            for day in (at - _DAY, at, at + _DAY):
                for clock in (constraint.start_time, constraint.end_time):
                    yield datetime.combine(day.date(), clock, clock.tzinfo or UTC)
