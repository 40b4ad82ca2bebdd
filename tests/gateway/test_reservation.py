"""What one request holds, in tokens and in the money that they may cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.billing.tariff import PARTS_PER_PICO, Most
from proxy.gateway.reservation import OUTPUT, TOTAL, USD, Reservation
from proxy.model import Caller

WHO = Caller("key_1", "user-001", True, frozenset(), False, None)
RATES = st.integers(1, 10 * PARTS_PER_PICO)


def reservation(most: Most | None, output: int) -> Reservation:
    pico = 0 if most is None else max(1, most.pico(output))
    return Reservation(WHO, "gpt-4o", (1, 7 + output, 7, output, pico), 0, most=most)


@given(st.integers(0, 10**30), RATES, st.integers(0, 100_000), st.integers(0, 10**12))
def test_more_output_costs_what_there_is_for_it_at_most_and_one_token_more_does_not_fit(
    fixed: int, each: int, output: int, left: int
) -> None:
    held = reservation(Most(fixed, each, is_free=False), output)
    tokens = held.output_for(left)
    assert tokens is not None
    if tokens >= 0:
        assert held.with_output(tokens)[USD] - held.amounts[USD] <= left
    assert held.with_output(max(0, tokens) + 1)[USD] - held.amounts[USD] > left - (tokens < 0) * (left + 1)
    grown = held.with_output(5)
    assert (grown[OUTPUT], grown[TOTAL]) == (output + 5, 12 + output)


def test_what_costs_nothing_or_has_no_price_is_not_bound_by_money() -> None:
    for most in (None, Most(0, 0, is_free=True)):
        held = reservation(most, 10)
        assert held.output_for(0) is None
        assert held.with_output(90)[USD] == held.amounts[USD]
