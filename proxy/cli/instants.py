"""What commands use of `proxy.instants`."""

from __future__ import annotations

import time

from proxy.instants import iso, iso_or_none, iso_short, parse_expiry, parse_instant, parse_span

__all__ = ["iso", "iso_or_none", "iso_short", "now_ms", "parse_expiry", "parse_instant", "parse_span", "short"]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def short(instant: str | None) -> str:
    """As tables have it, of what JSON has: without its milliseconds, and nothing for no instant."""
    return "" if instant is None else instant[:19] + "Z"
