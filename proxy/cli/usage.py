"""`tollgate usage`: totals from the rollups."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from proxy.cli.instants import iso, iso_short, now_ms
from proxy.cli.opening import open_store, reading
from proxy.cli.output import Json, print_json, print_table, printable
from proxy.cli.standings import Standing, print_standings, standing_json, standings
from proxy.instants import Period, WrongPeriod
from proxy.limits import Calendar
from proxy.store import limits, tenants
from proxy.store.usage import Group, Line, Report, has_usage, parse_groups, report
from proxy.web.report import costs_json, counts_json, csv_text, lines_json

_GROUPS = "tenant,model,endpoint,source"


def show_usage(
    tenant_id: Annotated[
        str | None,
        typer.Argument(metavar="TENANT", help="Only this tenant's (or subject's), and its limits."),
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option("--from", metavar="WHEN", help="A date or an RFC 3339 instant. Default: the month's begin."),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option("--to", metavar="WHEN", help="Until then, exclusively. Default: the end of the current month."),
    ] = None,
    group_by: Annotated[
        str, typer.Option("--group-by", metavar="NAMES", help=f"What to tell apart: any of {', '.join(Group)}.")
    ] = _GROUPS,
    cost: Annotated[bool, typer.Option("--cost", help="What it cost you, at the list prices of its time.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Json = False,
) -> None:
    """Show requests and tokens per tenant, model, endpoint and source of the numbers.

    Usage is kept by the hour, and an hour belongs to the day and to the period that it begins in. Dates, days and
    months are those of TOLLGATE_LIMITS__TIME_ZONE.
    """
    if as_csv and as_json:
        raise typer.BadParameter("choose one of --csv and --json", param_hint="--csv")
    groups = _parsed(group_by)
    settings, database = open_store()
    now, calendar = now_ms(), Calendar.of(settings.limits.time_zone)
    period = period_of(begin, end, calendar, now)
    found_standings: list[Standing] = []
    with reading(database) as connection:
        found = report(connection, period, calendar, groups, subject=tenant_id or "")
        if tenant_id is not None:
            check_subject(connection, tenant_id)
            found_standings = standings(connection, limits.effective(connection, tenant_id), calendar, now)
    if as_csv:
        typer.echo(csv_text(found, period, groups, costs=cost), nl=False)
    elif as_json:
        print_json(_json(found, period, groups, cost) | _limits_json(tenant_id, found_standings))
    else:
        _print(found, period, groups, tenant_id, cost)
        if found_standings:
            typer.echo("\nLimits")
            print_standings(found_standings, empty="")


def period_of(begin: str | None, end: str | None, calendar: Calendar, now_ms: int) -> Period:
    """The whole hours from `begin` to `end`. Raises `typer.BadParameter`."""
    try:
        return Period.of(begin, end, calendar, now_ms)
    except WrongPeriod as error:
        raise typer.BadParameter(str(error), param_hint=f"--{error.end}") from None


def check_subject(connection: sqlite3.Connection, subject: str) -> None:
    """Raises `StoreError` for one that is neither a tenant nor has ever used anything: a slip of the pen."""
    if not subject or not has_usage(connection, subject):
        tenants.tenant(connection, subject)


def _parsed(group_by: str) -> tuple[Group, ...]:
    try:
        return parse_groups(group_by, tuple(Group))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--group-by") from None


def _json(found: Report, period: Period, groups: Sequence[Group], cost: bool) -> dict[str, Any]:
    return {
        "from": iso(period.from_ms),
        "to": iso(period.to_ms),
        "lines": lines_json(found, groups, costs=cost),
        "totals": counts_json(found.total) | (costs_json(found.total) if cost else {}),
    }


def _limits_json(tenant_id: str | None, found: Sequence[Standing]) -> dict[str, Any]:
    return {} if tenant_id is None else {"limits": [standing_json(one) for one in found]}


def _print(found: Report, period: Period, groups: Sequence[Group], tenant_id: str | None, cost: bool) -> None:
    whose = f" of {printable(tenant_id)}" if tenant_id else ""
    typer.echo(f"Usage{whose} from {iso_short(period.from_ms)} until {iso_short(period.to_ms)}")
    total = found.total
    if total.requests:
        typer.echo(f"Tokens: {total.reported_tokens:,} reported, {total.estimated_tokens:,} estimated")
    if cost:
        _print_costs(found, groups)
        return
    # By source they are apart already.
    apart = Group.SOURCE not in groups
    columns = ["requests", "prompt", "cached", "completion", "reasoning", "total", *["reported", "estimated"] * apart]
    print_table(
        [*groups, *columns],
        [(*line.values, *_numbers(line, apart)) for line in found.lines],
        totals=("total", *[""] * (len(groups) - 1), *_numbers(total, apart)),
        empty="There was no usage.",
    )


def _print_costs(found: Report, groups: Sequence[Group]) -> None:
    costs = found.total.costs
    unknown = found.total.requests - costs.priced_requests - costs.free_requests - costs.unpriced_requests
    if costs.unpriced_requests:
        typer.echo(
            f"{costs.unpriced_requests:,} requests have no price and are not in it: see tollgate prices unpriced"
        )
    if unknown:
        typer.echo(f"{unknown:,} requests are not in it: they were recorded before costs were")
    print_table(
        [*groups, "requests", "tokens", "cost usd", "priced", "free", "unpriced", "unpriced tokens"],
        [(*line.values, *_cost_cells(line)) for line in found.lines],
        totals=("total", *[""] * (len(groups) - 1), *_cost_cells(found.total)),
        empty="There was no usage.",
    )


def _cost_cells(line: Line) -> tuple[int | str, ...]:
    usd, *counts = costs_json(line).values()
    return line.requests, line.usage.total_tokens, usd, *counts


def _numbers(line: Line, apart: bool) -> list[int]:
    usage = line.usage
    return [
        line.requests,
        usage.prompt_tokens,
        usage.cached_input,
        usage.completion_tokens,
        usage.reasoning,
        usage.total_tokens,
        *[line.reported_tokens, line.estimated_tokens] * apart,
    ]
