"""How limits and their standing are told to people."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.admin.limits import Limit, Standing
from proxy.cli.instants import short
from proxy.cli.tables import print_table
from proxy.model import Window


def print_standings(found: Sequence[Standing], *, empty: str) -> None:
    print_table(
        ("limit", "value", "used", "left", "renews", "origin", "type"),
        [
            (
                one.limit,
                one.value,
                "" if one.used is None else one.used,
                "" if one.remaining is None else one.remaining,
                _renewal(one),
                one.origin,
                "soft" if one.soft else "hard",
            )
            for one in found
        ],
        empty=empty,
    )


def told(limit: Limit) -> str:
    """In a few words: `tokens/month 10,000 (soft)`."""
    return f"{limit.limit} {amount(limit.value)}{' (soft)' * limit.soft}"


def amount(value: int | str) -> str:
    """An amount as people read it: `10,000`, `0.25`."""
    return f"{value:,}" if isinstance(value, int) else value


def _renewal(one: Standing) -> str:
    if one.renews_at is not None:
        return short(one.renews_at)
    if one.used is None:
        return ""
    return "slides" if one.window == Window.MINUTE else "never"
