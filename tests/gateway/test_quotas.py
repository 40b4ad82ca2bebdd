from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from proxy.errors import InvalidRequest, QuotaExceeded, RateLimited
from proxy.gateway import quotas as quotas_
from proxy.gateway.call import Arrival, Call
from proxy.gateway.quotas import Quotas
from proxy.gateway.reservation import Reservation
from proxy.limits import Written
from proxy.model import Caller, Counted, Limit, Usage
from proxy.wire.output import Output
from tests.gateway.spending import Clock, Spending, quotas
from tests.store.samples import settlement

NOW = Clock().now_ms


def limits(*written: str, soft: bool = False, model: str = "", kind: str = "") -> tuple[Limit, ...]:
    parsed = [Written.parse(one) for one in written]
    return tuple(
        Limit(Counted("tenant", "user-001", one.unit, one.window, model, kind), one.value, "tenant", soft)
        for one in parsed
    )


def caller(*written: str, **given: object) -> Caller:
    return Caller("key_1", "user-001", True, frozenset(), False, None, limits=limits(*written, **given))  # type: ignore[arg-type]


def call(who: Caller, *, tokens: int = 10, output: int | None = 40, model: str = "gpt-4o") -> Call:
    return Call(
        *(Arrival(), who, "/v1/x", True, "POST", b"/x", [], b"{}"),
        model=model,
        input_tokens=tokens,
        output=Output(output),
    )


async def ends(kept: Quotas, asked: Call, held: Reservation, used: int | None) -> None:
    if used is not None:
        kept.settled(settlement(asked.arrival.id, usage=Usage(used), model=asked.model, time_ms=NOW))
    kept.release(asked.arrival.id, held)


async def test_what_was_used_takes_the_place_of_what_was_reserved() -> None:
    kept, who = quotas(), caller("tokens/total=100")
    first = call(who)
    held = await kept.reserve(first)
    (entry,) = (await kept.account(who)).entries
    assert (entry.counter.used, entry.counter.reserved) == (0, 50)
    await ends(kept, first, held, 33)
    assert (entry.counter.used, entry.counter.reserved) == (33, 0)
    await kept.reserve(call(who, tokens=20, output=47))
    with pytest.raises(RateLimited):
        await kept.reserve(call(who, tokens=1, output=0))


async def test_a_limit_that_is_spent_holds_for_requests_whose_tokens_nobody_knows_before() -> None:
    spending = Spending()
    spending.recorded.append(settlement("1", usage=Usage(100), time_ms=NOW))
    kept, who = quotas(spending), caller("tokens/day=100")
    with pytest.raises(QuotaExceeded):
        await kept.reserve(call(who, tokens=0, output=0))
    await quotas().reserve(call(who, tokens=0, output=0))


async def test_a_refusal_for_what_is_used_is_told_and_one_for_what_others_hold_or_a_rate_is_not() -> None:
    spending = Spending()
    spending.recorded.append(settlement("1", usage=Usage(60), time_ms=NOW))
    kept, who = quotas(spending), caller("tokens/day=100", "tokens/hour=1000")
    told: list[tuple[str, str, int]] = []
    kept.refused = lambda caller, limit, until_ms: told.append((caller.subject, limit.counted.name, until_ms))
    await kept.reserve(call(who, tokens=0, output=30))
    for output in (20, 101):  # others hold it; it would never fit
        with pytest.raises((QuotaExceeded, RateLimited)):
            await kept.reserve(call(who, tokens=0, output=output))
    assert told == []
    with pytest.raises(QuotaExceeded):
        await kept.reserve(call(who, tokens=0, output=41))
    assert told == [("user-001", "tokens/day", 1_776_124_800_000)]
    for written in ("tokens/minute=60", "requests/minute=1", "inflight=1"):
        with pytest.raises(RateLimited):
            await kept.reserve(call(caller(written), tokens=0, output=1))
    assert len(told) == 1


async def test_who_waits_while_all_is_forgotten_reserves_in_what_is_read_anew() -> None:
    kept, who = quotas(wait_s=60), caller("tokens/total=100")
    running = call(who)
    held = await kept.reserve(running)
    waiting = asyncio.ensure_future(kept.reserve(call(who, output=60)))
    await asyncio.sleep(0)
    kept.forget()
    (entry,) = (await kept.account(who)).entries
    assert entry.counter.reserved == 50
    await ends(kept, running, held, 20)
    await waiting
    assert (entry.counter.used, entry.counter.reserved) == (20, 70)


async def test_all_limits_or_none_are_reserved() -> None:
    kept, who = quotas(), caller("requests/day=5", "tokens/total=100")
    with pytest.raises(QuotaExceeded, match="tokens/total"):
        await kept.reserve(call(who, output=91))
    assert [entry.counter.reserved for entry in (await kept.account(who)).entries] == [0, 0]


async def test_a_request_that_is_never_settled_gives_all_back() -> None:
    kept, who = quotas(), caller("tokens/total=100", "requests/minute=1", "inflight=1")
    asked = call(who)
    await ends(kept, asked, await kept.reserve(asked), None)
    await kept.reserve(call(who))


async def test_a_place_in_flight_is_held_until_the_end_and_tokens_until_the_settlement() -> None:
    kept, who = quotas(), caller("tokens/total=60", "inflight=1")
    asked = call(who)
    held = await kept.reserve(asked)
    kept.settled(settlement(asked.arrival.id, usage=Usage(5)))
    with pytest.raises(RateLimited, match="1 requests in flight"):
        await kept.reserve(call(who))
    kept.release(asked.arrival.id, held)
    await kept.reserve(call(who))


async def test_a_background_response_holds_its_tokens_until_its_usage_is_known() -> None:
    kept, who = quotas(), caller("tokens/total=60", "inflight=1")
    asked = call(who)
    held = await kept.reserve(asked)
    held.deferred = True
    kept.release(asked.arrival.id, held)
    with pytest.raises(RateLimited):
        await kept.reserve(call(who))
    kept.settled(settlement(asked.arrival.id, usage=Usage(2)))
    await kept.reserve(call(who))


async def test_a_request_without_a_maximum_reserves_what_the_setting_says() -> None:
    kept, who = quotas(), caller("tokens/total=1000")
    held = await kept.reserve(call(who, output=None))
    assert held.amounts == (1, 110, 10, 100, 0)


async def test_a_request_without_a_maximum_may_be_capped_to_what_is_left() -> None:
    kept, who = quotas(caps_output=True), caller("tokens/total=1000", "requests/day=9")
    first = call(who, output=None)
    held = await kept.reserve(first)
    assert (held.cap, held.amounts) == (990, (1, 1000, 10, 990, 0))
    await ends(kept, first, held, 700)
    several = replace(call(who), output=Output(None, 4))
    assert (await kept.reserve(several)).cap == 72  # of 290, for each of four
    assert (await quotas(caps_output=True).reserve(call(caller("requests/day=9"), output=None))).cap is None
    assert (await quotas(caps_output=True).reserve(call(caller("max_tokens=30"), output=None))).cap == 30
    assert (await quotas(caps_output=True).reserve(call(who, output=40))).cap is None
    spent = caller("tokens/total=10")
    with pytest.raises(QuotaExceeded):
        await quotas(caps_output=True).reserve(call(spent, output=None))


async def test_the_largest_output_is_refused_beyond_and_assumed_where_none_is_asked_for() -> None:
    kept, who = quotas(), caller("max_tokens=30", "tokens/total=1000")
    with pytest.raises(InvalidRequest, match="max_tokens is too large: 31"):
        await kept.reserve(call(who, output=31))
    assert (await kept.reserve(call(who, output=None))).amounts == (1, 40, 10, 30, 0)
    await kept.reserve(call(who, output=30))


async def test_the_smallest_of_several_largest_outputs_decides_and_a_soft_one_marks() -> None:
    kept = quotas()
    several = limits("max_tokens=90") + limits("max_tokens=30", model="gpt-4o*") + limits("tokens/total=1000")
    who = Caller("key_1", "user-001", True, frozenset(), False, None, limits=several)
    assert (await kept.reserve(call(who, output=None))).amounts == (1, 40, 10, 30, 0)
    soft = caller("max_tokens=30", soft=True)
    assert (await quotas().reserve(call(soft, output=31))).over_limit == "max_tokens"


async def test_filters_count_only_what_they_say() -> None:
    kept, who = quotas(), caller("tokens/total=50", model="gpt-4o*", kind="output")
    await kept.reserve(call(who, model="o3", output=500))
    await kept.reserve(call(who, model="gpt-4o-mini", tokens=500, output=50))
    with pytest.raises(RateLimited, match=r"tokens/total \(output of gpt-4o\*\)"):
        await kept.reserve(call(who, model="gpt-4o", tokens=0, output=1))


async def test_beyond_a_soft_limit_requests_are_served_and_marked() -> None:
    kept, who = quotas(), caller("tokens/day=60", soft=True)
    assert (await kept.reserve(call(who))).over_limit == ""
    assert (await kept.reserve(call(who))).over_limit == "tokens/day"


async def test_a_spent_limit_is_told_rather_than_one_that_is_only_busy() -> None:
    spending = Spending()
    spending.recorded.append(settlement("1", usage=Usage(90), time_ms=NOW))
    kept, who = quotas(spending, wait_s=60), caller("tokens/day=100", "tokens/total=100")
    began = time.monotonic()
    with pytest.raises(QuotaExceeded):
        await kept.reserve(call(who))
    assert time.monotonic() - began < 30


async def test_a_request_waits_for_what_others_have_reserved_and_do_not_use() -> None:
    kept, who = quotas(wait_s=60), caller("tokens/total=100")
    running = [call(who), call(who)]
    held = [await kept.reserve(one) for one in running]
    waiting = asyncio.ensure_future(kept.reserve(call(who)))
    await asyncio.sleep(0)
    assert not waiting.done()
    await ends(kept, running[0], held[0], 30)  # not enough for another 50, beside 50 that are reserved
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await ends(kept, running[1], held[1], 20)
    await waiting


async def test_what_waits_is_refused_when_it_cannot_fit_any_more_or_has_waited_for_long() -> None:
    kept, who = quotas(wait_s=60), caller("tokens/total=100")
    running = call(who, output=90)
    held = await kept.reserve(running)
    waiting = asyncio.ensure_future(kept.reserve(call(who)))
    await asyncio.sleep(0)
    await ends(kept, running, held, 60)
    with pytest.raises(QuotaExceeded):
        await waiting
    impatient = quotas(wait_s=0.01)
    await impatient.reserve(call(who, output=90))
    with pytest.raises(RateLimited):
        await impatient.reserve(call(who))


async def test_no_more_wait_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_, "WAITING_MAX", 2)
    kept, who = quotas(wait_s=60), caller("tokens/total=50")
    running = call(who)
    held = await kept.reserve(running)
    waiting = [asyncio.ensure_future(kept.reserve(call(who))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(RateLimited):
        await kept.reserve(call(who))
    await ends(kept, running, held, 0)
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    for one in waiting:
        one.cancel()


async def test_a_rate_may_be_waited_for() -> None:
    clock = Clock()
    clock.now_ms += 60_950  # fifty milliseconds before the second of what was used is over
    spending = Spending()
    spending.recorded.append(settlement("1", usage=Usage(90), time_ms=NOW))
    kept, who = quotas(spending, clock, rate_wait_s=5), caller("tokens/minute=100")
    waiting = asyncio.ensure_future(kept.reserve(call(who)))
    await asyncio.sleep(0)
    clock.now_ms += 60
    held = await waiting
    assert held.time_ms == clock.now_ms  # where it counts, and what its event says
    with pytest.raises(RateLimited):
        await kept.reserve(call(who, output=60))
    with pytest.raises(RateLimited, match="Try again in"):
        await quotas(spending, Clock(NOW + 1_000), rate_wait_s=5).reserve(call(who))


async def test_who_is_limited_by_the_minute_is_told_with_each_answer() -> None:
    kept, who = quotas(), caller("requests/minute=2", "tokens/month=1000")
    told = [dict((await kept.reserve(call(who))).headers)[b"x-ratelimit-remaining-requests"] for _ in range(2)]
    assert told == [b"1", b"0"]
    with pytest.raises(RateLimited) as refused:
        await kept.reserve(call(who))
    assert dict(refused.value.headers())[b"x-ratelimit-limit-requests"] == b"2"
    assert (await quotas().reserve(call(caller("tokens/month=1000")))).headers == []


async def test_too_many_accounts_are_forgotten_and_nothing_is_lost_by_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_, "ACCOUNTS_MAX", 3)
    spending = Spending()
    kept, who = quotas(spending), caller("tokens/total=100")
    running = call(who)
    held = await kept.reserve(running)
    for number in range(5):
        other = Caller(f"key_{number}", f"t{number}", True, frozenset(), False, None)
        await kept.reserve(call(other))
    (entry,) = (await kept.account(who)).entries
    assert entry.counter.reserved == 50
    await ends(kept, running, held, 20)
    assert (entry.counter.used, entry.counter.reserved) == (20, 0)


async def test_a_client_that_goes_while_it_waits_holds_nothing() -> None:
    kept, who = quotas(wait_s=60), caller("tokens/total=50")
    running = call(who)
    held = await kept.reserve(running)
    waiting = asyncio.ensure_future(kept.reserve(call(who)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await ends(kept, running, held, 0)
    await kept.reserve(call(who))
