"""Subscriptions: which plan, as it was then, a tenant is billed by, and since when. In the caller's transaction."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from proxy.errors import StoreError
from proxy.store import accounts


@dataclass(frozen=True, slots=True)
class Subscription:
    """A tenant is billed by `version` of `plan` in `[start_ms, end_ms)`; None: it goes on. Times are unix milliseconds.

    A billing period begins at `anchor_ms`, and all others so many months or weeks before and after it, by the calendar
    of the time zone `zone`.
    """

    id: int
    tenant_id: str
    plan: str
    version: int
    zone: str
    anchor_ms: int
    start_ms: int
    end_ms: int | None


def subscriptions(connection: sqlite3.Connection, tenant_id: str = "") -> list[Subscription]:
    """Those of a tenant, the oldest first; or of all."""
    rows = connection.execute(accounts.SUBSCRIPTIONS, (tenant_id, tenant_id))
    return [Subscription(*row) for row in rows]


def current(connection: sqlite3.Connection, tenant_id: str) -> Subscription | None:
    """The one that goes on."""
    return next((one for one in subscriptions(connection, tenant_id) if one.end_ms is None), None)


def subscribe(
    connection: sqlite3.Connection, tenant_id: str, plan: str, version: int, *, zone: str, anchor_ms: int, start_ms: int
) -> Subscription:
    """Raises `StoreError` for a tenant that has one which goes on."""
    if current(connection, tenant_id) is not None:
        raise StoreError(f"tenant {tenant_id} has a subscription already")
    connection.execute(accounts.INSERT_SUBSCRIPTION, (tenant_id, plan, version, zone, anchor_ms, start_ms))
    return subscriptions(connection, tenant_id)[-1]


def end(connection: sqlite3.Connection, subscription: Subscription, end_ms: int) -> None:
    """End one that goes on. One that has just begun ends when it began, and is billed for nothing."""
    connection.execute(accounts.END_SUBSCRIPTION, (max(end_ms, subscription.start_ms), subscription.id))


def keep(connection: sqlite3.Connection, plan: str, document: str) -> int:
    """Keep a plan as it is now. Returns the number of that version: 1, 2, …"""
    known = latest(connection, plan)
    version = 1 if known is None else known[0] + 1
    connection.execute(accounts.INSERT_PLAN_VERSION, (plan, version, document))
    return version


def latest(connection: sqlite3.Connection, plan: str) -> tuple[int, str] | None:
    """The last version of a plan that was kept, and its document."""
    row = connection.execute(accounts.LATEST_PLAN_VERSION, (plan,)).fetchone()
    return None if row is None else (row[0], row[1])


def document(connection: sqlite3.Connection, plan: str, version: int) -> str:
    """Raises `StoreError` where there is none."""
    row = connection.execute(accounts.PLAN_VERSION, (plan, version)).fetchone()
    if row is None:
        raise StoreError(f"there is no version {version} of plan {plan}")
    return str(row[0])
