"""What a subject used, as meters ask for it: in whole hours from the rollups, else event by event."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.model import BUCKETS, UNITS, Settlement, Units, Usage, UsageSource
from proxy.store import queries
from proxy.store.ledger import settlement_of

_USAGE_TO = 4 + len(BUCKETS)
_UNITS_TO = _USAGE_TO + len(UNITS)


@dataclass(frozen=True, slots=True)
class Totals:
    """Requests in some hours that have all this in common. `model` is empty where none had answered."""

    model: str
    endpoint: str
    usage_source: UsageSource
    requests: int
    usage: Usage
    units: Units


def hours(connection: sqlite3.Connection, subject: str, first: int, end: int) -> Iterator[Totals]:
    """The totals of the hours (unix hours) from `first` until `end`, which is not in it."""
    for row in connection.execute(queries.METERED_HOURS, (subject, first, end)):
        model, endpoint, source, requests = row[:4]
        usage, units = Usage(*row[4:_USAGE_TO]), Units(*row[_USAGE_TO:_UNITS_TO])
        yield Totals(model, endpoint, UsageSource(source), requests, usage, units)


def events(connection: sqlite3.Connection, subject: str, from_ms: int, to_ms: int) -> Iterator[Settlement]:
    """The settlements in `[from_ms, to_ms)`, by the times of the requests. It passes those of all subjects by."""
    for row in connection.execute(queries.METERED_EVENTS, (from_ms, to_ms, subject)):
        yield settlement_of(row)
