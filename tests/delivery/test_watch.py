from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.delivery.watch import Watch, warning_of
from proxy.store.outbox import Backlog
from tests.delivery.ledger import NOW_MS, Ledger, settlement
from tests.delivery.relaying import until

pytestmark = pytest.mark.anyio

MINUTE_MS = 60_000
LOOK_S = 0.01


class Clock:
    def __init__(self) -> None:
        self.ms = NOW_MS

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    made = Ledger(tmp_path)
    made.open()
    yield made
    await made.close()


@asynccontextmanager
async def watching(ledger: Ledger, clock: Clock, *, has_sink: bool = True) -> AsyncIterator[Watch]:
    watch = Watch(ledger.database, has_sink=has_sink, now_ms=clock, look_s=LOOK_S)
    watch.start()
    try:
        yield watch
    finally:
        await watch.stop()


@pytest.mark.parametrize(
    ("age_s", "words"),
    [(None, ""), (0, ""), (2_699, ""), (2_700, "45 minutes"), (71_999, "45 minutes"), (72_000, "20 hours")],
)
def test_the_warning_comes_before_a_receivers_window_runs_out(age_s: int | None, words: str) -> None:
    warning = warning_of(age_s)
    assert words in warning
    assert bool(warning) == bool(words)


async def test_it_sees_what_waits_and_how_long_the_oldest_has(ledger: Ledger, clock: Clock) -> None:
    async with watching(ledger, clock) as watch:
        assert (watch.backlog, watch.age_s, watch.warning) == (Backlog(0, 0, 0, None), None, "")
        await ledger.record(*[replace(settlement(number), time_ms=NOW_MS) for number in range(3)])
        await until(lambda: watch.backlog.pending == 3)
        clock.ms += 5_000
        assert watch.age_s == 5
        await ledger.outbox.refuse("req-0000", "no")
        await ledger.outbox.accept(["req-0001", "req-0002"])
        await until(lambda: watch.backlog == Backlog(0, 1, 0, None))
        assert watch.age_s is None


async def test_it_warns_once_for_each_window_and_again_when_all_had_been_well(
    ledger: Ledger, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def rest(watch: Watch) -> None:
        """Some more looks."""
        before = watch.backlog
        await until(lambda: watch.backlog is not before)
        before = watch.backlog
        await until(lambda: watch.backlog is not before)

    with caplog.at_level(logging.WARNING):
        async with watching(ledger, clock) as watch:
            told: list[tuple[int | None, int]] = []
            watch.late = lambda backlog, late_s, words: told.append((backlog.oldest_ms, late_s))
            await ledger.record(replace(settlement(), time_ms=NOW_MS))
            await until(lambda: watch.backlog.pending == 1)
            for minutes in (44, 2, 60, 19 * 60, 60):
                clock.ms += minutes * MINUTE_MS
                await rest(watch)
            assert ["45 minutes" in line for line in caplog.messages] == [True, False]
            assert "20 hours" in caplog.messages[1]
            assert told == [(NOW_MS, 2_700), (NOW_MS, 72_000)]
            await ledger.outbox.accept(["req-0001"])
            await until(lambda: watch.backlog.pending == 0)
            await rest(watch)
            await ledger.record(replace(settlement(2), time_ms=clock.ms - 50 * MINUTE_MS))
            await until(lambda: len(caplog.messages) == 3)
            assert "45 minutes" in caplog.messages[2]


async def test_without_a_sink_nobody_is_warned(ledger: Ledger, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with watching(ledger, clock, has_sink=False) as watch:
            await ledger.record(replace(settlement(), time_ms=NOW_MS - 1_000 * MINUTE_MS))
            await until(lambda: watch.backlog.pending == 1)
            assert (watch.age_s, watch.warning) == (60_000, "")
    assert caplog.messages == []


async def test_a_ledger_that_cannot_be_read_leaves_the_last_look_and_is_looked_at_again(
    ledger: Ledger, clock: Clock
) -> None:
    async with watching(ledger, clock) as watch:
        await ledger.record(settlement(1))
        await until(lambda: watch.backlog.pending == 1)
        away = ledger.database.path.with_name("away.db")
        ledger.database.path.rename(away)
        seen = watch.backlog
        await asyncio.sleep(5 * LOOK_S)
        assert watch.backlog.pending == seen.pending
        away.rename(ledger.database.path)
        await ledger.record(settlement(2))
        await until(lambda: watch.backlog.pending == 2)


async def test_it_starts_and_stops_in_any_order_and_more_than_once(ledger: Ledger, clock: Clock) -> None:
    watch = Watch(ledger.database, has_sink=True, now_ms=clock, look_s=3_600)
    await watch.stop()
    for _ in range(2):
        watch.start()
        watch.start()
        async with asyncio.timeout(5):
            await watch.stop()
            await watch.stop()
