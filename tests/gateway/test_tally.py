from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.gateway.tally import Tally
from proxy.model import Settlement
from tests.store.samples import any_settlement


@given(st.lists(any_settlement))
def test_the_counts_are_the_sums_of_what_was_recorded(settlements: list[Settlement]) -> None:
    tally = Tally()
    for one in settlements:
        tally.add(one)
    assert tally.settlements.total() == len(settlements)
    for outcome, source in tally.settlements:
        same = [one for one in settlements if (one.outcome, one.usage_source) == (outcome, source)]
        assert tally.settlements[outcome, source] == len(same)
    assert tally.prompt_tokens + tally.completion_tokens == sum(one.usage.total_tokens for one in settlements)
    assert tally.prompt_tokens == sum(one.usage.prompt_tokens for one in settlements)
