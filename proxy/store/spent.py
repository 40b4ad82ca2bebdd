"""What counters must stand at, by the ledger: summed from the rollups, and from events where an hour is cut."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from proxy.limits import SECOND_MS, Calendar, amount_of, counts
from proxy.model import BUCKETS, TIMELESS, UNITS, Counted, Unit, Usage, Window
from proxy.store import queries
from proxy.store.ledger import HOUR_MS

#: Where the sums of a rollup's costs stand, after those of tokens and units.
_COST = slice(len(BUCKETS) + len(UNITS), len(BUCKETS) + len(UNITS) + 2)

#: What was used, in the pieces of a window: when each begins (unix ms), and how much.
Seconds = list[tuple[int, int]]


def spent(connection: sqlite3.Connection, counted: Counted, calendar: Calendar, now_ms: int) -> int:
    """What was used in the window of `now_ms`."""
    return sum(amount for _, amount in spent_by_second(connection, counted, calendar, now_ms))


def spent_by_second(connection: sqlite3.Connection, counted: Counted, calendar: Calendar, now_ms: int) -> Seconds:
    """The same; of a minute, for each second (unix ms) in which something arrived. Other windows are in one piece."""
    if counted.unit in TIMELESS:
        return []
    start_ms, end_ms = calendar.bounds(counted.window, now_ms, counted.anchor_ms)
    if counted.window is Window.MINUTE:
        # To look through a minute's events takes milliseconds under load, and most who ask first have none in it.
        since = connection.execute(queries.SPENT_SINCE[counted.scope], (counted.owner, start_ms // HOUR_MS))
        if since.fetchone() is None:
            return []
        seconds: dict[int, int] = {}
        for time_ms, amount in _lately(connection, counted, start_ms, now_ms + SECOND_MS):
            second_ms = time_ms - time_ms % SECOND_MS
            seconds[second_ms] = seconds.get(second_ms, 0) + amount
        return sorted(seconds.items())
    # Days of some time zones, and periods, begin or end within an hour.
    first, last = -(-start_ms // HOUR_MS), end_ms // HOUR_MS
    cut = [(start_ms, first * HOUR_MS), (last * HOUR_MS, end_ms)]
    amounts = [
        amount for begins, ends in cut if begins < ends for _, amount in _lately(connection, counted, begins, ends)
    ]
    rows = connection.execute(queries.SPENT_BY[counted.scope], (counted.owner, first, min(last, 2**53)))
    amounts += [
        _amount(counted, requests, sums[: len(BUCKETS)], micro_usd * 10**6 + rest)
        for model, requests, *sums in rows
        if counts(counted, model)
        for micro_usd, rest in [sums[_COST]]
    ]
    return [(start_ms, sum(amounts))]


def _lately(connection: sqlite3.Connection, counted: Counted, from_ms: int, to_ms: int) -> Iterable[tuple[int, int]]:
    rows = connection.execute(queries.SPENT_LATELY_BY[counted.scope], (from_ms, to_ms, counted.owner))
    for model, time_ms, pico_usd, *buckets in rows:
        if counts(counted, model):
            yield time_ms, _amount(counted, 1, buckets, pico_usd)


def _amount(counted: Counted, requests: int, buckets: Sequence[Any], pico_usd: int) -> int:
    return requests if counted.unit is Unit.REQUESTS else amount_of(counted, Usage(*buckets), pico_usd)
