from __future__ import annotations

import asyncio
import sqlite3

import pytest

from proxy.gateway.counters import Bucket, Counter, Counters
from proxy.gateway.reservation import give_back
from proxy.limits import SLIDING_MS, Calendar
from proxy.model import Counted, Unit, Usage, Window
from tests.gateway.spending import Clock, Spending
from tests.store.samples import settlement

NOW = Clock().now_ms
OWNERS = [("tenant", "user-001"), ("key", "key_1")]


def counted(window: Window = Window.DAY, unit: Unit = Unit.TOKENS) -> Counted:
    return Counted("tenant", "user-001", unit, window)


def counter(window: Window) -> Counter:
    return Counter(counted(window), Calendar(), NOW)


def counters(spending: Spending, now_ms: int = NOW) -> Counters:
    return Counters(spending, Calendar(), now_ms)


def reserved(of: Counter, bucket: Bucket, amount: int) -> tuple[Counter, Bucket, int]:
    bucket.reserved += amount
    of.reserved += amount
    return of, bucket, amount


def test_what_is_used_and_reserved_is_forgotten_when_its_day_is_over() -> None:
    day = counter(Window.DAY)
    bucket = day.bucket(NOW)
    assert bucket is not None
    day.use(NOW, 5)
    held = [reserved(day, bucket, 7)]
    day.move(NOW + 1)
    assert (day.used, day.reserved) == (5, 7)
    day.move(day.end_ms)
    assert (day.used, day.reserved) == (0, 0)
    give_back(held)
    day.use(NOW, 100)
    assert (day.used, day.reserved) == (0, 0)  # yesterday's


def test_a_clock_that_is_set_back_changes_nothing() -> None:
    day = counter(Window.DAY)
    day.use(NOW, 5)
    day.move(NOW - 3 * 86_400_000)
    assert day.used == 5
    minute = counter(Window.MINUTE)
    minute.use(NOW, 5)
    minute.move(NOW - 120_000)
    assert minute.used == 5


def test_a_minute_slides_by_the_second_whatever_the_order_in_which_it_is_settled() -> None:
    minute = counter(Window.MINUTE)
    for age_ms in (30_000, 0, 45_500, 30_400):
        minute.use(NOW - age_ms, 1)
    assert minute.used == 4
    left = []
    for later_ms in (0, 14_999, 15_000, 31_000, 61_000):
        minute.move(NOW + later_ms)
        left.append(minute.used)
    assert left == [4, 4, 3, 1, 0]


def test_room_in_a_minute_is_when_enough_of_it_has_passed() -> None:
    minute = counter(Window.MINUTE)
    minute.use(NOW - 30_000, 6)
    minute.use(NOW - 10_000, 4)
    assert minute.free_at_ms(3, 10, NOW) == NOW - 30_000 + SLIDING_MS
    assert minute.free_at_ms(7, 10, NOW) == NOW - 10_000 + SLIDING_MS
    assert minute.free_at_ms(0, 10, NOW) == NOW
    assert counter(Window.DAY).free_at_ms(3, 10, NOW) == counter(Window.DAY).end_ms


async def test_a_counter_is_read_from_the_ledger_once_and_moved_by_settlements_then() -> None:
    spending = Spending()
    spending.recorded.append(settlement("1", usage=Usage(5)))
    all_ = counters(spending)
    (one,) = await all_.open([counted()], OWNERS, NOW)
    (same,) = await all_.open([counted()], OWNERS, NOW)
    assert one is same
    assert spending.asked == [counted()]
    all_.settled(settlement("2", usage=Usage(7)))
    all_.settled(settlement("3", subject="another", usage=Usage(7)))
    assert one.used == 12


async def test_who_asks_while_it_is_read_waits_for_the_same_reading() -> None:
    spending = Spending()
    all_ = counters(spending)
    found = await asyncio.gather(*(all_.open([counted()], OWNERS, NOW) for _ in range(5)))
    assert len({id(one) for (one,) in found}) == 1
    assert len(spending.asked) == 1


async def test_what_is_settled_while_it_is_read_is_not_counted_twice() -> None:
    """Its commit came first, so that it is in what is read."""
    spending = Spending()
    all_ = counters(spending)
    spending.recorded.append(settlement("1", usage=Usage(5)))
    opening = asyncio.ensure_future(all_.open([counted()], OWNERS, NOW))
    await asyncio.sleep(0)
    all_.settled(spending.recorded[0])
    (one,) = await opening
    assert one.used == 5


async def test_a_ledger_that_cannot_be_read_fails_all_who_ask_and_the_next_reads_again() -> None:
    spending = Spending()
    spending.fails = sqlite3.OperationalError("disk I/O error")
    all_ = counters(spending)
    asked = [asyncio.ensure_future(all_.open([counted()], OWNERS, NOW)) for _ in range(2)]
    for one in asked:
        with pytest.raises(sqlite3.OperationalError):
            await one
    assert len(all_) == 0
    spending.fails = None
    await all_.open([counted()], OWNERS, NOW)


@pytest.mark.parametrize(("seen", "up_s", "asked"), [(False, 30, 1), (False, 90, 0), (True, 90, 1)])
async def test_a_minute_is_searched_for_only_where_something_may_have_passed_unseen(
    seen: bool, up_s: int, asked: int
) -> None:
    spending = Spending()
    all_ = counters(spending, NOW - up_s * 1000)
    if seen:  # by another key, and without a limit
        await all_.open([], [("tenant", "user-001"), ("key", "another")], NOW)
    await all_.open([counted(Window.MINUTE)], OWNERS, NOW)
    assert len(spending.asked) == asked


async def test_what_other_processes_record_counts_and_the_minutes_of_these_are_searched_for() -> None:
    spending = Spending()
    all_ = counters(spending, NOW - 90_000)
    (day,) = await all_.open([counted()], OWNERS, NOW)
    all_.settled_elsewhere([settlement("1", usage=Usage(5)), settlement("2", subject="user-002")])
    assert day.used == 5
    for tenant in ("user-002", "user-003"):
        minute = Counted("tenant", tenant, Unit.TOKENS, Window.MINUTE)
        await all_.open([minute], [("tenant", tenant)], NOW)
    assert [one.owner for one in spending.asked] == ["user-001", "user-002"]


async def test_what_is_settled_after_a_window_s_end_counts_in_the_next_but_none_begins_before_its_time() -> None:
    all_ = counters(Spending())
    (hour,) = await all_.open([counted(Window.HOUR)], OWNERS, NOW)
    later = NOW + 3_600_000
    all_.settled(settlement("1", usage=Usage(5), time_ms=later))
    assert (hour.used, hour.start_ms <= NOW) == (0, True)
    all_.clock = lambda: later
    all_.settled(settlement("2", usage=Usage(7), time_ms=later))
    assert (hour.used, hour.start_ms <= later < hour.end_ms) == (7, True)


async def test_places_in_flight_are_used_by_nothing_that_is_settled() -> None:
    all_ = counters(Spending())
    (places,) = await all_.open([counted(Window.TOTAL, Unit.INFLIGHT)], OWNERS, NOW)
    all_.settled(settlement("1"))
    assert places.used == 0


async def test_a_release_is_noticed_by_whoever_waits_for_it() -> None:
    day = counter(Window.DAY)
    bucket = day.bucket(NOW)
    assert bucket is not None
    held = [reserved(day, bucket, 1)]
    waiting = [asyncio.ensure_future(day.change(60)) for _ in range(3)]
    await asyncio.sleep(0)
    give_back(held)
    await asyncio.gather(*waiting)
    await day.change(0.001)  # nobody releases anything
