"""`tollgate billing invoice`: what a tenant owes for a billing period."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from proxy.billing.account import Account, Wanted
from proxy.billing.invoice import Invoice
from proxy.billing.money import plain, thousands
from proxy.billing.rating import Line
from proxy.billing.statement import money, parts, statement_csv, statement_html, statement_json, unit_price
from proxy.cli.instants import iso_short, now_ms
from proxy.cli.opening import open_store, reading
from proxy.cli.output import Json, print_json, printable
from proxy.cli.tables import print_table
from proxy.limits import Calendar


def show_invoice(
    tenant_id: Annotated[str, typer.Argument(metavar="TENANT", help="Who is billed.")],
    period: Annotated[
        str,
        typer.Option(metavar="WHICH", help="current, previous, or the month that it begins in, such as 2026-04."),
    ] = "current",
    begin: Annotated[
        str | None, typer.Option("--from", metavar="WHEN", help="The billing period that this instant lies in.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="WHEN", help="With --from: that span, billed as if it were a period.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page that prints on A4; - prints it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a tenant owes: the ledger, rated by its plan as it was when it subscribed.

    Dates are those of TOLLGATE_LIMITS__TIME_ZONE.
    """
    if as_csv + as_json + (html is not None) > 1:
        raise typer.BadParameter("choose one of --csv, --json and --html", param_hint="--csv")
    if begin is not None and period != "current":
        raise typer.BadParameter("choose one of --period and --from", param_hint="--period")
    if begin is None and end is not None:
        raise typer.BadParameter("it needs --from", param_hint="--to")
    settings, database = open_store()
    calendar = Calendar.of(settings.limits.time_zone)
    with reading(database) as connection:
        account = Account(connection, tenant_id)
        try:
            found = account.invoice(Wanted(period, begin, end), calendar, now_ms())
        except ValueError as error:
            hint = "--period" if begin is None else "--from" if end is None else "--from, --to"
            raise typer.BadParameter(str(error), param_hint=hint) from None
    if as_json:
        print_json(statement_json(found))
    elif as_csv:
        typer.echo(statement_csv(found), nl=False)
    elif html == Path("-"):
        typer.echo(statement_html(found), nl=False)
    elif html is not None:
        html.write_text(statement_html(found), "utf-8")
        typer.echo(f"The invoice is in {printable(str(html))}.")
    else:
        _print(found)


def _print(one: Invoice) -> None:
    plan, begins, ends = one.snapshot.plan, iso_short(one.period.from_ms), iso_short(one.period.to_ms)
    typer.echo(f"Invoice for {printable(one.tenant.id)} from {begins} until {ends}")
    typer.echo(f"Plan {plan.key}, version {one.subscription.version}{', so far' * one.is_open}")
    rows = [row for line in one.lines for row in _rows(line, one.currency)]
    total = ("total", "", "", "", money(one.total, one.currency))
    *aligned, totals = _aligned([*rows, total])
    print_table(("item", "quantity", "unit price", "discount", f"amount in {one.currency}"), aligned, totals=totals)


def _rows(line: Line, currency: str) -> list[tuple[str, ...]]:
    """The line, and under it what it is made of."""
    discount, amount = _discount(line.discount, currency), money(line.amount, currency)
    rows: list[tuple[str, ...]] = [(line.card.name, thousands(line.quantity), unit_price(line), discount, amount)]
    if line.free:
        rows.append(("  of these free", thousands(line.free), "", "", ""))
    for one in parts(line):
        discount, amount = _discount(one.discount, currency), money(one.amount, currency)
        rows.append((f"  {one.what}", thousands(one.quantity), plain(one.unit_price), discount, amount))
    return rows


def _aligned(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """With the numbers, which are texts, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [(row[0], *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))) for row in rows]


def _discount(amount: Decimal, currency: str) -> str:
    return f"-{money(amount, currency)}" if amount else ""
