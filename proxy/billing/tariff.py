"""What a model costs: unit prices for each kind of token and unit, and the exact sum for what was used."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from fractions import Fraction

from proxy.model import BUCKETS, NO_UNITS, Cost, CostState, Outcome, Settlement, Units, Usage, UsageSource
from proxy.money import PICO_MAX

#: Rates are whole numbers of parts, so that sums are exact: a ninth of 1e-24 dollars. (Prices are listed with up to 17
#: places for a million tokens; and an hour has 9 x 400,000 milliseconds.)
PARTS_PER_USD = 9 * 10**24
PARTS_PER_PICO = PARTS_PER_USD // 10**12
MILLION = 10**6
HOUR_MS = 3_600_000

_IMAGES = "/v1/images/"
#: The route whose input is text alone; the others are sent pictures.
_FROM_TEXT = "/v1/images/generations"


def parts(usd: Decimal, per: int = 1) -> int:
    """The rate of one, where so many cost this. Rounded where that has too many places."""
    return round(Fraction(usd) * PARTS_PER_USD / per)


@dataclass(frozen=True, slots=True)
class Rates:
    """What one of each costs, in parts. None: not known; of tokens then, what stands for all of that side (`filled`).

    `image_input` and `image_output` are tokens of pictures, `least_audio_ms` is charged for shorter audio as well.
    """

    uncached_input: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    audio_input: int | None = None
    text_output: int | None = None
    reasoning: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    image_output: int | None = None
    images: int | None = None
    audio_ms: int | None = None
    characters: int | None = None
    request: int | None = None
    least_audio_ms: int = 0

    def filled(self) -> Rates:
        """Kinds of tokens that have no price of their own cost what their side does: upstreams charge them so."""
        known = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in ("cached_input", "cache_write", "audio_input", "image_input"):
            known[name] = self.uncached_input if known[name] is None else known[name]
        for name in ("reasoning", "audio_output", "image_output"):
            known[name] = self.text_output if known[name] is None else known[name]
        return Rates(**known)

    @property
    def inputs(self) -> tuple[int | None, ...]:
        return self.uncached_input, self.cached_input, self.cache_write, self.audio_input

    @property
    def outputs(self) -> tuple[int | None, ...]:
        return self.text_output, self.reasoning, self.audio_output


#: Everything that there is costs nothing.
FREE = Rates(*[0] * 13)


@dataclass(frozen=True, slots=True)
class Tariff:
    """The rates of a model, and where they come from. Above `starts[n]` input tokens in all, `rates[n + 1]` hold."""

    rates: tuple[Rates, ...]
    starts: tuple[int, ...]
    origin: str
    is_free: bool = field(init=False)
    #: Of each step, the dearest kind of input and of output.
    _dearest: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Both are asked for with each request.
        is_free = all(not rate for rates in self.rates for rate in _known(rates))
        object.__setattr__(self, "is_free", is_free)
        dearest = tuple((_dearest(rates.inputs), _dearest(rates.outputs)) for rates in self.rates)
        object.__setattr__(self, "_dearest", dearest)

    def at(self, input_tokens: int) -> Rates:
        return self.rates[bisect_left(self.starts, input_tokens)]

    def cost(self, one: Settlement) -> Cost:
        """What was used costs this. Unpriced, where something of it has no price."""
        usage, units = one.usage, one.units
        rates = self.at(usage.prompt_tokens)
        if one.endpoint.startswith(_IMAGES):
            rates = _of_images(rates, one.endpoint)
        of_tokens, of_units = _of_tokens(rates, usage), _of_units(rates, units)
        if of_tokens is None and of_units is None and not _by_request(rates):
            used = usage.total_tokens or units != NO_UNITS
            # Answered, and nobody knows what it has used: only what is free costs nothing then.
            if used or (one.usage_source is UsageSource.NONE and not self.is_free):
                return UNPRICED
        total = (of_tokens or 0) + (of_units or 0) + (rates.request or 0)
        pico = min(PICO_MAX, (total + PARTS_PER_PICO // 2) // PARTS_PER_PICO)
        return Cost(pico, CostState.PRICED if pico else CostState.FREE)

    def most(self, input_tokens: int, units: Units) -> Most | None:
        """The most that a request may cost: the dearest kinds of its input and output, as nobody knows them before.

        None where it asks for what has no price.
        """
        step = bisect_left(self.starts, input_tokens)
        rates = self.rates[step]
        of_input, of_output = self._dearest[step]
        fixed = of_input * input_tokens + (rates.request or 0)
        if units is not NO_UNITS:
            if not _by_request(rates) and _lacks(rates, units):
                return None
            fixed += _of_units(rates, units) or 0
        return Most(fixed, of_output, self.is_free)


@dataclass(frozen=True, slots=True)
class Most:
    """What a request may cost at most, in parts: what is certain, and what each output token may add."""

    fixed: int
    each: int
    is_free: bool

    def pico(self, output_tokens: int) -> int:
        """Pico-dollars, rounded up."""
        return -(-(self.fixed + self.each * output_tokens) // PARTS_PER_PICO)

    def tokens_within(self, pico: int) -> int | None:
        """How many output tokens so much pays for; None where they cost nothing."""
        return (pico * PARTS_PER_PICO - self.fixed) // self.each if self.each else None


@dataclass(frozen=True, slots=True)
class Holding:
    """The tariff that holds in `[from_ms, until_ms)` (unix milliseconds), or that there is none then."""

    tariff: Tariff | None
    from_ms: float = -math.inf
    until_ms: float = math.inf

    def within(self, from_ms: float, until_ms: float) -> Holding:
        """The same, not known for longer than this."""
        return replace(self, from_ms=max(self.from_ms, from_ms), until_ms=min(self.until_ms, until_ms))


UNPRICED = Cost(0, CostState.UNPRICED)
NOTHING = Cost(0, CostState.FREE)


def used_nothing(one: Settlement) -> bool:
    """Whether it failed before anything was generated, which no upstream charges for."""
    failed = one.status >= 400 or one.outcome is Outcome.UPSTREAM_ERROR
    return failed and not one.usage.total_tokens and one.units == NO_UNITS


def _of_tokens(rates: Rates, usage: Usage) -> int | None:
    """None where there are none, or some of a kind that has no price."""
    total = None
    for name in BUCKETS:
        if count := getattr(usage, name):
            rate = getattr(rates, name)
            if rate is None:
                return None
            total = (total or 0) + count * rate
    return total


def _of_units(rates: Rates, units: Units) -> int | None:
    """None where there are none that have a price."""
    if units == NO_UNITS:
        return None
    audio_ms = max(units.audio_ms, rates.least_audio_ms) if units.audio_ms else 0
    counts = ((units.images, rates.images), (audio_ms, rates.audio_ms), (units.characters, rates.characters))
    priced = [count * rate for count, rate in counts if count and rate is not None]
    return sum(priced) if priced else None


def _of_images(rates: Rates, endpoint: str) -> Rates:
    """What these routes make is pictures, and what they are sent as well, where it is not text alone."""
    known = {one.name: getattr(rates, one.name) for one in fields(rates)}
    known["text_output"] = rates.image_output
    if endpoint != _FROM_TEXT:
        known["uncached_input"] = rates.image_input
    return Rates(**known)


def _lacks(rates: Rates, units: Units) -> bool:
    """Whether something has no price that is asked for by the piece. Pictures may be charged by their tokens."""
    if units.characters and rates.characters is None:
        return True
    return bool(units.images) and rates.images is None and rates.image_output is None


def _by_request(rates: Rates) -> bool:
    """Whether requests have a price and tokens have none: then that is all of it."""
    return rates.request is not None and rates.uncached_input is None and rates.text_output is None


def _known(rates: Rates) -> Iterator[int | None]:
    return (getattr(rates, one.name) for one in fields(rates) if one.name != "least_audio_ms")


def _dearest(rates: tuple[int | None, ...]) -> int:
    return max((rate for rate in rates if rate is not None), default=0)
