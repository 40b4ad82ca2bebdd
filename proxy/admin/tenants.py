"""Operations on tenants: who is billed."""

from __future__ import annotations

import sqlite3
from typing import Literal

from pydantic import Field

from proxy.admin.limits import Standing, plan_of, standings_of
from proxy.admin.operation import NAME_CHARS_MAX, Answer, Asked, Context, Page, Paged, operation, page_of
from proxy.errors import NoSuch, WrongInput
from proxy.instants import iso, iso_or_none, parse_instant
from proxy.model import SUBJECT_PATTERN, Provenance
from proxy.model import Tenant as StoredTenant
from proxy.store import tenants
from proxy.store.declared import applied
from proxy.store.limits import effective


class Tenant(Answer):
    """Who is billed."""

    id: str
    """The subject of its events."""
    name: str
    status: Literal["active", "disabled"]
    created_at: str
    upstream_key: str | None
    """Where its own upstream key is found; null: it shares the service's."""
    plan: str | None
    period_anchor: str
    """When its first billing period began; the others begin on the same day of their months."""
    origin: Provenance
    """Who changes it: operators, or the file that declares it (or did once: `withdrawn`)."""
    suspended_since: str | None = None
    """Since when its requests are refused for a payment that failed; null: they are not."""


class ShownTenant(Tenant):
    """A tenant, and how all limits that hold for it stand."""

    declared_in: str | None
    """The file, where one declares it."""
    limits: list[Standing]


class CreateTenant(Asked):
    id: str = Field(json_schema_extra={"pattern": f"^{SUBJECT_PATTERN.pattern}$"})
    """The subject of its events."""
    name: str = Field("", max_length=NAME_CHARS_MAX)
    """A name to show. The id, if left out."""
    upstream_key: str = ""
    """Where its own upstream key is found, `env:NAME` or `file:/PATH`. The key itself is stored nowhere."""
    plan: str = ""
    """The plan whose limits hold for it as well."""


class OneTenant(Asked):
    tenant_id: str


class UpdateTenant(OneTenant):
    status: Literal["active", "disabled"] | None = None
    """The requests of a disabled tenant are refused with 403."""
    upstream_key: str | None = None
    """As for a new tenant; empty: it shares the service's."""
    plan: str | None = None
    """Empty: none."""
    period_anchor: str | None = None
    """When a period begins: a date (in the limits' time zone) or an RFC 3339 instant."""


@operation("POST", "/admin/tenants", status=201)
def create_tenant(context: Context, asked: CreateTenant) -> Tenant:
    """Add a tenant."""
    _check_plan(context.connection, asked.plan)
    return tenant_of(
        tenants.create_tenant(
            context.connection,
            asked.id,
            name=asked.name,
            upstream_key=asked.upstream_key,
            plan=asked.plan,
            now_ms=context.now_ms,
        )
    )


@operation("GET", "/admin/tenants")
def list_tenants(context: Context, asked: Paged) -> Page[Tenant]:
    """List the tenants, by their ids."""
    found = tenants.tenants(context.connection, after=asked.after, limit=asked.limit + 1)
    return page_of(found, asked.limit, tenant_of, lambda one: one.id)


@operation("GET", "/admin/tenants/{tenant_id}")
def show_tenant(context: Context, asked: OneTenant) -> ShownTenant:
    """Show a tenant, and the limits that hold for it: where each is set, what is used and left."""
    tenant = tenants.tenant(context.connection, asked.tenant_id)
    limits = standings_of(context, effective(context.connection, tenant.id))
    declared_in = applied(context.connection).file if tenant.origin == "declared" else None
    return ShownTenant(**tenant_of(tenant).json_object(), declared_in=declared_in, limits=limits)


@operation("PATCH", "/admin/tenants/{tenant_id}")
def update_tenant(context: Context, asked: UpdateTenant) -> Tenant:
    """Change what is named, and leave the rest: disable a tenant, put it on a plan, move its billing period."""
    connection, tenant_id = context.connection, asked.tenant_id
    if asked.status is not None:
        tenants.set_active(connection, tenant_id, active=asked.status == "active")
    if asked.upstream_key is not None:
        tenants.set_upstream_key(connection, tenant_id, asked.upstream_key)
    if asked.plan is not None:
        _check_plan(connection, asked.plan)
        tenants.set_plan(connection, tenant_id, asked.plan)
    if asked.period_anchor is not None:
        try:
            anchor_ms = parse_instant(asked.period_anchor, context.calendar)
        except ValueError as error:
            raise WrongInput(str(error), "period_anchor") from None
        tenants.set_anchor(connection, tenant_id, anchor_ms)
    return tenant_of(tenants.tenant(connection, tenant_id))


def tenant_of(one: StoredTenant) -> Tenant:
    return Tenant(
        id=one.id,
        name=one.name,
        status=one.status,
        created_at=iso(one.created_ms),
        upstream_key=one.upstream_key or None,
        plan=one.plan or None,
        period_anchor=iso(one.anchor_ms),
        origin=one.origin,
        suspended_since=iso_or_none(one.suspended_ms),
    )


def _check_plan(connection: sqlite3.Connection, name: str) -> None:
    """Raises `WrongInput` for a plan that nobody has made: whoever is on it would not be limited at all."""
    if name:
        try:
            plan_of(connection, name)
        except NoSuch as error:
            raise WrongInput(str(error), "plan") from None
