from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.billing.money import DIGITS, parse, plain, rounded, thousands, total

amounts = st.decimals(0, 10**20, places=12, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("words", "number"), [("0", "0"), ("20", "20"), ("0.000002", "2e-6"), ("007.50", "7.5"), ("9" * 24, "9" * 24)]
)
def test_plain_numbers_are_read(words: str, number: str) -> None:
    assert parse(words) == Decimal(number)


@pytest.mark.parametrize(
    "words", ["", "2e-06", "1E5", "-1", "+1", ".5", "5.", "1_000", "1,5", " 1", "nan", "inf", "٣", "1" * 25]
)
def test_what_the_engine_would_refuse_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match="no plain decimal number"):
        parse(words)


@given(amounts)
def test_a_number_is_written_without_exponent_and_is_the_same_when_read(amount: Decimal) -> None:
    assert set(plain(amount)) <= set("0123456789.")
    assert parse(plain(amount)) == amount


@pytest.mark.parametrize(
    ("amount", "digits", "result"),
    [
        ("0.005", 2, "0.01"),
        ("0.015", 2, "0.02"),
        ("0.004999999999999999999", 2, "0.00"),
        ("0.5", 0, "1"),
        ("1.5", 0, "2"),
        ("2.5", 0, "3"),
        ("0.0005", 3, "0.001"),
    ],
)
def test_half_is_rounded_up(amount: str, digits: int, result: str) -> None:
    assert str(rounded(Decimal(amount), digits)) == result


def test_no_sum_of_what_can_be_written_loses_a_digit() -> None:
    numbers = [Decimal("9" * 24 + "." + "9" * 24)] * 3 + [Decimal("0." + "0" * 23 + "1")]
    assert Fraction(total(numbers)) == sum(map(Fraction, numbers))


def test_currencies_have_their_digits() -> None:
    assert (DIGITS["USD"], DIGITS["EUR"], DIGITS["JPY"], DIGITS["KWD"]) == (2, 2, 0, 3)
    assert len(DIGITS) > 150
    assert all(len(code) == 3 and code.isupper() for code in DIGITS)


@pytest.mark.parametrize(("quantity", "words"), [("15000", "15,000"), ("0.25", "0.25"), ("1234.5", "1,234.5")])
def test_quantities_are_written_for_people(quantity: str, words: str) -> None:
    assert thousands(Decimal(quantity)) == words
