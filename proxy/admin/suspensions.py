"""Operations on suspensions: whom a failed payment has suspended, and to let one in without a payment."""

from __future__ import annotations

from typing import Literal

from proxy.admin.operation import Answer, Context, Page, Paged, operation, page_of
from proxy.admin.tenants import OneTenant
from proxy.errors import WrongInput
from proxy.instants import iso, iso_or_none
from proxy.store import payments, tenants


class Suspension(Answer):
    """A tenant's requests are, or were, refused until an invoice is paid."""

    id: int
    tenant_id: str
    invoice: str
    """OpenMeter's id of it, or Stripe's."""
    cause: str
    """The event that told of the failed payment."""
    since: str
    until: str | None
    ended_by: str | None
    """The event that told that it is paid; or `operator`."""


class ListSuspensions(Paged):
    tenant_id: str = ""
    """Only this tenant's."""


class Resumed(Answer):
    """A tenant, and how many of its suspensions have ended now."""

    tenant_id: str
    status: Literal["active", "disabled"]
    """Whoever was disabled stays so."""
    ended: int


@operation("GET", "/admin/suspensions")
def list_suspensions(context: Context, asked: ListSuspensions) -> Page[Suspension]:
    """List suspensions, the newest first: those that go on, and those that have ended."""
    if asked.tenant_id:
        tenants.tenant(context.connection, asked.tenant_id)
    if asked.after and not asked.after.isdecimal():
        raise WrongInput("is no `next` of a page of suspensions", "after")
    before = int(asked.after) if asked.after else None
    found = payments.suspensions(context.connection, asked.tenant_id, before=before, limit=asked.limit + 1)
    return page_of(found, asked.limit, suspension_of, lambda one: str(one.id))


@operation("POST", "/admin/tenants/{tenant_id}/resume")
def resume_tenant(context: Context, asked: OneTenant) -> Resumed:
    """Let a suspended tenant in again. If collecting is tried again and fails, it is suspended again."""
    ended = payments.resume(context.connection, asked.tenant_id, payments.OPERATOR, context.now_ms)
    status = tenants.tenant(context.connection, asked.tenant_id).status
    return Resumed(tenant_id=asked.tenant_id, status=status, ended=ended)


def suspension_of(one: payments.Suspension) -> Suspension:
    return Suspension(
        id=one.id,
        tenant_id=one.tenant_id,
        invoice=one.invoice,
        cause=one.cause,
        since=iso(one.start_ms),
        until=iso_or_none(one.end_ms),
        ended_by=one.ended_by or None,
    )
