"""Usage, summed by what is asked for: from the rollups alone, so that the number of events does not matter."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import add
from typing import Any

from proxy.errors import TooMuch
from proxy.instants import HOUR_MS, Period
from proxy.limits import Calendar
from proxy.model import BUCKETS, COSTS, UNITS, Units, Usage, UsageSource
from proxy.store import accounts, queries

#: A sum stops at SQLite's largest integer, which is also the largest that JSON is written with.
_COUNT_MAX = 2**63 - 1
_BUCKETS = slice(1, 1 + len(BUCKETS))
_UNITS = slice(_BUCKETS.stop, _BUCKETS.stop + len(UNITS))
#: Costs come as millionths of a dollar, what is left of them in pico-dollars, and the counts.
_COSTS = slice(_UNITS.stop, _UNITS.stop + 1 + len(COSTS))


class Group(StrEnum):
    """What usage can be told apart by."""

    TENANT = "tenant"
    MODEL = "model"
    ENDPOINT = "endpoint"
    DAY = "day"
    KEY = "key"
    SOURCE = "source"

    @property
    def field(self) -> str:
        """What it is called in events, and so in answers."""
        return _FIELDS.get(self, self.value)


_FIELDS = {Group.TENANT: "subject", Group.KEY: "key_id", Group.SOURCE: "usage_source"}
#: Those that are columns of the rollups, as the queries have them.
_COLUMNS = (Group.TENANT, Group.MODEL, Group.ENDPOINT, Group.KEY)


def parse_groups(words: str, among: Sequence[Group]) -> tuple[Group, ...]:
    """`model,day`. Raises `ValueError`, worded for the user."""
    known = [one.value for one in among]
    found = [word.strip() for word in words.split(",", len(Group))]
    for at, word in enumerate(found):
        if word not in known:
            raise ValueError(f"{word[:100]!r}: use one or more of {', '.join(known)}, with commas between them")
        if word in found[:at]:
            raise ValueError(f"{word!r} stands there twice")
    return tuple(Group(word) for word in found)


@dataclass(frozen=True, slots=True)
class Costs:
    """What requests cost, in pico-dollars, and of how many that is known. Those recorded before costs were are none."""

    pico_usd: int = 0
    priced_requests: int = 0
    free_requests: int = 0
    unpriced_requests: int = 0
    unpriced_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """The sums of requests that have the same `values` of the groups asked for, in that order.

    Of requests and tokens it is known how many were reported by an upstream, and how many estimated here. The rest are
    requests of which nothing was reported or counted.
    """

    values: tuple[str, ...]
    requests: int
    usage: Usage
    units: Units
    reported_requests: int
    reported_tokens: int
    estimated_requests: int
    estimated_tokens: int
    costs: Costs = Costs()


@dataclass(frozen=True, slots=True)
class Report:
    """The lines, in the order of their values, and all of them together."""

    lines: list[Line]
    total: Line


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a report may take. Beyond it `TooMuch` is raised."""

    lines_max: int
    seconds_max: float

    def check_lines(self, count: int) -> None:
        if count > self.lines_max:
            raise TooMuch(f"that is more than {self.lines_max:,} rows")


@dataclass(frozen=True, slots=True)
class Question:
    """What was used in a period, of one subject or ('') of all, told apart by these groups.

    Of `keys` only these are told, and all others are one, whose id is ''.
    """

    period: Period
    groups: tuple[Group, ...] = ()
    subject: str = ""
    keys: frozenset[str] | None = None

    @property
    def columns(self) -> tuple[Group, ...]:
        """Those of its groups that are columns of the rollups, in their order."""
        return tuple(group for group in _COLUMNS if group in self.groups)


#: By the values of the groups: what rows of the queries have after their columns, and what was reported and estimated.
Sums = dict[tuple[str, ...], list[int]]


def report(
    connection: sqlite3.Connection,
    period: Period,
    calendar: Calendar,
    groups: Sequence[Group] = (),
    *,
    subject: str = "",
    keys: Collection[str] | None = None,
    bounds: Bounds | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Report:
    """What was used in a period, of one subject or ('') of all; days are the calendar's.

    Of `keys` only these are told, and all others are one, whose id is ''.
    """
    question = Question(period, tuple(groups), subject, None if keys is None else frozenset(keys))
    return reported(summed(connection, question, calendar, bounds, monotonic))


def summed(
    connection: sqlite3.Connection,
    question: Question,
    calendar: Calendar,
    bounds: Bounds | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Sums:
    """The sums of the rollups."""
    until_s = None if bounds is None else monotonic() + bounds.seconds_max
    sums: Sums = {}
    columns = question.columns
    # A day at a time, also where days are not told apart: what is sorted at once stays small.
    for day, part in _days(connection, question.period, calendar, question.subject):
        for row in connection.execute(*_asked(columns, part, question.subject)):
            add_row(sums, question, columns, day, row)
            if bounds is not None:
                bounds.check_lines(len(sums))
        if until_s is not None and monotonic() > until_s:
            raise TooMuch("summing that takes too long")
    return sums


def add_row(sums: Sums, question: Question, columns: tuple[Group, ...], day: str, row: Sequence[Any]) -> None:
    """Add what a query has found of a day: the question's `columns`, the source, and amounts."""
    of = dict(zip(columns, row, strict=False)) | {Group.DAY: day, Group.SOURCE: row[len(columns)]}
    if question.keys is not None and of.get(Group.KEY) not in question.keys:
        of[Group.KEY] = ""
    amounts = _with_sources(of[Group.SOURCE], row[len(columns) + 1 :])
    values = tuple(of[group] for group in question.groups)
    known = sums.get(values)
    sums[values] = amounts if known is None else [*map(add, known, amounts)]


def are_whole(sums: Sums) -> bool:
    """Whether none of the rollups in them can have stopped at the largest integer."""
    return all(
        max(amounts) < _COUNT_MAX and amounts[_COSTS.start] * 10**6 + amounts[_COSTS.start + 1] < _COUNT_MAX
        for amounts in sums.values()
    )


def reported(sums: Sums) -> Report:
    """The sums as lines."""
    lines = [_line(values, amounts) for values, amounts in sorted(sums.items())]
    return Report(lines, _line((), _added(sums.values())))


def unpriced_models(connection: sqlite3.Connection, period: Period) -> list[tuple[str, int, int]]:
    """Models that were used and have no price: their requests and tokens of which the cost is not known, most first."""
    return connection.execute(queries.UNPRICED_MODELS, period.hours).fetchall()


def has_usage(connection: sqlite3.Connection, subject: str) -> bool:
    """Whether anything of it was ever recorded."""
    return connection.execute(queries.HAS_USAGE, (subject,)).fetchone() is not None


def first_ms(connection: sqlite3.Connection, subject: str) -> int | None:
    """When it was first recorded; None where it never was. Reads the events of one hour."""
    (hour,) = connection.execute(queries.FIRST_HOUR, (subject,)).fetchone()
    if hour is None:
        return None
    begin_ms = hour * HOUR_MS
    (found,) = connection.execute(queries.FIRST_EVENT, (begin_ms, begin_ms + HOUR_MS, subject)).fetchone()
    return begin_ms if found is None else int(found)


def key_names(connection: sqlite3.Connection, subject: str, key_id: str) -> dict[str, str]:
    """The keys of a subject, and those of the tenant that this key belongs to: their names, by their ids."""
    return dict(connection.execute(accounts.KEY_NAMES, (subject, key_id)))


def _days(
    connection: sqlite3.Connection, period: Period, calendar: Calendar, subject: str
) -> Iterable[tuple[str, Period]]:
    """The days of the period, from the first to the last hour in which something was used."""
    if subject:
        found = connection.execute(queries.USAGE_HOURS_OF_SUBJECT, (subject, *period.hours) * 2).fetchone()
    else:
        found = connection.execute(queries.USAGE_HOURS, period.hours * 2).fetchone()
    first, last = found
    part = None if first is None else period.within(first, last)
    return () if part is None else part.days(calendar)


def _asked(columns: tuple[Group, ...], period: Period, subject: str) -> tuple[str, tuple[Any, ...]]:
    named = tuple(group.field for group in columns)
    if subject:
        return queries.USAGE_OF_SUBJECT[named], (subject, *period.hours)
    return queries.USAGE[named], period.hours


def _with_sources(source: str, amounts: Sequence[int]) -> list[int]:
    counted = (amounts[0], sum(amounts[_BUCKETS]))
    reported = counted if source == UsageSource.REPORTED else (0, 0)
    estimated = counted if source == UsageSource.ESTIMATED else (0, 0)
    return [*amounts, *reported, *estimated]


def _added(amounts: Iterable[list[int]]) -> list[int]:
    total = [0] * (_COSTS.stop + 4)
    for one in amounts:
        total = [*map(add, total, one)]
    return total


def _line(values: tuple[str, ...], amounts: Sequence[int]) -> Line:
    counts = [min(amount, _COUNT_MAX) for amount in amounts]
    micro_usd, rest, *states = amounts[_COSTS]
    costs = Costs(micro_usd * 10**6 + rest, *states)
    reported, reported_tokens, estimated, estimated_tokens = counts[_COSTS.stop :]
    usage, units = Usage(*counts[_BUCKETS]), Units(*counts[_UNITS])
    return Line(values, counts[0], usage, units, reported, reported_tokens, estimated, estimated_tokens, costs)
