"""Spans of time as people write them, and what commands use of `proxy.instants`."""

from __future__ import annotations

import re
import time

from proxy.instants import iso, iso_short, parse_instant

__all__ = ["iso", "iso_or_none", "iso_short", "now_ms", "parse_expiry", "parse_instant", "parse_span"]

_SPAN_MAX_MS = 36_525 * 86_400_000
_SPAN = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def iso_or_none(ms: int | None) -> str | None:
    return None if ms is None else iso(ms)


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
