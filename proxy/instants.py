"""Instants as people write and read them, and the periods that usage is asked for. In unix milliseconds inside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from proxy.limits import Calendar
from proxy.model import Window

#: Usage is kept by the hour.
HOUR_MS = 3_600_000

_SPAN_MAX_MS = 36_525 * 86_400_000
_SPAN = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_FIRST_YEAR, _LAST_YEAR = 1970, 9998
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,6})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_IN_UTC = Calendar()


def iso(ms: int) -> str:
    """As JSON has it: `2026-04-13T10:30:00.123Z`."""
    return _datetime(ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_or_none(ms: int | None) -> str | None:
    return None if ms is None else iso(ms)


def iso_short(ms: int | None) -> str:
    """As tables have it: `2026-04-13T10:30:00Z`, and nothing for no instant."""
    return "" if ms is None else _datetime(ms).isoformat(timespec="seconds").replace("+00:00", "Z")


def parse_instant(words: str, calendar: Calendar = _IN_UTC) -> int:
    """A date (its first instant, by the calendar) or an RFC 3339 instant. Raises `ValueError`, worded for the user."""
    try:
        if _DATE.fullmatch(words):
            day = date.fromisoformat(words)
            year, ms = day.year, calendar.begin_of(day) if _FIRST_YEAR <= day.year <= _LAST_YEAR else 0
        elif _INSTANT.fullmatch(words):
            instant = datetime.fromisoformat(words.upper())
            year, ms = instant.year, (instant - _EPOCH) // _MS
        else:
            raise ValueError("write a date such as 2026-12-31, or an instant such as 2026-12-31T00:00:00Z")
    except ValueError as error:
        raise ValueError(f"{words[:100]!r}: {error}") from None
    if not _FIRST_YEAR <= year <= _LAST_YEAR:
        raise ValueError(f"{words!r}: the year must be from {_FIRST_YEAR} to {_LAST_YEAR}")
    return max(0, ms)


def parse_span(words: str) -> int:
    """Milliseconds of a span such as `30d`, `12h`, `90m`, `45s` or `2w`. Raises `ValueError`, worded for the user."""
    match = _SPAN.fullmatch(words)
    if match is None:
        raise ValueError(f"{words!r} is not a span of time such as 30d, 12h or 90m")
    span_ms = int(match[1]) * _UNIT_MS[match[2]]
    if span_ms > _SPAN_MAX_MS:
        raise ValueError(f"{words!r} is longer than a hundred years")
    return span_ms


def parse_expiry(words: str, now_ms: int) -> int:
    """When something ends that lasts for a span from now, or until an instant. Raises `ValueError`."""
    if _SPAN.fullmatch(words):
        expires_ms = now_ms + parse_span(words)
    elif words[:4].isdigit():
        expires_ms = parse_instant(words)
    else:
        raise ValueError(f"{words!r} is neither a span such as 30d or 12h nor an instant such as 2026-12-31T00:00:00Z")
    if expires_ms <= now_ms:
        raise ValueError(f"{words!r} has passed already")
    return expires_ms


class WrongPeriod(ValueError):
    """What was written is no period. `end` is which of its ends is wrong."""

    def __init__(self, words: str, end: Literal["from", "to"]) -> None:
        super().__init__(words)
        self.end = end


@dataclass(frozen=True, slots=True)
class Period:
    """Whole hours, as the ledger counts them: those that begin in `[from_ms, to_ms)`."""

    from_ms: int
    to_ms: int

    @classmethod
    def of(cls, begin: str | None, end: str | None, calendar: Calendar, now_ms: int) -> Period:
        """What is written as `from` and `to`; by default the month that the other one, or now, lies in.

        An hour belongs to the period that it begins in, so that periods that meet count each hour once.
        Raises `WrongPeriod`, worded for the user.
        """
        to_ms = calendar.bounds(Window.MONTH, now_ms)[1] if end is None else _end(end, "to", calendar)
        month_ms = calendar.bounds(Window.MONTH, max(0, to_ms - 1))[0]
        from_ms = max(0, month_ms) if begin is None else _end(begin, "from", calendar)
        period = cls(_whole(from_ms), _whole(to_ms))
        if period.from_ms >= period.to_ms:
            raise WrongPeriod(f"no hour begins between {iso(period.from_ms)} and {iso(period.to_ms)}", "from")
        return period

    @property
    def hours(self) -> tuple[int, int]:
        """The first, and the first that is not in it, in unix hours."""
        return self.from_ms // HOUR_MS, self.to_ms // HOUR_MS

    def within(self, first: int, last: int) -> Period | None:
        """What of it lies in the hours from `first` to `last`; None where nothing does."""
        part = Period(max(self.from_ms, first * HOUR_MS), min(self.to_ms, (last + 1) * HOUR_MS))
        return part if part.from_ms < part.to_ms else None

    def days(self, calendar: Calendar) -> Iterator[tuple[str, Period]]:
        """Its days, by their dates. An hour that two days share is the one's that it begins in."""
        from_ms = self.from_ms
        while from_ms < self.to_ms:
            to_ms = min(_whole(calendar.bounds(Window.DAY, from_ms)[1]), self.to_ms)
            yield calendar.date_of(from_ms).isoformat(), Period(from_ms, to_ms)
            from_ms = to_ms


def _end(words: str, end: Literal["from", "to"], calendar: Calendar) -> int:
    try:
        return parse_instant(words, calendar)
    except ValueError as error:
        raise WrongPeriod(str(error), end) from None


def _whole(ms: int) -> int:
    """The first whole hour from then on."""
    return -(-ms // HOUR_MS) * HOUR_MS


def _datetime(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)
