"""`tollgate tenants`: who is billed."""

from __future__ import annotations

from typing import Annotated

import typer

from proxy.admin import tenants
from proxy.admin.keys import ListKeys, list_keys
from proxy.admin.limits import TenantLimits, show_tenant_limits
from proxy.admin.operation import Paged
from proxy.admin.tenants import CreateTenant, OneTenant, Tenant, UpdateTenant, create_tenant, show_tenant, update_tenant
from proxy.cli.calling import call, listed
from proxy.cli.instants import iso_short, now_ms, parse_instant, short
from proxy.cli.keys import print_keys
from proxy.cli.opening import open_store, reading
from proxy.cli.output import Json, print_json, printable
from proxy.cli.standings import print_standings
from proxy.cli.suspensions import resume, show_suspensions
from proxy.cli.tables import print_facts, print_table
from proxy.declaration.write import written
from proxy.limits import Calendar
from proxy.model import Window
from proxy.store import tenants as stored

app = typer.Typer(help="Who is billed.", no_args_is_help=True)
app.command("suspensions")(show_suspensions)
app.command("resume")(resume)

_SHARED = "shared"

_TenantId = Annotated[str, typer.Argument(metavar="ID", help="The tenant's id, which is its events' subject.")]


@app.command("create")
def create(
    ctx: typer.Context,
    tenant_id: _TenantId,
    name: Annotated[str, typer.Option(metavar="NAME", help="A name to show. The id, if left out.")] = "",
    upstream_key: Annotated[
        str, typer.Option(metavar="WHERE", help="Where its own upstream key is found: env:NAME or file:/PATH.")
    ] = "",
    plan: Annotated[str, typer.Option(metavar="NAME", help="The plan whose limits hold for it as well.")] = "",
    as_json: Json = False,
) -> None:
    """Add a tenant."""
    asked = CreateTenant(id=tenant_id, name=name, upstream_key=upstream_key, plan=plan)
    _print_change(call(ctx, create_tenant, asked), "created", as_json)


@app.command("list")
def list_tenants(ctx: typer.Context, as_json: Json = False) -> None:
    """List the tenants."""
    found = listed(ctx, tenants.list_tenants, Paged())
    if as_json:
        print_json([tenant.json_object() for tenant in found])
        return
    print_table(
        ("id", "name", "status", "created", "plan", "upstream key", "origin"),
        [
            (
                *(one.id, one.name, _status(one), short(one.created_at), one.plan or ""),
                *(one.upstream_key or _SHARED, one.origin),
            )
            for one in found
        ],
        empty="There are no tenants. Add one: tollgate tenants create ID",
    )


@app.command("show")
def show(ctx: typer.Context, tenant_id: _TenantId, as_json: Json = False) -> None:
    """Show a tenant, the limits that hold for it and where each comes from, and its keys with their own limits."""
    tenant = call(ctx, show_tenant, OneTenant(tenant_id=tenant_id))
    keys = listed(ctx, list_keys, ListKeys(tenant_id=tenant_id))
    if as_json:
        print_json(tenant.json_object() | {"keys": [key.json_object() for key in keys]})
        return
    print_facts(
        [
            ("id", tenant.id),
            ("name", tenant.name),
            ("status", _status(tenant)),
            ("created", short(tenant.created_at)),
            ("upstream key", tenant.upstream_key or _SHARED),
            ("plan", tenant.plan or "none"),
            ("periods since", short(tenant.period_anchor)),
            ("origin", f"declared in {tenant.declared_in}" if tenant.declared_in else tenant.origin),
        ]
    )
    typer.echo()
    print_standings(
        tenant.limits, empty=f"It has no limits. Set one: tollgate limits set {tenant.id} tokens/month=10000"
    )
    typer.echo()
    print_keys(keys, empty=f"It has no keys. Make one: tollgate keys create {tenant.id}")


@app.command("export")
def export(
    tenant_ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Only these; all, if left out.")] = None,
) -> None:
    """Print tenants, their plans and keys (hashes) as TOML, for the file that is to declare them."""
    _, database = open_store()
    with reading(database) as connection:
        ids = tenant_ids or [one.id for one in stored.tenants(connection)]
        typer.echo(written(connection, ids), nl=False)


@app.command("set-upstream-key")
def set_upstream_key(
    ctx: typer.Context,
    tenant_id: _TenantId,
    where: Annotated[str, typer.Argument(metavar="WHERE", help="env:NAME or file:/PATH; '' to share the service's.")],
    as_json: Json = False,
) -> None:
    """Say where a tenant's own upstream key is found, in force within a second. The key itself is stored nowhere."""
    tenant = call(ctx, update_tenant, UpdateTenant(tenant_id=tenant_id, upstream_key=where))
    if as_json:
        print_json(tenant.json_object())
    else:
        key = f"the upstream key at {printable(where)}" if where else "the service's upstream key"
        typer.echo(f"Tenant {printable(tenant.id)} uses {key}.")


@app.command("set-plan")
def set_plan(
    ctx: typer.Context,
    tenant_id: _TenantId,
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="The plan's name; '' for none.")],
    as_json: Json = False,
) -> None:
    """Put a tenant on a plan, whose limits hold for it as well, in force within a second."""
    tenant = call(ctx, update_tenant, UpdateTenant(tenant_id=tenant_id, plan=plan))
    _print_change(tenant, f"on plan {plan}" if plan else "on no plan", as_json)


@app.command("set-period")
def set_period(
    ctx: typer.Context,
    tenant_id: _TenantId,
    when: Annotated[
        str,
        typer.Argument(
            metavar="WHEN", help="When a period begins: a date (in the limits' time zone) or an RFC 3339 instant."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Say when a tenant's billing period begins; all others begin on the same day of their months."""
    tenant = call(ctx, update_tenant, UpdateTenant(tenant_id=tenant_id, period_anchor=when))
    if as_json:
        print_json(tenant.json_object())
        return
    calendar = Calendar.of(call(ctx, show_tenant_limits, TenantLimits(tenant_id=tenant_id)).time_zone)
    begins, ends = calendar.bounds(Window.PERIOD, now_ms(), parse_instant(tenant.period_anchor))
    period = f"{iso_short(begins)} until {iso_short(ends)}"
    typer.echo(f"The current period of tenant {printable(tenant.id)} is from {period}.")


@app.command("disable")
def disable(ctx: typer.Context, tenant_id: _TenantId, as_json: Json = False) -> None:
    """Refuse a tenant's requests (403), in force within a second."""
    _print_change(call(ctx, update_tenant, UpdateTenant(tenant_id=tenant_id, status="disabled")), "disabled", as_json)


@app.command("enable")
def enable(ctx: typer.Context, tenant_id: _TenantId, as_json: Json = False) -> None:
    """Let a disabled tenant in again."""
    _print_change(call(ctx, update_tenant, UpdateTenant(tenant_id=tenant_id, status="active")), "enabled", as_json)


def _print_change(tenant: Tenant, done: str, as_json: bool) -> None:
    if as_json:
        print_json(tenant.json_object())
    else:
        typer.echo(f"Tenant {printable(tenant.id)} is {done}.")


def _status(tenant: Tenant) -> str:
    return "suspended" if tenant.status == "active" and tenant.suspended_since else tenant.status
