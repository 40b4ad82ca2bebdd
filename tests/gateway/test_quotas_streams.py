"""What a stream reserves that may be stopped: at first what is left, then more, in all of its limits or in none."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.errors import QuotaExceeded
from proxy.gateway.call import Call
from proxy.gateway.quotas import Quotas
from proxy.model import Caller, Limit, Usage
from tests.gateway.spending import Clock, quotas
from tests.gateway.test_quotas import call, caller, ends, limits


def stream(who: Caller, **given: object) -> Call:
    return replace(call(who, **({"output": None} | given)), streamed=True)  # type: ignore[arg-type]


async def reserved(kept: Quotas, who: Caller) -> list[int]:
    return [entry.counter.reserved for entry in (await kept.account(who)).entries]


async def test_a_stream_begins_with_what_is_left_where_that_is_less_than_is_usual() -> None:
    kept, who = quotas(stops_streams=True), caller("tokens/total=160")
    first = await kept.reserve(stream(who))
    assert (first.output, first.stop_at, first.cap) == (100, 100, None)
    second = await kept.reserve(stream(who))
    assert (second.output, second.stop_at) == (40, 40)
    assert await reserved(kept, who) == [160]


async def test_where_others_hold_all_it_waits_for_a_place_and_not_for_all_that_is_usual() -> None:
    kept, who = quotas(stops_streams=True, wait_s=5), caller("tokens/total=115")
    first = stream(who)
    held = await kept.reserve(first)
    waiting = asyncio.create_task(kept.reserve(stream(who)))
    await asyncio.sleep(0.01)
    await ends(kept, first, held, 50)
    assert (await waiting).output == 1
    assert await reserved(kept, who) == [11]


async def test_a_spent_limit_refuses_a_stream_as_any_other_request() -> None:
    kept, who = quotas(stops_streams=True), caller("tokens/total=10")
    with pytest.raises(QuotaExceeded):
        await kept.reserve(stream(who))


async def test_what_cannot_run_out_is_not_watched() -> None:
    kept = quotas(stops_streams=True, caps_output=True)
    soft = replace(caller(), limits=limits("tokens/total=1000", soft=True))
    others = replace(caller(), limits=limits("tokens/total=1000", model="o3"))
    for who in (caller(), soft, others, caller("requests/day=9"), replace(caller(), limits=limits("inflight=9"))):
        assert (await kept.reserve(stream(who))).stop_at is None
    kept = quotas(stops_streams=True, caps_output=True)
    plain = await kept.reserve(call(caller("tokens/total=1000"), output=None))
    assert (plain.stop_at, plain.cap) == (None, 990)


async def test_more_is_reserved_in_all_limits_that_count_it_or_in_none() -> None:
    kept = quotas(stops_streams=True)
    both: tuple[Limit, ...] = (
        *limits("tokens/total=500", "requests/day=10"),
        *limits("tokens/day=150", kind="output"),
        *limits("tokens/hour=1000", kind="input"),
        *limits("tokens/month=1000", model="o3"),
        *limits("tokens/minute=120", soft=True),
    )
    who = replace(caller(), limits=both)
    asked = stream(who)
    held = await kept.reserve(asked)
    assert await reserved(kept, who) == [110, 1, 100, 10, 0, 110]
    assert await kept.more(held, both, 30) == 30
    assert await kept.more(held, both, 30) == 20
    assert await reserved(kept, who) == [160, 1, 150, 10, 0, 160]
    assert await kept.more(held, both, 30) == 0
    assert held.stopped_by == "tokens/day (output) of 150 (tenant)"
    await ends(kept, asked, held, 90)
    assert await reserved(kept, who) == [0] * 6


async def test_more_counts_in_a_limit_that_is_set_meanwhile_and_not_in_a_window_that_is_over() -> None:
    clock = Clock()
    kept, who = quotas(clock=clock, stops_streams=True), caller("tokens/minute=120")
    held = await kept.reserve(stream(who))
    assert await kept.more(held, who.limits, 50) == 10
    later = limits("tokens/minute=120", "tokens/total=1000")
    assert await kept.more(held, later, 50) == 0
    clock.now_ms += 90_000
    assert await kept.more(held, later, 50) == 50
    assert await reserved(kept, replace(who, limits=later)) == [0, 170]


async def test_of_what_is_settled_nothing_more_is_reserved() -> None:
    kept, who = quotas(stops_streams=True), caller("tokens/total=500")
    asked = stream(who)
    held = await kept.reserve(asked)
    await ends(kept, asked, held, 20)
    assert await kept.more(held, who.limits, 50) == 0
    (entry,) = (await kept.account(who)).entries
    assert (entry.counter.used, entry.counter.reserved) == (Usage(20).total_tokens, 0)
