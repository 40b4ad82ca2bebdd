"""What a quantity costs, beside a second rater that goes token by token (`tests.billing.slow`)."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.billing.catalog import Flat, Free, Graduated, Package, PerUnit, Price, RateCard, Tier, Volume
from proxy.billing.rating import Line, rate
from tests.billing.slow import owed


def card(price: Price, **terms: Any) -> RateCard:
    numbers: dict[str, Any] = {
        name: Decimal(value) if isinstance(value, str) else value for name, value in terms.items()
    }
    return RateCard("ai_tokens", "AI tokens", price, **numbers)


def unit(amount: str) -> PerUnit:
    return PerUnit(Decimal(amount))


def tiers(*ends: tuple[int | None, str | None, str | None]) -> tuple[Tier, ...]:
    """(up to, unit price, flat price) of each."""
    return tuple(
        Tier(*(None if one is None else Decimal(one) for one in (end, unit_price, flat_price)))
        for end, unit_price, flat_price in ends
    )


def line(of: RateCard, quantity: int, *, digits: int = 2, share: Fraction = Fraction(1)) -> Line:
    return rate(of, Decimal(quantity), digits=digits, share=share)


def amount(of: RateCard, quantity: int, **options: Any) -> str:
    return str(line(of, quantity, **options).amount)


def test_the_tutorial_s_figures() -> None:
    assert amount(card(unit("0.000002")), 15_000) == "0.03"
    assert amount(card(unit("1")), 247) == "247.00"


@pytest.mark.parametrize(("quantity", "cost"), [(2_499, "0.00"), (2_500, "0.01"), (7_499, "0.01"), (7_500, "0.02")])
def test_half_a_cent_is_a_cent(quantity: int, cost: str) -> None:
    assert amount(card(unit("0.000002")), quantity) == cost


GRADUATED = Graduated(tiers((100, "0.10", None), (200, "0.05", "1"), (None, "0.01", "2")))


@pytest.mark.parametrize(
    ("quantity", "cost"),
    [
        (0, "0.00"),
        (1, "0.10"),
        (99, "9.90"),
        (100, "10.00"),
        (101, "11.05"),  # the fee of the second tier comes with its first token
        (199, "15.95"),
        (200, "16.00"),
        (201, "18.01"),
        (1_000, "26.00"),
    ],
)
def test_graduated_tiers_price_each_token_by_its_own(quantity: int, cost: str) -> None:
    assert amount(card(GRADUATED), quantity) == cost


VOLUME = Volume(tiers((100, "0.10", None), (200, "0.05", "1"), (None, "0.01", "2")))


@pytest.mark.parametrize(
    ("quantity", "cost"),
    [
        (0, "0.00"),
        (1, "0.10"),
        (99, "9.90"),
        (100, "10.00"),
        (101, "6.05"),
        (199, "10.95"),
        (200, "11.00"),
        (201, "4.01"),
        (1_000, "12.00"),
    ],
)
def test_volume_tiers_price_all_tokens_by_the_last(quantity: int, cost: str) -> None:
    assert amount(card(VOLUME), quantity) == cost


@pytest.mark.parametrize(("price", "cost"), [(Graduated, "5.00"), (Volume, "5.00")])
def test_the_first_tier_s_fee_is_charged_also_for_nothing(price: type[Graduated | Volume], cost: str) -> None:
    of = card(price(tiers((10, "1", "5"), (None, "1", None))))
    assert amount(of, 0) == cost
    assert amount(of, 10) == "15.00"


@pytest.mark.parametrize(
    ("quantity", "cost"), [(0, "0.00"), (1, "2.00"), (999, "2.00"), (1_000, "2.00"), (1_001, "4.00"), (2_001, "6.00")]
)
def test_a_package_is_charged_when_it_is_begun(quantity: int, cost: str) -> None:
    assert amount(card(Package(Decimal(2), Decimal(1_000))), quantity) == cost


@pytest.mark.parametrize(
    ("quantity", "free", "cost"), [(0, 0, "0.00"), (99, 99, "0.00"), (100, 100, "0.00"), (101, 100, "1.00")]
)
def test_free_units_come_off_first(quantity: int, free: int, cost: str) -> None:
    found = line(card(unit("1"), free_units="100"), quantity)
    assert (int(found.quantity), int(found.free), str(found.amount)) == (quantity, free, cost)


def test_free_units_come_off_before_tiers_are_counted() -> None:
    assert amount(card(GRADUATED, free_units="50"), 150) == "10.00"


@pytest.mark.parametrize(
    ("quantity", "cost", "discount"),
    [(0, "5.00", "0.00"), (499, "5.00", "0.00"), (501, "5.01", "0.00"), (1_001, "10.00", "0.01")],
)
def test_a_least_and_a_most(quantity: int, cost: str, discount: str) -> None:
    found = line(card(unit("0.01"), minimum_amount="5", maximum_amount="10"), quantity)
    assert (str(found.amount), f"{found.discount:.2f}") == (cost, discount)


def test_the_percentage_is_off_before_most_and_least() -> None:
    assert amount(card(unit("1"), discount_percent="10", maximum_amount="9"), 10) == "9.00"
    assert amount(card(unit("1"), discount_percent="10", maximum_amount="8.5"), 10) == "8.50"
    assert amount(card(unit("1"), discount_percent="10", minimum_amount="9.50"), 10) == "9.50"
    assert amount(card(unit("1"), discount_percent="100"), 10) == "0.00"


def test_a_most_ends_all_that_is_charged_after_it() -> None:
    found = line(card(GRADUATED, maximum_amount="11.50"), 1_000)
    assert [str(one.amount) for one in found.charges] == ["10.00", "1.00", "0.50", "0.00", "0.00"]
    assert str(found.amount) == "11.50"


def test_each_tier_is_rounded_by_itself_and_so_is_its_discount() -> None:
    of = card(Graduated(tiers((1, "0.005", None), (2, "0.005", None), (None, "0.005", None))))
    found = line(of, 3)
    assert [str(one.amount) for one in found.charges] == ["0.01", "0.01", "0.01"]
    assert str(found.amount) == "0.03"
    assert amount(replace(of, discount_percent=Decimal(50)), 3) == "0.00"  # half of a cent, three times


@pytest.mark.parametrize(
    ("share", "cost", "parts"),
    [
        (Fraction(1), "20.00", "fee"),
        (Fraction(1, 3), "6.67", "fee for 33.33 % of a period"),
        (Fraction(3), "60.00", "fee for 300 % of a period"),
    ],
)
def test_a_fee_is_for_the_share_of_the_period(share: Fraction, cost: str, parts: str) -> None:
    found = line(card(Flat(Decimal(20))), 1, share=share)
    assert (str(found.amount), [one.what for one in found.charges]) == (cost, [parts])


def test_a_fee_that_is_charged_once_is_charged_whole() -> None:
    assert amount(card(Flat(Decimal(20)), one_time=True), 1, share=Fraction(1, 3)) == "20.00"


def test_what_is_free_costs_nothing_and_tells_how_much_was_used() -> None:
    found = line(card(Free()), 12_345)
    assert (int(found.quantity), found.charges, str(found.amount)) == (12_345, (), "0.00")


@pytest.mark.parametrize(("digits", "cost"), [(0, "1"), (2, "0.50"), (3, "0.500")])
def test_the_currency_has_the_digits(digits: int, cost: str) -> None:
    assert amount(card(unit("0.5")), 1, digits=digits) == cost


def test_no_quantity_is_too_large_to_be_exact() -> None:
    found = line(card(unit("0.000000000000000000000001")), 2**63 - 1, digits=3)
    assert str(found.amount) == "0.000"
    assert found.charges[0].quantity == 2**63 - 1
    dear = unit("123456789.12")
    assert Fraction(line(card(dear), 2**63 - 1).amount) == Fraction(dear.amount) * (2**63 - 1)


some_amount = st.decimals("0", "3", places=4)
some_end = st.integers(1, 12)


@st.composite
def some_tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    ends = sorted(draw(st.sets(some_end, max_size=4)))
    found = []
    for end in [*map(Decimal, ends), None]:
        prices = draw(st.tuples(st.none() | some_amount, st.none() | some_amount).filter(any))
        found.append(Tier(end, *prices))
    return tuple(found)


some_price = st.one_of(
    st.builds(Flat, some_amount),
    st.builds(PerUnit, some_amount),
    st.builds(Package, some_amount, st.integers(1, 7).map(Decimal)),
    st.builds(Graduated, some_tiers()),
    st.builds(Volume, some_tiers()),
)


@st.composite
def some_card(draw: st.DrawFn) -> RateCard:
    price = draw(some_price)
    percent = draw(st.none() | st.decimals("0.5", "100", places=1))
    if isinstance(price, Flat):
        return card(price, discount_percent=percent, one_time=draw(st.booleans()))
    least, most = sorted([draw(st.decimals("0", "20", places=2)), draw(st.decimals("0", "20", places=2))])
    return card(
        price,
        discount_percent=percent,
        free_units=draw(st.none() | st.integers(0, 20).map(Decimal)),
        minimum_amount=draw(st.sampled_from([None, least])),
        maximum_amount=draw(st.sampled_from([None, most])),
    )


@given(some_card(), st.integers(0, 40), st.fractions(0, 2))
def test_token_by_token_it_comes_to_the_same(of: RateCard, quantity: int, share: Fraction) -> None:
    found = line(of, quantity, share=share)
    assert Fraction(found.amount) == owed(of, quantity, digits=2, share=share)
    assert found.amount == sum(one.amount for one in found.charges)
    assert found.amount.as_tuple().exponent == -2
    assert all(one.amount >= 0 and one.discount >= 0 for one in found.charges)


@given(some_card(), st.integers(0, 40))
def test_more_usage_never_costs_less_but_in_volume_tiers(of: RateCard, quantity: int) -> None:
    if not isinstance(of.price, Volume):
        assert line(of, quantity + 1).amount >= line(of, quantity).amount
