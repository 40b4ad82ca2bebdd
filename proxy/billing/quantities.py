"""How much of each feature a tenant used in a span of time, by the ledger, as the engine's meters would count it.

Sums and counts are added up from the hourly totals, and from single events in the hours that are cut, so that they cost
the same however many events there are. What totals do not tell (other dimensions, distinct or latest values, counts of
events of which a request has several) is read from every event of the span.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol

from proxy.billing import emitted
from proxy.billing.catalog import Aggregation, Feature, Meter, Snapshot
from proxy.billing.jsonpath import lookup
from proxy.billing.meters import decimal
from proxy.billing.money import EXACT, ZERO
from proxy.model import Settlement
from proxy.store import metered

_HOUR_MS = 3_600_000
#: What totals tell of the requests that they are of: sums of values, and dimensions that are the same in all.
_SUMMED = {
    "$.total_tokens",
    "$.prompt_tokens",
    "$.completion_tokens",
    "$.cached_tokens",
    "$.reasoning_tokens",
    "$.tokens",
    "$.images",
    "$.audio_ms",
    "$.characters",
}
_SHARED = {"$.model", "$.model_family", "$.endpoint", "$.usage_source", "$.type"}
_BY_MODEL = {"$.model", "$.model_family"}
#: With this type a request is one event.
_ONE_EVENT = "llm_token_usage"


def quantities(
    connection: sqlite3.Connection, subject: str, from_ms: int, to_ms: int, snapshot: Snapshot
) -> dict[str, Decimal]:
    """What was used of each feature that has a meter, by its key, in `[from_ms, to_ms)`."""
    counted = {key: _Counted(one, snapshot.meters[one.meter]) for key, one in snapshot.features.items() if one.meter}
    first, end = -(-from_ms // _HOUR_MS), to_ms // _HOUR_MS
    totals = [*metered.hours(connection, subject, first, end)] if first < end else []
    # Of requests that nobody answered the totals do not tell which model was asked for.
    is_unknown = any(not one.model for one in totals)
    by_total = [one for one in counted.values() if first < end and one.fits_totals(by_model=not is_unknown)]
    by_event = [one for one in counted.values() if one not in by_total]
    for one in totals:
        like = emitted.settlement_like(
            subject,
            model=one.model,
            endpoint=one.endpoint,
            usage=one.usage,
            units=one.units,
            usage_source=one.usage_source,
        )
        _count(by_total, like, one.requests)
    spans = [(by_total, from_ms, first * _HOUR_MS), (by_total, end * _HOUR_MS, to_ms), (by_event, from_ms, to_ms)]
    for some, begins, ends in spans:
        for settlement in metered.events(connection, subject, begins, ends) if some and begins < ends else ():
            _count(some, settlement)
    return {key: one.value for key, one in counted.items()}


class _Counted:
    """A feature, and what its meter has made of the events so far."""

    def __init__(self, feature: Feature, meter: Meter) -> None:
        self.event_type = meter.event_type
        self._filters = [(meter.dimensions[name], one) for name, one in feature.filters.items()]
        self._from_ms = meter.events_from_ms
        self._path = meter.value_property
        self._aggregation = meter.aggregation
        self._made = _OF[meter.aggregation]()

    def fits_totals(self, *, by_model: bool) -> bool:
        """Whether totals tell all that is asked for; `by_model`: also of which models they are."""
        paths = {path for path, _ in self._filters}
        if self._aggregation is Aggregation.SUM:
            is_told = self._path in _SUMMED
        else:
            is_told = self._aggregation is Aggregation.COUNT and self.event_type == _ONE_EVENT
        return is_told and self._from_ms is None and paths <= _SHARED and (by_model or not paths & _BY_MODEL)

    def add(self, data: Mapping[str, Any], time_ms: int, count: int) -> None:
        """Some events with the same time and, in sum, this data."""
        if self._from_ms is not None and time_ms < self._from_ms:
            return
        if all(one.passes(_text(lookup(path, data))) for path, one in self._filters):
            self._made.add(lookup(self._path, data) if self._path else None, count)

    @property
    def value(self) -> Decimal:
        return self._made.value


def _count(some: Sequence[_Counted], settlement: Settlement, count: int = 1) -> None:
    for event_type in {one.event_type for one in some}:
        for data in emitted.events(settlement, event_type):
            for one in some:
                if one.event_type == event_type:
                    one.add(data, settlement.time_ms, count)


class _Made(Protocol):
    """The value that a meter makes of those of events. What is no number adds nothing to a number, as in the engine."""

    def add(self, value: object, count: int) -> None: ...

    @property
    def value(self) -> Decimal: ...


class _Sum:
    def __init__(self) -> None:
        self.value = ZERO

    def add(self, value: object, count: int) -> None:
        number = _number(value)
        if number is not None:
            self.value = EXACT.add(self.value, number)


class _Count:
    def __init__(self) -> None:
        self.value = ZERO

    def add(self, value: object, count: int) -> None:
        self.value += count


class _UniqueCount:
    def __init__(self) -> None:
        self._seen: set[str] = set()

    def add(self, value: object, count: int) -> None:
        self._seen.add(_text(value))

    @property
    def value(self) -> Decimal:
        return Decimal(len(self._seen))


class _Latest:
    """Events come in the order of their times."""

    def __init__(self) -> None:
        self.value = ZERO

    def add(self, value: object, count: int) -> None:
        number = _number(value)
        if number is not None:
            self.value = number


_OF: dict[Aggregation, type[_Made]] = {
    Aggregation.SUM: _Sum,
    Aggregation.COUNT: _Count,
    Aggregation.UNIQUE_COUNT: _UniqueCount,
    Aggregation.LATEST: _Latest,
}


def _number(value: object) -> Decimal | None:
    """A number, also one that is written as a text; None for all else."""
    try:
        return decimal(value)
    except ValueError:
        return None


def _text(value: object) -> str:
    """As dimensions are compared: what is not there is empty."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
