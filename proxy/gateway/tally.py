"""Counts of what this process has recorded since its start, for `/metrics`: plain integers, equal to the ledger's."""

from __future__ import annotations

from collections import Counter

from proxy.model import CostState, Outcome, Settlement, UsageSource


class Tally:
    """Counts each settlement once it is on disk. Not for use by several threads."""

    def __init__(self) -> None:
        self.settlements: Counter[tuple[Outcome, UsageSource]] = Counter()
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.pico_usd = 0
        self.costs: Counter[CostState] = Counter()

    def add(self, one: Settlement) -> None:
        """A settlement was recorded."""
        self.settlements[one.outcome, one.usage_source] += 1
        self.prompt_tokens += one.usage.prompt_tokens
        self.completion_tokens += one.usage.completion_tokens
        self.pico_usd += one.cost.pico_usd
        self.costs[one.cost.state] += 1
