"""`tollgate usage`: totals from the rollups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from proxy.admin.margins import Margin
from proxy.admin.usage import GROUPS, Counts, Line, ReportUsage, UsageReport, csv_text, report_usage
from proxy.cli.calling import call
from proxy.cli.instants import short
from proxy.cli.output import Json, print_json, printable
from proxy.cli.standings import print_standings
from proxy.cli.tables import print_table
from proxy.store.usage import Group


def show_usage(
    ctx: typer.Context,
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
    ] = GROUPS,
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
    asked = ReportUsage(tenant_id=tenant_id, begin=begin, end=end, group_by=group_by, costs=cost)
    found = call(ctx, report_usage, asked)
    if as_csv:
        typer.echo(csv_text(found), nl=False)
    elif as_json:
        print_json(found.json_object())
    else:
        _print(found, tenant_id)
        if found.limits:
            typer.echo("\nLimits")
            print_standings(found.limits, empty="")


def _print(found: UsageReport, tenant_id: str | None) -> None:
    whose = f" of {printable(tenant_id)}" if tenant_id else ""
    typer.echo(f"Usage{whose} from {short(found.begin)} until {short(found.to)}")
    total, groups = found.totals, found.group_by
    if total.requests:
        typer.echo(f"Tokens: {total.reported_tokens:,} reported, {total.estimated_tokens:,} estimated")
    if total.cost_usd is not None:
        _print_costs(found)
        return
    # By source they are apart already.
    apart = Group.SOURCE not in groups
    columns = ["requests", "prompt", "cached", "completion", "reasoning", "total", *["reported", "estimated"] * apart]
    print_table(
        [*groups, *columns],
        [(*_values(line, groups), *_numbers(line, apart)) for line in found.lines],
        totals=("total", *[""] * (len(groups) - 1), *_numbers(total, apart)),
        empty="There was no usage.",
    )


def _print_costs(found: UsageReport) -> None:
    total, groups = found.totals, found.group_by
    unknown = total.requests - total.priced_requests - total.free_requests - total.unpriced_requests
    if total.unpriced_requests:
        typer.echo(
            f"{total.unpriced_requests:,} requests have no price and are not in it: see tollgate prices unpriced"
        )
    if unknown:
        typer.echo(f"{unknown:,} requests are not in it: they were recorded before costs were")
    columns = [*groups, "requests", "tokens", "cost usd", "priced", "free", "unpriced", "unpriced tokens"]
    margins = found.margins
    print_table(
        [*columns, *["revenue", "margin usd"] * bool(margins)],
        [(*_values(line, groups), *_cost_cells(line), *_margin_cells(margins, line)) for line in found.lines],
        totals=("total", *[""] * (len(groups) - 1), *_cost_cells(total), *[""] * (2 * bool(margins))),
        empty="There was no usage.",
    )


def _margin_cells(margins: Mapping[str, Margin], line: Line) -> tuple[str, ...]:
    if not margins:
        return ()
    one = margins[line.subject]
    revenue = ", ".join(f"{amount} {currency}" for currency, amount in one.revenue.items())
    return revenue or "not billed", one.margin_usd or ""


def _values(line: Line, groups: Sequence[Group]) -> list[str]:
    return [getattr(line, group.field) for group in groups]


def _cost_cells(line: Counts) -> tuple[int | str, ...]:
    counts = (line.priced_requests, line.free_requests, line.unpriced_requests, line.unpriced_tokens)
    return line.requests, line.total_tokens, line.cost_usd or "", *counts


def _numbers(line: Counts, apart: bool) -> list[int]:
    return [
        line.requests,
        line.prompt_tokens,
        line.cached_tokens,
        line.completion_tokens,
        line.reasoning_tokens,
        line.total_tokens,
        *[line.reported_tokens, line.estimated_tokens] * apart,
    ]
