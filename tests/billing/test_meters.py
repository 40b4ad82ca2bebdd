"""What the engine's meters make of our events, beside the ledger's sums."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response

from proxy.billing.meters import HOUR_S, Difference, Meter, Sums, decimal, meters_of
from proxy.billing.openmeter import OpenMeter
from proxy.errors import EngineUnreadable
from proxy.model import Settlement
from tests.billing.engine import Engine, Fate, meter
from tests.delivery.ledger import NOW_MS, event_of, settlement

HOUR = NOW_MS // 1000 // HOUR_S * HOUR_S
MODEL = "gpt-4o-mini-2024-07-18"


@asynccontextmanager
async def asking(engine: Engine) -> AsyncIterator[OpenMeter]:
    client = OpenMeter(engine.url)
    try:
        yield client
    finally:
        await client.close()


async def summed(engine: Engine, *ours: Settlement, hour_s: int = HOUR) -> list[Difference] | None:
    async with asking(engine) as client:
        sums = Sums(await meters_of(client, event_of(settlement(), "tollgate")))
        sums.begin(hour_s)
        for one in ours:
            sums.add(event_of(one, "tollgate"))
        return await sums.differences(client)


def total(**dimensions: str) -> dict[str, Any]:
    return meter("total", "llm_token_usage", "total_tokens", **dimensions)


async def test_only_meters_that_add_up_our_events_are_compared(engine: Engine) -> None:
    largest = total() | {"id": f"01{'A' * 24}", "key": "largest", "aggregation": "max"}
    engine.meters = [
        *[meter(f"other_{number}", "api_call", "x") for number in range(120)],  # more than a page
        total(family="model_family", model="model"),
        meter("of_a_kind", "prompt", "tokens"),
        meter("of_what_is_not_there", "llm_token_usage", "credits"),
        meter("of_names", "llm_token_usage", "model"),
        largest,
        meter("calls", "llm_token_usage", None),
        meter("reasoning", "llm_token_usage", "reasoning_tokens"),
    ]
    async with asking(engine) as client:
        found = await meters_of(client, event_of(settlement(), "tollgate"))
    assert [(one.key, one.value_key, one.model_dimension) for one in found] == [
        ("total", "total_tokens", "model"),
        ("calls", "", ""),
        ("reasoning", "reasoning_tokens", ""),
    ]


async def test_sums_that_agree_are_no_difference(engine: Engine) -> None:
    engine.meters = [total(model="model"), meter("calls", "llm_token_usage", None)]
    ours = [settlement(number, subject=f"user-{number % 3}", model=f"m-{number % 2}") for number in range(50)]
    for one in ours:
        engine.store(event_of(one, "tollgate"))
    engine.store(event_of(replace(settlement(99), time_ms=HOUR * 1000 - 1), "tollgate"))  # the hour before
    assert await summed(engine, *ours) == []


async def test_a_difference_names_meter_hour_subject_and_model_and_both_sums(engine: Engine) -> None:
    engine.meters = [total(model="model")]
    engine.store(event_of(settlement(1), "tollgate"))
    engine.store(event_of(settlement(2), "tollgate"), Fate(rows=2))
    engine.store(event_of(settlement(3, subject="stranger"), "another"))
    found = await summed(engine, settlement(1), settlement(2), settlement(4, subject="lost", model="o3"))
    assert found == [
        Difference("total", HOUR, "lost", "o3", Decimal(247), Decimal(0)),
        Difference("total", HOUR, "stranger", MODEL, Decimal(0), Decimal(247)),
        Difference("total", HOUR, "user-001", MODEL, Decimal(494), Decimal(741)),
    ]


async def test_a_meter_without_a_model_is_compared_by_subject(engine: Engine) -> None:
    engine.meters = [total()]
    ours = [settlement(1, model="a"), settlement(2, model="b")]
    for one in ours:
        engine.store(event_of(one, "tollgate"))
    assert await summed(engine, *ours) == []
    assert await summed(engine, ours[0]) == [Difference("total", HOUR, "user-001", "", Decimal(247), Decimal(494))]


async def test_an_hour_that_is_not_settled_is_not_asked_for(engine: Engine) -> None:
    engine.meters = [total()]
    async with asking(engine) as client:
        sums = Sums(await meters_of(client, event_of(settlement(), "tollgate")))
        sums.begin(HOUR)
        sums.add(event_of(settlement(), "tollgate"))
        sums.spoil()
        asked = len(engine.asked)
        assert await sums.differences(client) is None
        assert len(engine.asked) == asked
        sums.begin(HOUR + HOUR_S)
        assert await sums.differences(client) == []


@pytest.mark.parametrize(
    ("started", "compared"), [("2026-04-13T10:00:00Z", True), ("2026-04-13T10:00:01Z", False), (None, True)]
)
async def test_a_meter_is_compared_from_the_first_whole_hour_that_it_counts(
    engine: Engine, started: str | None, compared: bool
) -> None:
    engine.meters = [total() | ({} if started is None else {"events_from": started})]
    assert (await summed(engine, settlement()) is not None) == compared


async def test_without_a_meter_there_is_nothing_to_compare(engine: Engine) -> None:
    assert await summed(engine, settlement()) is None


@pytest.mark.parametrize("row", [{"value": "x", "dimensions": {}}, {"value": "1"}, {"value": None, "dimensions": {}}])
async def test_a_sum_that_is_none_is_no_answer(engine: Engine, row: dict[str, Any]) -> None:
    engine.meters = [total()]

    def broken(request: Request) -> Response | None:
        return Response(orjson.dumps({"data": [row]})) if request.method == "POST" else None

    engine.answers = broken
    with pytest.raises(EngineUnreadable, match="meter total: "):
        await summed(engine, settlement())


def test_numbers_are_exact_however_they_are_written() -> None:
    assert decimal("9007199254740993") == 9_007_199_254_740_993
    assert decimal("12.3456") == Decimal("12.3456")
    assert decimal(1e15) == 10**15
    assert decimal(3) == 3
    wrong: tuple[object, ...] = (None, True, "", "x", "NaN", "-Infinity", [], {})
    for value in wrong:
        with pytest.raises(ValueError, match="is no number"):
            decimal(value)


def test_an_event_is_worth_what_the_meter_sums() -> None:
    one = Meter("1", "total", "total_tokens", "model", 0)
    event = event_of(settlement(), "tollgate")
    assert one.value_of(event) == 247
    assert one.group_of(event) == ("user-001", MODEL)
    assert replace(one, value_key="", model_dimension="").value_of(event) == 1
    assert replace(one, model_dimension="").group_of(event) == ("user-001", "")
