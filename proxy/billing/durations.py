"""Spans of time as ISO 8601 writes them: `P1M`, `P14D`, `PT1H`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.limits import Calendar

_ISO = re.compile(
    r"P(?=.)(?:(\d{1,4})Y)?(?:(\d{1,4})M)?(?:(\d{1,4})W)?(?:(\d{1,4})D)?"
    r"(?:T(?=.)(?:(\d{1,4})H)?(?:(\d{1,4})M)?(?:(\d{1,4})S)?)?",
    re.ASCII,
)
_DAY_MS = 86_400_000
#: Of the Gregorian calendar, on average.
_MONTH_MS = 2_629_746_000


@dataclass(frozen=True, slots=True)
class Duration:
    """Months and days of the calendar, whatever their lengths, and seconds."""

    months: int
    days: int
    seconds: int
    iso: str

    @classmethod
    def parse(cls, words: str) -> Duration:
        """Raises `ValueError`, worded for the user."""
        found = _ISO.fullmatch(words)
        years, months, weeks, days, hours, minutes, seconds = (
            (int(part or 0) for part in found.groups()) if found else [0] * 7
        )
        one = cls(12 * years + months, 7 * weeks + days, 3600 * hours + 60 * minutes + seconds, words)
        if not one.about_ms:
            raise ValueError(f"{words!r} is no duration in whole units of ISO 8601, such as P1M, P14D or PT1H")
        return one

    @property
    def about_ms(self) -> int:
        """How long it is, on average."""
        return self.months * _MONTH_MS + self.days * _DAY_MS + self.seconds * 1_000

    def after(self, ms: int, calendar: Calendar, count: int = 1) -> int:
        """The instant that is so many of it later. Not one by one: three months after 31 January is 30 April."""
        return calendar.later(ms, months=count * self.months, days=count * self.days) + count * self.seconds * 1_000
