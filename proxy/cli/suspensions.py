"""`tollgate tenants suspensions`, `resume`: whom a failed payment has suspended, and letting one in without one."""

from __future__ import annotations

from typing import Annotated

import typer

from proxy.admin.suspensions import ListSuspensions, list_suspensions, resume_tenant
from proxy.admin.tenants import OneTenant
from proxy.cli.calling import call, listed
from proxy.cli.instants import short
from proxy.cli.output import Json, print_json, printable
from proxy.cli.tables import print_table

_LISTED_MAX = 10_000


def show_suspensions(
    ctx: typer.Context,
    tenant_id: Annotated[str, typer.Argument(metavar="ID", help="Only this tenant's.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=_LISTED_MAX, help="How many at most.")] = 20,
    as_json: Json = False,
) -> None:
    """List who is, and was, suspended for a payment that failed, the newest first."""
    found = listed(ctx, list_suspensions, ListSuspensions(tenant_id=tenant_id), limit)
    if as_json:
        print_json([one.json_object() for one in found])
        return
    print_table(
        ("tenant", "invoice", "since", "cause", "until", "ended by"),
        [
            (one.tenant_id, one.invoice, short(one.since), one.cause, short(one.until), one.ended_by or "")
            for one in found
        ],
        empty="Nobody was suspended.",
    )


def resume(
    ctx: typer.Context,
    tenant_id: Annotated[str, typer.Argument(metavar="ID", help="The tenant's id.")],
    as_json: Json = False,
) -> None:
    """Let a suspended tenant in again, in force within a second. Another failed try to collect suspends it again."""
    done = call(ctx, resume_tenant, OneTenant(tenant_id=tenant_id))
    if as_json:
        print_json(done.json_object())
        return
    what = "is no longer suspended" if done.ended else "was not suspended"
    more = f" It is disabled still: tollgate tenants enable {tenant_id}" if done.status == "disabled" else ""
    typer.echo(f"Tenant {printable(tenant_id)} {what}.{more}")
