"""What webhooks say. How a limit is told stands in `test_thresholds`."""

from __future__ import annotations

from dataclasses import replace

import orjson

from proxy.model import Counted, Key, Limit, Unit, Window
from proxy.money import PICO
from proxy.webhooks.messages import (
    Standing,
    backlog_late,
    key_expiring,
    limit_exhausted,
    threshold_crossed,
    trial,
)
from tests.store.samples import TIME_MS

KEY = Key("key_1", "user-001", "ci", "abcd", (), False, 0, TIME_MS + 86_400_000, None)
STANDING = Standing(
    Limit(Counted("tenant", "user-001", Unit.REQUESTS, Window.DAY), 100, "plan pro"), "user-001", TIME_MS, TIME_MS, 80
)


def test_a_key_about_to_expire() -> None:
    one = key_expiring(KEY, TIME_MS)
    assert one.subject == "user-001"
    assert orjson.loads(one.body) == {
        "type": "key.expiring",
        "timestamp": "2026-04-13T10:30:00.000Z",
        "data": {
            "tenant": "user-001",
            "key_id": "key_1",
            "name": "ci",
            "expires_at": "2026-04-14T10:30:00.000Z",
        },
    }


def test_a_backlog_that_is_late() -> None:
    one = backlog_late(3, TIME_MS - 2_700_500, 2_700, "it is late", TIME_MS)
    assert orjson.loads(one.body) == {
        "type": "sink.backlog_late",
        "timestamp": "2026-04-13T10:30:00.000Z",
        "data": {
            "pending": 3,
            "oldest_pending_at": "2026-04-13T09:44:59.500Z",
            "oldest_pending_age_s": 2_700,
            "late_after_s": 2_700,
            "message": "it is late",
        },
    }


def test_each_has_an_id_of_its_own_and_the_same_thing_has_the_same_name() -> None:
    again = [key_expiring(KEY, TIME_MS), key_expiring(KEY, TIME_MS + 9)]
    assert again[0].id != again[1].id
    assert again[0].about == again[1].about


def test_different_things_have_different_names() -> None:
    def of(**changes: object) -> Standing:
        return replace(STANDING, **changes)  # type: ignore[arg-type]

    counted, limit = STANDING.limit.counted, STANDING.limit
    things = [
        *(threshold_crossed(STANDING, percent, 0, 0) for percent in (80, 100)),
        *(
            threshold_crossed(
                of(
                    limit=replace(
                        limit,
                        counted=replace(counted, **{name: value}),  # type: ignore[arg-type]
                    )
                ),
                80,
                0,
                0,
            )
            for name, value in (
                ("owner", "b"),
                ("scope", "key"),
                ("unit", Unit.TOKENS),
                ("window", Window.HOUR),
                ("model", "gpt-*"),
            )
        ),
        threshold_crossed(of(limit=replace(limit, value=200)), 80, 0, 0),
        threshold_crossed(of(start_ms=TIME_MS + 1), 80, 0, 0),
        limit_exhausted(STANDING, 0, 0),
        key_expiring(KEY, 0),
        key_expiring(replace(KEY, expires_ms=TIME_MS), 0),
        key_expiring(replace(KEY, id="key_2"), 0),
        *(backlog_late(1, oldest_ms, late_s, "", 0) for oldest_ms in (1, 2) for late_s in (1, 2)),
        trial(0),
    ]
    assert len({one.about for one in things}) == len(things)


def test_how_much_is_used_is_no_part_of_the_name() -> None:
    assert limit_exhausted(STANDING, 0, 0).about == limit_exhausted(replace(STANDING, used=99), 5, 5).about


def test_money_is_told_in_dollars() -> None:
    limit = Limit(Counted("tenant", "user-001", Unit.USD, Window.MONTH), 5 * PICO, "tenant")
    one = threshold_crossed(Standing(limit, "user-001", TIME_MS, TIME_MS, 4 * PICO + PICO // 8), 80, TIME_MS, TIME_MS)
    told = orjson.loads(one.body)["data"]
    assert (told["limit"], told["value"], told["used"], told["remaining"]) == ("usd/month", "5", "4.125", "0.875")
