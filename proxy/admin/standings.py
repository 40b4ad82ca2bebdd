"""How limits stand: what is used, what is left, and when it renews."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from proxy.instants import iso_or_none
from proxy.limits import Calendar, shown
from proxy.model import TIMELESS, Limit, Unit, Window
from proxy.store.spent import spent
from proxy.web.report import limit_json


@dataclass(frozen=True, slots=True)
class Standing:
    """A limit, and how it stands.

    `used` is None for what is not summed over time, `renews_ms` for what does not begin anew at one instant.
    """

    limit: Limit
    used: int | None
    renews_ms: int | None

    @property
    def left(self) -> int | None:
        return None if self.used is None else max(0, self.limit.value - self.used)

    def shown(self, amount: int | None) -> int | str | None:
        """One of its amounts, as JSON and tables have it."""
        return None if amount is None else shown(self.limit.counted.unit, amount)


def standings(
    connection: sqlite3.Connection, limits: Iterable[Limit], calendar: Calendar, now_ms: int
) -> list[Standing]:
    """How limits stand by the ledger, in the order in which they are told: those that are summed over time first."""
    return [_standing(connection, one, calendar, now_ms) for one in sorted(limits, key=_place)]


def standing_json(one: Standing) -> dict[str, Any]:
    """With the names that `GET /api/usage` gives them."""
    amounts = {"used": one.shown(one.used), "remaining": one.shown(one.left)}
    return limit_json(one.limit) | amounts | {"renews_at": iso_or_none(one.renews_ms)}


def _place(limit: Limit) -> tuple[Any, ...]:
    one = limit.counted
    place = (one.unit in TIMELESS, [*Unit].index(one.unit), [*Window].index(one.window))
    return (*place, one.model, one.kind, one.scope == "key")


def _standing(connection: sqlite3.Connection, limit: Limit, calendar: Calendar, now_ms: int) -> Standing:
    counted = limit.counted
    if counted.unit in TIMELESS:
        return Standing(limit, None, None)
    used = spent(connection, counted, calendar, now_ms)
    if counted.window in (Window.MINUTE, Window.TOTAL):
        return Standing(limit, used, None)
    return Standing(limit, used, calendar.bounds(counted.window, now_ms, counted.anchor_ms)[1])
