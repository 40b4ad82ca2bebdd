"""Quotas for tests, over a ledger that is a list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from proxy.gateway.counters import Counter, Counters
from proxy.gateway.pricing import Prices
from proxy.gateway.quotas import Quotas
from proxy.limits import SECOND_MS, Calendar, amount_of, counts
from proxy.model import TIMELESS, Counted, Limit, Settlement, Window
from proxy.store.spent import Seconds


class Spending:
    """What is in the list, summed anew each time. `fails` is raised instead, where it is set."""

    def __init__(self) -> None:
        self.recorded: list[Settlement] = []
        self.fails: Exception | None = None
        self.asked: list[Counted] = []

    def spent(self, counted: Sequence[Counted], calendar: Calendar, now_ms: int) -> asyncio.Future[list[Seconds]]:
        self.asked += counted
        answer: asyncio.Future[list[Seconds]] = asyncio.get_running_loop().create_future()
        if self.fails is not None:
            answer.set_exception(self.fails)
        else:
            answer.set_result([self.seconds(one, calendar, now_ms) for one in counted])
        return answer

    def seconds(self, counted: Counted, calendar: Calendar, now_ms: int) -> Seconds:
        if counted.unit in TIMELESS:
            return []
        start_ms, end_ms = calendar.bounds(counted.window, now_ms, counted.anchor_ms)
        found: dict[int, int] = {}
        for one in self.recorded:
            owner = one.subject if counted.scope == "tenant" else one.key_id
            if owner == counted.owner and start_ms <= one.time_ms < end_ms + SECOND_MS and counts(counted, one.model):
                piece = one.time_ms - one.time_ms % SECOND_MS if counted.window is Window.MINUTE else start_ms
                found[piece] = found.get(piece, 0) + amount_of(counted, one.usage, one.cost.pico_usd)
        return sorted(found.items())


class Clock:
    def __init__(self, now_ms: int = 1_776_076_200_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def quotas(
    spending: Spending | None = None,
    clock: Clock | None = None,
    *,
    caps_output: bool = False,
    stops_streams: bool = False,
    wait_s: float = 0.0,
    rate_wait_s: float = 0.0,
    entitled: Callable[[str], tuple[Limit, Counter]] | None = None,
    prices: Prices | None = None,
    counts_unpriced: bool = False,
) -> Quotas:
    clock = clock or Clock()
    counters = Counters(spending or Spending(), Calendar(), clock())
    return Quotas(
        counters,
        output_tokens=100,
        caps_output=caps_output,
        stops_streams=stops_streams,
        wait_s=wait_s,
        rate_wait_s=rate_wait_s,
        now_ms=clock,
        entitled=entitled,
        prices=prices,
        counts_unpriced=counts_unpriced,
    )
