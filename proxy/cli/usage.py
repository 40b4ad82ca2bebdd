"""`tollgate usage`: totals from the rollups."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from proxy.cli.instants import iso, iso_short, month_of, now_ms, parse_instant
from proxy.cli.opening import open_store, reading
from proxy.cli.output import Json, print_json, print_table, printable
from proxy.model import BUCKETS, Usage
from proxy.store import ledger, tenants
from proxy.store.ledger import HOUR_MS, UsageLine

#: Beyond every instant that can be written, and within SQLite's integers.
_FOREVER_MS = 2**53
_COLUMNS = (
    "tenant",
    "model",
    "endpoint",
    "source",
    "requests",
    "prompt",
    "cached",
    "completion",
    "reasoning",
    "total",
)


def show_usage(
    tenant_id: Annotated[
        str | None, typer.Argument(metavar="TENANT", help="Only this tenant's (or subject's) usage.")
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option("--from", metavar="WHEN", help="A date or an RFC 3339 instant. Default: the month's begin."),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="WHEN", help="Until then, exclusively. Default: the end of the current UTC month."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show requests and tokens per tenant, model, endpoint and source of the numbers.

    Usage is kept by the hour, and an hour belongs to the period that it begins in.
    """
    from_ms, to_ms = period(begin, end, now_ms())
    _, database = open_store()
    with reading(database) as connection:
        lines = ledger.usage(connection, from_ms=from_ms, to_ms=to_ms, subject=tenant_id or "")
        if tenant_id is not None and not (tenant_id and lines):
            check_subject(connection, tenant_id)
    if as_json:
        print_json(_report(lines, from_ms, to_ms))
        return
    whose = f" of {printable(tenant_id)}" if tenant_id else ""
    typer.echo(f"Usage{whose} from {iso_short(from_ms)} until {iso_short(to_ms)}")
    _print_lines(lines)


def period(begin: str | None, end: str | None, now_ms: int) -> tuple[int, int]:
    """The whole hours from `begin` to `end`, as the ledger counts them. Raises `typer.BadParameter`."""
    to_ms = month_of(now_ms)[1] if end is None else _instant(end, "--to")
    from_ms = month_of(to_ms - 1)[0] if begin is None else _instant(begin, "--from")
    from_ms, to_ms = (-(-ms // HOUR_MS) * HOUR_MS for ms in (from_ms, to_ms))
    if from_ms >= to_ms:
        raise typer.BadParameter(f"no hour begins between {iso(from_ms)} and {iso(to_ms)}", param_hint="--from")
    return from_ms, to_ms


def check_subject(connection: sqlite3.Connection, subject: str) -> None:
    """Raises `StoreError` for one that is neither a tenant nor has ever used anything: a slip of the pen."""
    if not subject or not ledger.usage(connection, from_ms=0, to_ms=_FOREVER_MS, subject=subject):
        tenants.tenant(connection, subject)


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


def _instant(words: str, option: str) -> int:
    try:
        return parse_instant(words)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _totals(lines: Sequence[UsageLine]) -> tuple[int, Usage]:
    sums = {name: sum(getattr(line.usage, name) for line in lines) for name in BUCKETS}
    return sum(line.requests for line in lines), Usage(**sums)


def _report(lines: Sequence[UsageLine], from_ms: int, to_ms: int) -> dict[str, Any]:
    requests, usage = _totals(lines)
    return {
        "from": iso(from_ms),
        "to": iso(to_ms),
        "lines": [
            {
                "subject": line.subject,
                "model": line.model,
                "endpoint": line.endpoint,
                "usage_source": str(line.usage_source),
                "requests": line.requests,
            }
            | tokens_json(line.usage)
            for line in lines
        ],
        "totals": {"requests": requests} | tokens_json(usage),
    }


def _print_lines(lines: Sequence[UsageLine]) -> None:
    print_table(
        _COLUMNS,
        [
            (line.subject, line.model, line.endpoint, str(line.usage_source), *_numbers(line.requests, line.usage))
            for line in lines
        ],
        totals=("total", "", "", "", *_numbers(*_totals(lines))),
        empty="There was no usage.",
    )


def _numbers(requests: int, usage: Usage) -> tuple[int, ...]:
    return (
        requests,
        usage.prompt_tokens,
        usage.cached_input,
        usage.completion_tokens,
        usage.reasoning,
        usage.total_tokens,
    )
