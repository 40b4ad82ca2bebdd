"""A report of usage as JSON and as CSV, and limits as JSON, for the routes and the commands alike."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.instants import Period, iso
from proxy.limits import shown
from proxy.model import BUCKETS, TIMELESS, Limit, Usage
from proxy.money import dollars
from proxy.store.usage import Group, Line, Report

#: What is counted, as columns.
COUNTS = (
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "total_tokens",
    "reported_requests",
    "reported_tokens",
    "estimated_requests",
    "estimated_tokens",
    "images",
    "audio_ms",
    "characters",
)
#: What is told of costs, as columns.
COSTS = ("cost_usd", "priced_requests", "free_requests", "unpriced_requests", "unpriced_tokens")
#: What spreadsheets take for the begin of a formula, the wide letters in some languages.
_FORMULA = tuple("=+-@＝＋－＠")


def costs_json(line: Line) -> dict[str, Any]:
    """What a line cost whoever runs this service, in dollars: for operators alone."""
    return {
        "cost_usd": dollars(line.costs.pico_usd),
        "priced_requests": line.costs.priced_requests,
        "free_requests": line.costs.free_requests,
        "unpriced_requests": line.costs.unpriced_requests,
        "unpriced_tokens": line.costs.unpriced_tokens,
    }


def counts_json(line: Line) -> dict[str, Any]:
    """What a line counts, by the names of `COUNTS`, and the disjoint buckets of its tokens."""
    return {
        "requests": line.requests,
        **tokens_json(line.usage),
        "reported_requests": line.reported_requests,
        "reported_tokens": line.reported_tokens,
        "estimated_requests": line.estimated_requests,
        "estimated_tokens": line.estimated_tokens,
        "images": line.units.images,
        "audio_ms": line.units.audio_ms,
        "characters": line.units.characters,
    }


def tokens_json(usage: Usage) -> dict[str, Any]:
    """Tokens under the names that OpenAI gives them, and in our disjoint buckets."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_input,
        "reasoning_tokens": usage.reasoning,
        "buckets": {name: getattr(usage, name) for name in BUCKETS},
    }


def lines_json(
    report: Report, groups: Sequence[Group], key_names: Mapping[str, str] | None = None, *, costs: bool = False
) -> list[dict[str, Any]]:
    """The lines, each with the values of its groups. With `key_names`, keys have names too, and '' stands for null."""
    return [
        _groups_json(groups, line, key_names) | counts_json(line) | (costs_json(line) if costs else {})
        for line in report.lines
    ]


def csv_text(
    report: Report,
    period: Period,
    groups: Sequence[Group],
    key_names: Mapping[str, str] | None = None,
    *,
    line_end: str = "\n",
) -> str:
    """One row a line, and where there are no groups the totals; the period stands in each."""
    rows = lines_json(report, groups, key_names) if groups else [counts_json(report.total)]
    fields = [group.field for group in groups]
    if key_names is not None and Group.KEY in groups:
        fields.insert(fields.index(Group.KEY.field) + 1, "key_name")
    return csv_of(rows, (iso(period.from_ms), iso(period.to_ms)), fields, line_end=line_end)


def csv_of(
    rows: Sequence[Mapping[str, Any]],
    ends: tuple[str, str],
    fields: Sequence[str],
    counts: Sequence[str] = COUNTS,
    *,
    line_end: str = "\n",
) -> str:
    """Rows of JSON as CSV: the ends of their period, what they tell apart, and what is counted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=line_end)
    writer.writerow(["from", "to", *fields, *counts])
    for row in rows:
        writer.writerow([*ends, *(csv_cell(row[field]) for field in fields), *(row[name] for name in counts)])
    return text.getvalue()


def csv_cell(text: str | None) -> str:
    """Text in a cell, which no spreadsheet evaluates and no terminal obeys: model names come from outside.

    What a formula begins with gets a `'` before it, and what is not printable is written as an escape. JSON has names
    as they are.
    """
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text or "")
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


def _groups_json(groups: Sequence[Group], line: Line, key_names: Mapping[str, str] | None) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for group, value in zip(groups, line.values, strict=True):
        if group is Group.KEY and key_names is not None:
            shown |= {"key_id": value or None, "key_name": key_names.get(value)}
        else:
            shown[group.field] = value
    return shown


def limit_json(limit: Limit) -> dict[str, Any]:
    """A limit as it is set."""
    counted = limit.counted
    return {
        "limit": counted.name,
        "unit": str(counted.unit),
        "window": None if counted.unit in TIMELESS else str(counted.window),
        "model": counted.model or None,
        "kind": counted.kind or None,
        "value": shown(counted.unit, limit.value),
        "soft": limit.soft,
        "origin": limit.origin,
    }
