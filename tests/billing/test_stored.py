"""Our events as the engine has them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from starlette.responses import Response

from proxy.billing import stored
from proxy.billing.openmeter import OpenMeter
from proxy.errors import EngineUnreadable
from tests.billing.engine import Engine, Fate
from tests.delivery.ledger import NOW_MS, event_of, settlement

NOW_S = NOW_MS // 1000


@asynccontextmanager
async def asking(engine: Engine) -> AsyncIterator[OpenMeter]:
    client = OpenMeter(engine.url)
    try:
        yield client
    finally:
        await client.close()


def instead(engine: Engine, *items: Any) -> None:
    body = orjson.dumps({"data": items, "meta": {"page": {"size": 100, "next": None, "previous": None}}})
    engine.answers = lambda _: Response(body, media_type="application/json")


def item(time: str = "2026-04-13T10:30:00Z", **changes: Any) -> dict[str, Any]:
    event = event_of(settlement(), "tollgate") | {"time": time} | changes
    return {"event": event, "ingested_at": time, "stored_at": time}


async def test_events_come_in_the_order_of_time_from_an_instant_on_with_one_source(engine: Engine) -> None:
    for number in (5, 3_000, 1_000, 250_000, 2_000):
        engine.store(event_of(settlement(number), "tollgate"))
        engine.store(event_of(settlement(number + 1), "another"))
    async with asking(engine) as client:
        rows = [row async for row in stored.since(client, "tollgate", NOW_S + 1)]
    assert [row.id for row in rows] == ["req-1000", "req-2000", "req-3000", "req-250000"]
    assert [row.time_s for row in rows] == [NOW_S + 1, NOW_S + 2, NOW_S + 3, NOW_S + 250]
    (first, *_) = rows
    assert (first.source, first.type, first.subject) == ("tollgate", "llm_token_usage", "user-001")
    assert first.data["total_tokens"] == 247
    assert first.stored_ms == first.time_s * 1000 + 2_000
    assert first.complaints == ("no meter found for event type: llm_token_usage",)


async def test_repeats_that_were_stored_are_listed_also_across_a_page(engine: Engine) -> None:
    for number in range(150):
        engine.store(event_of(settlement(number), "tollgate"), Fate(rows=2))
    async with asking(engine) as client:
        rows = [row async for row in stored.since(client, "tollgate", NOW_S)]
    assert len(rows) == 300
    assert len({row.id for row in rows}) == 150
    assert len([one for one in engine.asked if one.startswith("GET /events")]) == 4, "three full pages, and the end"


async def test_events_are_asked_for_by_their_ids_as_many_as_a_filter_takes(engine: Engine) -> None:
    ids = [f"req_{number:028x}" for number in range(120)] + ["one,with,commas", "x" * 900, "y" * 900, " spaced "]
    for number, event_id in enumerate(ids):
        engine.store(event_of(settlement(number), "tollgate") | {"id": event_id})
    async with asking(engine) as client:
        rows = await stored.with_ids(client, [*ids, "req_that_is_not_there"])
        assert await stored.with_ids(client, []) == []
    assert sorted(row.id for row in rows) == sorted(ids)
    assert len(engine.asked) < 12


async def test_an_id_is_found_with_any_source_and_time(engine: Engine) -> None:
    engine.store(event_of(settlement(1), "another"))
    async with asking(engine) as client:
        (row,) = await stored.with_ids(client, ["req-0001"])
    assert row.source == "another"


async def test_when_anything_was_stored_last(engine: Engine) -> None:
    async with asking(engine) as client:
        assert await stored.newest_ms(client, "tollgate") == 0
        engine.store(event_of(settlement(1), "tollgate"), Fate(late_s=500))
        engine.store(event_of(settlement(5_000), "tollgate"))
        engine.store(event_of(settlement(9_000), "another"), Fate(late_s=9_000))
        assert await stored.newest_ms(client, "tollgate") == (NOW_S + 500) * 1000


async def test_without_a_customer_or_words_complaints_are_kept_as_they_are(engine: Engine) -> None:
    complaints = [{"code": "no_meter", "message": ""}, {"code": "c", "message": "m"}, "plain", {}]
    instead(engine, item() | {"validation_errors": complaints})
    async with asking(engine) as client:
        (row,) = await stored.with_ids(client, ["x"])
    assert row.complaints == ("no_meter", "m", "plain", "no words")


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"event": None},
        {"event": []},
        item(id=7),
        item(subject=None),
        item(data=[1]),
        item(time="yesterday"),
        item(time="2026-04-13T10:30:00"),
        item() | {"stored_at": None},
        item() | {"validation_errors": "none"},
    ],
)
async def test_nothing_is_concluded_from_what_is_no_event(engine: Engine, bad: dict[str, Any]) -> None:
    instead(engine, bad)
    async with asking(engine) as client:
        with pytest.raises(EngineUnreadable):
            await stored.with_ids(client, ["x"])


async def test_a_listing_that_goes_back_in_time_is_left(engine: Engine) -> None:
    instead(engine, item("2026-04-13T10:30:05Z"), item("2026-04-13T10:30:04Z"))
    async with asking(engine) as client:
        with pytest.raises(EngineUnreadable, match="not in the order of time"):
            [_ async for _ in stored.since(client, "tollgate", 0)]


async def test_cursors_that_go_round_in_a_circle_are_left(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "SECOND_EVENTS_MAX", 1_000)
    cursors = iter(["a", "b"] * 100)

    def circle(_: object) -> Response:
        meta = {"page": {"size": 100, "next": next(cursors), "previous": None}}
        return Response(orjson.dumps({"data": [item()] * 100, "meta": meta}))

    engine.answers = circle
    async with asking(engine) as client:
        with pytest.raises(EngineUnreadable, match="do not end"):
            [_ async for _ in stored.since(client, "tollgate", 0)]
    assert len(engine.asked) == 11


@pytest.mark.parametrize(
    ("instant", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-04-13T10:30:00.123456789Z", 1_776_076_200_123),
        ("2026-04-13T12:30:00+02:00", 1_776_076_200_000),
    ],
)
def test_instants_are_read_as_servers_write_them(instant: str, ms: int) -> None:
    assert stored.unix_ms(instant) == ms


def test_instants_are_written_as_servers_read_them() -> None:
    assert stored.rfc3339(1_776_076_200) == "2026-04-13T10:30:00Z"
