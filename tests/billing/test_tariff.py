"""Sums of money, against a slow computation of their own: fractions, and the price list's own words."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.billing.tariff import FREE, HOUR_MS, MILLION, UNPRICED, Rates, Tariff, parts, used_nothing
from proxy.model import BUCKETS, NO_USAGE, Cost, CostState, Outcome, Settlement, Units, Usage, UsageSource
from proxy.wire.usage import normalise
from tests import corpus
from tests.store.samples import settlement

CHAT = Tariff(
    (
        Rates(uncached_input=parts(Decimal("2.50"), MILLION), text_output=parts(Decimal(10), MILLION)).filled(),
        Rates(uncached_input=parts(Decimal(5), MILLION), text_output=parts(Decimal(15), MILLION)).filled(),
    ),
    (1_000,),
    "test",
)
prices = st.decimals(0, 1000, places=12) | st.decimals(0, 1, places=17)
counts = st.integers(0, 2**40)


def slow(usage: Usage, usd: dict[str, Decimal]) -> Fraction:
    """Dollars, by the definition: each kind at its price for a million."""
    return sum((Fraction(usd[name]) * getattr(usage, name) / MILLION for name in BUCKETS), Fraction(0))


def is_rounded(pico: int, exact: Fraction) -> bool:
    return abs(pico - exact * 10**12) <= Fraction(1, 2)


@given(st.builds(Usage, *[counts for _ in BUCKETS]), st.fixed_dictionaries(dict.fromkeys(BUCKETS, prices)))
def test_the_sum_is_exact_to_the_last_place(usage: Usage, usd: dict[str, Decimal]) -> None:
    tariff = Tariff((Rates(**{name: parts(price, MILLION) for name, price in usd.items()}),), (), "test")
    cost = tariff.cost(settlement("1", usage=usage))
    exact = slow(usage, usd)
    assert is_rounded(cost.pico_usd, exact) or cost.pico_usd == 2**63 - 1 <= exact * 10**12
    assert cost.state is (CostState.PRICED if cost.pico_usd else CostState.FREE)


@corpus.needed
def test_recorded_usage_costs_what_its_kinds_do() -> None:
    usd = dict(zip(BUCKETS, map(Decimal, ("2.5", "1.25", "3.125", "40", "10", "12", "80")), strict=True))
    tariff = Tariff((Rates(**{name: parts(price, MILLION) for name, price in usd.items()}),), (), "test")
    found = [normalise(one.usage) for one in corpus.exchanges() if one.usage]
    usages = [usage for usage in found if usage is not None]
    assert len(usages) > 500
    for usage in usages:
        assert is_rounded(tariff.cost(settlement("1", usage=usage)).pico_usd, slow(usage, usd))


@pytest.mark.parametrize(("tokens", "pico"), [(999, 2_497_500_000), (1_000, 2_500_000_000), (1_001, 5_005_000_000)])
def test_above_a_step_all_of_a_request_costs_what_the_step_says(tokens: int, pico: int) -> None:
    whole = settlement("1", usage=Usage(uncached_input=tokens))
    parted = settlement("1", usage=Usage(uncached_input=1, cached_input=tokens - 1))
    assert CHAT.cost(whole).pico_usd == CHAT.cost(parted).pico_usd == pico
    assert CHAT.cost(settlement("1", usage=Usage(tokens, text_output=1))).pico_usd - pico == (
        15_000_000 if tokens > 1_000 else 10_000_000
    )


def test_what_has_no_price_of_its_own_costs_what_its_side_does() -> None:
    usage = Usage(1, 1, 1, 1, 1, 1, 1)
    assert CHAT.cost(settlement("1", usage=usage)) == Cost(4 * 2_500_000 + 3 * 10_000_000, CostState.PRICED)


def unit(**rates: int) -> Tariff:
    return Tariff((Rates(**rates).filled(),), (), "test")


def test_units_and_requests_have_prices_too() -> None:
    image = unit(images=parts(Decimal("0.04")))
    heard = unit(audio_ms=parts(Decimal("0.36"), HOUR_MS), least_audio_ms=10_000)
    spoken = unit(characters=parts(Decimal(15), MILLION))
    asked = unit(request=parts(Decimal("0.005")))
    nothing = {"usage": NO_USAGE, "usage_source": UsageSource.REPORTED}
    assert image.cost(settlement("1", units=Units(images=3), **nothing)).pico_usd == 120_000_000_000
    assert heard.cost(settlement("1", units=Units(audio_ms=36_710), **nothing)).pico_usd == 3_671_000_000
    assert heard.cost(settlement("1", units=Units(audio_ms=1), **nothing)).pico_usd == 1_000_000_000
    assert spoken.cost(settlement("1", units=Units(characters=7), **nothing)).pico_usd == 105_000_000
    assert asked.cost(settlement("1")).pico_usd == 5_000_000_000


def test_pictures_are_made_and_sent_at_the_price_of_pictures() -> None:
    per_million = {"uncached_input": 5, "image_input": 8, "text_output": 10, "image_output": 32}
    tariff = unit(**{name: parts(Decimal(usd), MILLION) for name, usd in per_million.items()})
    usage = Usage(uncached_input=1, text_output=1)

    def micro(endpoint: str) -> int:
        return tariff.cost(settlement("1", endpoint=endpoint, usage=usage, units=Units(1))).pico_usd // 10**6

    assert micro("/v1/images/generations") == 5 + 32
    assert micro("/v1/images/edits") == 8 + 32
    assert micro("/v1/chat/completions") == 5 + 10


@pytest.mark.parametrize(
    ("tariff", "changes"),
    [
        (unit(uncached_input=1), {"usage": Usage(1, text_output=1)}),  # an embedding model that writes
        (unit(images=1), {"usage": Usage(1)}),
        (CHAT, {"usage": NO_USAGE, "units": Units(images=1)}),
        (CHAT, {"usage": NO_USAGE, "usage_source": UsageSource.NONE}),  # nobody knows what it used
    ],
)
def test_what_is_used_and_has_no_price_is_unpriced_and_not_free(tariff: Tariff, changes: dict[str, object]) -> None:
    assert tariff.cost(settlement("1", **changes)) == UNPRICED


def test_what_is_free_costs_nothing_whatever_it_used() -> None:
    tariff = Tariff((FREE,), (), "test")
    assert tariff.is_free
    for one in (settlement("1", units=Units(1, 1, 1)), settlement("1", usage=NO_USAGE, usage_source=UsageSource.NONE)):
        assert tariff.cost(one) == Cost(0, CostState.FREE)


def test_a_failure_without_usage_is_charged_by_nobody() -> None:
    def failed(**changes: object) -> Settlement:
        return settlement("1", usage=NO_USAGE, usage_source=UsageSource.NONE, **changes)

    assert used_nothing(failed(status=404))
    assert used_nothing(failed(outcome=Outcome.UPSTREAM_ERROR))
    assert not used_nothing(failed())
    assert not used_nothing(settlement("1", status=500))  # interrupted, and estimated


rates = st.none() | st.integers(0, parts(Decimal(100), MILLION))


@given(
    st.builds(Rates, *[rates] * 7),
    st.tuples(*[st.integers(0, 500)] * 7),
    st.integers(0, 100),
)
def test_no_answer_within_its_bounds_costs_more_than_the_most(rates: Rates, used: tuple[int, ...], spare: int) -> None:
    tariff = Tariff((rates.filled(),), (), "test")
    usage = Usage(*used)
    most = tariff.most(usage.prompt_tokens, Units())
    cost = tariff.cost(settlement("1", usage=usage))
    assert most is not None
    assert cost.pico_usd <= most.pico(usage.completion_tokens + spare)
    budget = most.pico(usage.completion_tokens)
    tokens = most.tokens_within(budget)
    assert tokens is None or (tokens >= usage.completion_tokens and most.pico(tokens) <= budget)


def test_the_most_of_units_that_are_asked_for() -> None:
    image, spoken = unit(images=parts(Decimal("0.04"))), unit(characters=parts(Decimal(15), MILLION))
    assert [tariff.most(0, Units(images=2)) is None for tariff in (image, spoken, CHAT)] == [False, True, False]
    most = image.most(0, Units(images=2))
    assert most is not None
    assert most.pico(0) == 80_000_000_000
    assert CHAT.most(0, Units(characters=5)) is None
