"""How limits stand, for people and as JSON: what is used, what is left, and when it renews."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.cli.instants import iso_or_none, iso_short
from proxy.cli.output import print_table
from proxy.limits import Calendar, shown
from proxy.limits import told as amount_told
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


def print_standings(found: Sequence[Standing], *, empty: str) -> None:
    print_table(
        ("limit", "value", "used", "left", "renews", "origin", "type"),
        [
            (
                one.limit.counted.name,
                shown(one.limit.counted.unit, one.limit.value),
                "" if one.used is None else one.shown(one.used) or 0,
                "" if one.left is None else one.shown(one.left) or 0,
                _renewal(one),
                one.limit.origin,
                "soft" if one.limit.soft else "hard",
            )
            for one in found
        ],
        empty=empty,
    )


def told(limit: Limit) -> str:
    """In a few words: `tokens/month 10,000 (soft)`."""
    return f"{limit.counted.name} {amount_told(limit.counted.unit, limit.value)}{' (soft)' * limit.soft}"


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


def _renewal(one: Standing) -> str:
    if one.renews_ms is not None:
        return iso_short(one.renews_ms)
    if one.used is None:
        return ""
    return "slides" if one.limit.counted.window is Window.MINUTE else "never"
