"""`tollgate tenants`: who is billed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from proxy.cli.instants import iso, iso_short, now_ms
from proxy.cli.keys import key_json, print_keys
from proxy.cli.opening import open_store, reading
from proxy.cli.output import Json, print_facts, print_json, print_table, printable
from proxy.model import Tenant
from proxy.store import tenants

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
    as_json: Json = False,
) -> None:
    """Add a tenant."""
    _, database = open_store()
    with database.transaction() as connection:
        tenant = tenants.create_tenant(connection, tenant_id, name=name, upstream_key=upstream_key, now_ms=now_ms())
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
        ("id", "name", "status", "created", "upstream key"),
        [(one.id, one.name, one.status, iso_short(one.created_ms), one.upstream_key or _SHARED) for one in found],
        empty="There are no tenants. Add one: tollgate tenants create ID",
    )


@app.command("show")
def show(tenant_id: _TenantId, as_json: Json = False) -> None:
    """Show a tenant and its keys."""
    _, database = open_store()
    with reading(database) as connection:
        tenant = tenants.tenant(connection, tenant_id)
        keys = tenants.keys(connection, tenant.id)
    now = now_ms()
    if as_json:
        print_json(_tenant_json(tenant) | {"keys": [key_json(key, now) for key in keys]})
        return
    print_facts(
        [
            ("id", tenant.id),
            ("name", tenant.name),
            ("status", tenant.status),
            ("created", iso_short(tenant.created_ms)),
            ("upstream key", tenant.upstream_key or _SHARED),
        ]
    )
    print_keys(keys, now, empty=f"It has no keys. Make one: tollgate keys create {tenant.id}")


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
    }
