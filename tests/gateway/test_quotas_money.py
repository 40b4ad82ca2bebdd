"""Limits in money: what is free passes them, what has no price does not unless the operator says so."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from proxy.billing.prices import PriceBook
from proxy.billing.tariff import FREE, MILLION, Holding, Rates, Tariff, parts
from proxy.errors import Forbidden, QuotaExceeded, RateLimited
from proxy.gateway.quotas import Quotas
from proxy.model import Caller, Cost, CostState, Limit, Usage
from tests.gateway.spending import Clock, Spending, quotas
from tests.gateway.test_quotas import call, caller, ends, limits
from tests.store.samples import settlement

NOW = Clock().now_ms
DOLLAR = 10**12


TARIFFS = {
    "dear": Rates(uncached_input=parts(Decimal(1)), text_output=parts(Decimal(2))).filled(),
    "image": Rates(images=parts(Decimal(1))),
    "cheap": Rates(uncached_input=parts(Decimal(1), MILLION), text_output=0).filled(),
    "free": FREE,
}


class Listed:
    """`dear` costs a dollar for an input token and two for one of output; `image` a dollar each; `free` nothing."""

    def find(self, provider: str, model: str, time_ms: int, tier: str = "") -> Holding:
        del provider, time_ms, tier
        rates = TARIFFS.get(model)
        return Holding(None if rates is None else Tariff((rates,), (), "test"))


def kept(spent_usd: int = 0, **given: Any) -> Quotas:
    spending = Spending()
    if spent_usd:
        cost = Cost(spent_usd * DOLLAR, CostState.PRICED)
        spending.recorded.append(settlement("1", cost=cost, time_ms=NOW))
    return quotas(spending, prices=PriceBook([Listed()]), **given)


async def test_the_most_is_reserved_and_what_it_cost_takes_its_place() -> None:
    quotas, who = kept(), caller("usd/total=100")
    first = call(who, model="dear", tokens=10, output=40)
    held = await quotas.reserve(first)
    (entry,) = (await quotas.account(who)).entries
    assert (entry.counter.used, entry.counter.reserved) == (0, 90 * DOLLAR)
    with pytest.raises(RateLimited, match=r"usd/total of 100 \(tenant\): used 0, left 100, of which .* reserved 90"):
        await quotas.reserve(call(who, model="dear", tokens=11, output=0))
    quotas.settled(settlement(first.arrival.id, cost=Cost(DOLLAR // 4, CostState.PRICED), time_ms=NOW))
    quotas.release(first.arrival.id, held)
    assert (entry.counter.used, entry.counter.reserved) == (DOLLAR // 4, 0)
    with pytest.raises(QuotaExceeded, match=r"used 0\.25, left 99\.75, and this request needs 100"):
        await quotas.reserve(call(who, model="dear", tokens=100, output=0))


async def test_what_is_free_passes_a_limit_that_is_spent_and_the_cheapest_does_not() -> None:
    quotas, who = kept(spent_usd=5), caller("usd/month=5")
    held = await quotas.reserve(call(who, model="free", tokens=10**9))
    assert held.amounts[-1] == 0
    for model in ("dear", "cheap", "image"):
        with pytest.raises(QuotaExceeded, match="usd/month of 5"):
            await quotas.reserve(call(who, model=model, tokens=0, output=0))


async def test_what_has_no_price_is_refused_and_told_why() -> None:
    who = caller("tokens/day=1000", "usd/day=5")
    with pytest.raises(Forbidden) as refused:
        await kept().reserve(call(who, model="mine"))
    assert (refused.value.code, refused.value.param) == ("model_not_priced", "model")
    assert "'mine' has no price here, and what you may spend is limited by usd/day (tenant)" in str(refused.value)


@pytest.mark.parametrize(
    "others",
    [limits("tokens/day=1000"), limits("usd/day=5", soft=True), limits("usd/day=5", model="gpt-*")],
    ids=["in tokens", "soft", "of other models"],
)
async def test_what_has_no_price_is_served_where_no_hard_limit_in_money_is_on_it(others: tuple[Limit, ...]) -> None:
    who = Caller("key_1", "user-001", True, frozenset(), False, None, limits=others)
    assert (await kept().reserve(call(who, model="mine"))).over_limit == ""


async def test_what_has_no_price_may_be_served_and_count_nothing() -> None:
    quotas, who = kept(spent_usd=5, counts_unpriced=True), caller("usd/day=5")
    asked = call(who, model="mine")
    await ends(quotas, asked, await quotas.reserve(asked), 7)
    (entry,) = (await quotas.account(who)).entries
    assert (entry.counter.used, entry.counter.reserved) == (5 * DOLLAR, 0)


async def test_a_limit_in_money_that_comes_later_counts_what_is_in_flight() -> None:
    quotas = kept()
    await quotas.reserve(call(caller("requests/day=9"), model="dear", tokens=1, output=2))
    (entry,) = (await quotas.account(caller("usd/day=50"))).entries
    assert entry.counter.reserved == 5 * DOLLAR


async def test_a_request_without_a_maximum_is_capped_to_what_the_money_pays_for() -> None:
    quotas, who = kept(caps_output=True), caller("usd/total=100", "tokens/total=1000")
    assert (await quotas.reserve(call(who, model="free", output=None))).cap == 990
    held = await kept(caps_output=True).reserve(call(who, model="dear", output=None))
    assert (held.cap, held.amounts) == (45, (1, 55, 10, 45, 100 * DOLLAR))
    cheap = await kept(caps_output=True).reserve(call(caller("usd/total=1"), model="cheap", output=None))
    assert cheap.cap is None  # its output costs nothing
    with pytest.raises(QuotaExceeded):
        await kept(caps_output=True).reserve(call(caller("usd/total=10"), model="dear", output=None))


async def test_money_by_the_minute_is_limited_and_no_header_tells_of_it() -> None:
    quotas, who = kept(spent_usd=3), caller("usd/minute=4", "requests/minute=9")
    held = await quotas.reserve(call(who, model="dear", tokens=1, output=0))
    assert {name.rpartition(b"-")[2] for name, _ in held.headers} == {b"requests"}
    with pytest.raises(RateLimited, match="Try again in"):
        await quotas.reserve(call(who, model="dear", tokens=2, output=0))


async def test_a_soft_limit_in_money_marks() -> None:
    quotas, who = kept(spent_usd=5), caller("usd/day=5", soft=True)
    assert (await quotas.reserve(call(who, model="dear"))).over_limit == "usd/day"
    assert (await quotas.reserve(call(who, model="free"))).over_limit == ""


async def test_usage_alone_spends_no_money() -> None:
    quotas, who = kept(), caller("usd/day=5")
    asked = call(who, model="cheap")
    held = await quotas.reserve(asked)
    quotas.settled(settlement(asked.arrival.id, usage=Usage(10**6), time_ms=NOW))
    quotas.release(asked.arrival.id, held)
    (entry,) = (await quotas.account(who)).entries
    assert entry.counter.used == 0
