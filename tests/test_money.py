from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.money import PICO, PICO_MAX, dollars, pico_of


@pytest.mark.parametrize(
    ("pico", "written"),
    [
        (0, "0"),
        (1, "0.000000000001"),
        (123_400_000, "0.0001234"),
        (5 * PICO, "5"),
        (100 * PICO, "100"),
        (100_500_000_000_000, "100.5"),
        (PICO_MAX, "9223372.036854775807"),
        (-PICO // 4, "-0.25"),
    ],
)
def test_money_is_written_exactly_without_exponent_and_idle_zeros(pico: int, written: str) -> None:
    assert dollars(pico) == written


@given(st.integers(0, PICO_MAX))
def test_what_is_written_is_read_again(pico: int) -> None:
    assert pico_of(dollars(pico)) == pico == Decimal(dollars(pico)) * PICO


@pytest.mark.parametrize("text", ["", "1e3", "-1", "+1", ".5", "1.", "1,5", "١", "nan", " 1", "1.0000000000001"])
def test_what_is_no_money_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="dollars"):
        pico_of(text)
