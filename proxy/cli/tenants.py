"""`tollgate tenants`: who is billed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from proxy.cli.instants import iso, iso_short, now_ms, parse_instant
from proxy.cli.keys import key_json, print_keys
from proxy.cli.limits import check_known_plan
from proxy.cli.opening import open_store, reading
from proxy.cli.output import Json, print_facts, print_json, print_table, printable
from proxy.cli.standings import print_standings, standing_json, standings
from proxy.declaration.write import written
from proxy.limits import Calendar
from proxy.model import Tenant, Window
from proxy.store import tenants
from proxy.store.declared import applied
from proxy.store.limits import effective

app = typer.Typer(help="Who is billed.", no_args_is_help=True)

_SHARED = "shared"

_TenantId = Annotated[str, typer.Argument(metavar="ID", help="The tenant's id, which is its events' subject.")]


@app.command("create")
def create(
    tenant_id: _TenantId,
    name: Annotated[str, typer.Option(metavar="NAME", help="A name to show. The id, if left out.")] = "",
    upstream_key: Annotated[
        str, typer.Option(metavar="WHERE", help="Where its own upstream key is found: env:NAME or file:/PATH.")
    ] = "",
    plan: Annotated[str, typer.Option(metavar="NAME", help="The plan whose limits hold for it as well.")] = "",
    as_json: Json = False,
) -> None:
    """Add a tenant."""
    _, database = open_store()
    with database.transaction() as connection:
        if plan:
            check_known_plan(connection, plan)
        tenant = tenants.create_tenant(
            connection, tenant_id, name=name, upstream_key=upstream_key, plan=plan, now_ms=now_ms()
        )
    _print_change(tenant, "created", as_json)


@app.command("list")
def list_tenants(as_json: Json = False) -> None:
    """List the tenants."""
    _, database = open_store()
    with reading(database) as connection:
        found = tenants.tenants(connection)
    if as_json:
        print_json([_tenant_json(tenant) for tenant in found])
        return
    print_table(
        ("id", "name", "status", "created", "plan", "upstream key", "origin"),
        [
            (one.id, one.name, one.status, iso_short(one.created_ms), one.plan, one.upstream_key or _SHARED, one.origin)
            for one in found
        ],
        empty="There are no tenants. Add one: tollgate tenants create ID",
    )


@app.command("show")
def show(tenant_id: _TenantId, as_json: Json = False) -> None:
    """Show a tenant, the limits that hold for it, and its keys."""
    settings, database = open_store()
    now, calendar = now_ms(), Calendar.of(settings.limits.time_zone)
    with reading(database) as connection:
        tenant = tenants.tenant(connection, tenant_id)
        limits = standings(connection, effective(connection, tenant.id), calendar, now)
        keys = tenants.keys(connection, tenant.id)
        origin = f"declared in {applied(connection).file}" if tenant.origin == "declared" else tenant.origin
    if as_json:
        lists = {"limits": [standing_json(one) for one in limits], "keys": [key_json(key, now) for key in keys]}
        print_json(_tenant_json(tenant) | lists)
        return
    print_facts(
        [
            ("id", tenant.id),
            ("name", tenant.name),
            ("status", tenant.status),
            ("created", iso_short(tenant.created_ms)),
            ("upstream key", tenant.upstream_key or _SHARED),
            ("plan", tenant.plan or "none"),
            ("periods since", iso_short(tenant.anchor_ms)),
            ("origin", origin),
        ]
    )
    typer.echo()
    print_standings(limits, empty=f"It has no limits. Set one: tollgate limits set {tenant.id} tokens/month=10000")
    typer.echo()
    print_keys(keys, now, empty=f"It has no keys. Make one: tollgate keys create {tenant.id}")


@app.command("export")
def export(
    tenant_ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Only these; all, if left out.")] = None,
) -> None:
    """Print tenants, their plans and keys (hashes) as TOML, for the file that is to declare them."""
    _, database = open_store()
    with reading(database) as connection:
        ids = tenant_ids or [one.id for one in tenants.tenants(connection)]
        typer.echo(written(connection, ids), nl=False)


@app.command("set-upstream-key")
def set_upstream_key(
    tenant_id: _TenantId,
    where: Annotated[str, typer.Argument(metavar="WHERE", help="env:NAME or file:/PATH; '' to share the service's.")],
    as_json: Json = False,
) -> None:
    """Say where a tenant's own upstream key is found, in force within a second. The key itself is stored nowhere."""
    _, database = open_store()
    with database.transaction() as connection:
        tenant = tenants.set_upstream_key(connection, tenant_id, where)
    if as_json:
        print_json(_tenant_json(tenant))
    else:
        key = f"the upstream key at {printable(where)}" if where else "the service's upstream key"
        typer.echo(f"Tenant {printable(tenant.id)} uses {key}.")


@app.command("set-plan")
def set_plan(
    tenant_id: _TenantId,
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="The plan's name; '' for none.")],
    as_json: Json = False,
) -> None:
    """Put a tenant on a plan, whose limits hold for it as well, in force within a second."""
    _, database = open_store()
    with database.transaction() as connection:
        if plan:
            check_known_plan(connection, plan)
        tenant = tenants.set_plan(connection, tenant_id, plan)
    _print_change(tenant, f"on plan {plan}" if plan else "on no plan", as_json)


@app.command("set-period")
def set_period(
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
    settings, database = open_store()
    calendar = Calendar.of(settings.limits.time_zone)
    try:
        anchor_ms = parse_instant(when, calendar)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="WHEN") from None
    with database.transaction() as connection:
        tenant = tenants.set_anchor(connection, tenant_id, anchor_ms)
    if as_json:
        print_json(_tenant_json(tenant))
        return
    begins, ends = calendar.bounds(Window.PERIOD, now_ms(), tenant.anchor_ms)
    period = f"{iso_short(begins)} until {iso_short(ends)}"
    typer.echo(f"The current period of tenant {printable(tenant.id)} is from {period}.")


@app.command("disable")
def disable(tenant_id: _TenantId, as_json: Json = False) -> None:
    """Refuse a tenant's requests (403), in force within a second."""
    _set_active(tenant_id, as_json, active=False)


@app.command("enable")
def enable(tenant_id: _TenantId, as_json: Json = False) -> None:
    """Let a disabled tenant in again."""
    _set_active(tenant_id, as_json, active=True)


def _set_active(tenant_id: str, as_json: bool, *, active: bool) -> None:
    _, database = open_store()
    with database.transaction() as connection:
        tenant = tenants.set_active(connection, tenant_id, active=active)
    _print_change(tenant, "enabled" if active else "disabled", as_json)


def _print_change(tenant: Tenant, done: str, as_json: bool) -> None:
    if as_json:
        print_json(_tenant_json(tenant))
    else:
        typer.echo(f"Tenant {printable(tenant.id)} is {done}.")


def _tenant_json(tenant: Tenant) -> dict[str, Any]:
    return {
        "id": tenant.id,
        "name": tenant.name,
        "status": tenant.status,
        "created_at": iso(tenant.created_ms),
        "upstream_key": tenant.upstream_key or None,
        "plan": tenant.plan or None,
        "period_anchor": iso(tenant.anchor_ms),
        "origin": tenant.origin,
    }
