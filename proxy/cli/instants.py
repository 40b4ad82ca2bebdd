"""Instants and spans of time, as people write and read them. All in UTC, and in unix milliseconds inside."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_FIRST_YEAR, _LAST_YEAR = 1970, 9998
_SPAN_MAX_MS = 36_525 * 86_400_000
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,6})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_SPAN = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def iso(ms: int) -> str:
    """As JSON has it: `2026-04-13T10:30:00.123Z`."""
    return _datetime(ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_or_none(ms: int | None) -> str | None:
    return None if ms is None else iso(ms)


def iso_short(ms: int | None) -> str:
    """As tables have it: `2026-04-13T10:30:00Z`, and nothing for no instant."""
    return "" if ms is None else _datetime(ms).isoformat(timespec="seconds").replace("+00:00", "Z")


def parse_instant(words: str) -> int:
    """A date (its first instant in UTC) or an RFC 3339 instant. Raises `ValueError`, worded for the user."""
    try:
        if _DATE.fullmatch(words):
            instant = datetime.fromisoformat(words).replace(tzinfo=UTC)
        elif _INSTANT.fullmatch(words):
            instant = datetime.fromisoformat(words.upper())
        else:
            raise ValueError("write a date such as 2026-12-31, or an instant such as 2026-12-31T00:00:00Z")
    except ValueError as error:
        raise ValueError(f"{words!r}: {error}") from None
    if not _FIRST_YEAR <= instant.year <= _LAST_YEAR:
        raise ValueError(f"{words!r}: the year must be from {_FIRST_YEAR} to {_LAST_YEAR}")
    return max(0, (instant - _EPOCH) // _MS)


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


def month_of(ms: int) -> tuple[int, int]:
    """The first instant of the month that `ms` lies in, and of the next."""
    first = _datetime(ms).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + timedelta(days=31)).replace(day=1)
    return (first - _EPOCH) // _MS, (following - _EPOCH) // _MS


def _datetime(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)
