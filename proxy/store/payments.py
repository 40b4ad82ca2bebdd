"""Payments: how they went, whom that suspends, and who pays for whom. In the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from proxy.store import accounts
from proxy.store.tenants import tenant

# How the payment of an invoice went, unless something later is known of it (at the same instant, being settled is).
_NOTE_PAYMENT = """
    INSERT INTO payments (invoice, tenant_id, state, time_ms) VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET time_ms = excluded.time_ms, state = excluded.state
    WHERE excluded.time_ms > payments.time_ms
        OR (excluded.time_ms = payments.time_ms AND excluded.state = 'settled' AND payments.state = 'failed')
"""

# Suspensions begun, and ended: for one invoice, or ('') for all of a tenant; and those of one tenant or ('') of all.
_INSERT_SUSPENSION = """
    INSERT INTO suspensions (tenant_id, invoice, cause, start_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_END_SUSPENSIONS = """
    UPDATE suspensions SET end_ms = max(?, start_ms), ended_by = ?
    WHERE tenant_id = ? AND (? = '' OR invoice = ?) AND end_ms IS NULL
"""
_SUSPENSIONS = """
    SELECT tenant_id, invoice, cause, start_ms, end_ms, ended_by, id FROM suspensions
    WHERE (? = '' OR tenant_id = ?) AND id < ? ORDER BY id DESC LIMIT ?
"""

# Which tenants somebody pays for.
_PAYS_FOR = "SELECT tenant_id FROM payers WHERE id = ? ORDER BY tenant_id"
_FORGET_PAYER = "DELETE FROM payers WHERE id = ?"
_INSERT_PAYER = "INSERT INTO payers (id, tenant_id) VALUES (?, ?)"

_ID_MAX = 2**63 - 1
#: Who ended a suspension, where it was no payment.
OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Suspension:
    """A tenant's requests are refused in `[start_ms, end_ms)`; None: it goes on. Times are unix milliseconds.

    `cause` is the event that told that the payment of `invoice` failed; `ended_by` the one that told that it is
    settled, or `OPERATOR`.
    """

    tenant_id: str
    invoice: str
    cause: str
    start_ms: int
    end_ms: int | None
    ended_by: str
    id: int


def note(
    connection: sqlite3.Connection,
    invoice: str,
    tenant_id: str,
    state: Literal["failed", "settled"],
    time_ms: int,
) -> bool:
    """Note how a payment went at that time. False where something later is known of it, or this is known already."""
    return bool(connection.execute(_NOTE_PAYMENT, (invoice, tenant_id, state, time_ms)).rowcount)


def suspend(connection: sqlite3.Connection, tenant_id: str, invoice: str, cause: str, now_ms: int) -> bool:
    """Refuse a tenant's requests for an invoice. False where they are refused for it already."""
    return bool(connection.execute(_INSERT_SUSPENSION, (tenant_id, invoice, cause, now_ms)).rowcount)


def resume(connection: sqlite3.Connection, tenant_id: str, by: str, now_ms: int, *, invoice: str = "") -> int:
    """Refuse them no more for this invoice, or for any. Returns how many suspensions ended.

    Raises `StoreError` for an unknown tenant.
    """
    tenant(connection, tenant_id)
    return connection.execute(_END_SUSPENSIONS, (now_ms, by, tenant_id, invoice, invoice)).rowcount


def is_suspended(connection: sqlite3.Connection, tenant_id: str) -> bool:
    """Raises `StoreError` for an unknown tenant."""
    return tenant(connection, tenant_id).suspended_ms is not None


def suspensions(
    connection: sqlite3.Connection, tenant_id: str = "", *, before: int | None = None, limit: int
) -> list[Suspension]:
    """Those of a tenant, the newest first; or of all. Only such as are older than the one with the id `before`."""
    end = _ID_MAX if before is None else min(before, _ID_MAX)
    rows = connection.execute(_SUSPENSIONS, (tenant_id, tenant_id, end, limit))
    return [Suspension(*row) for row in rows]


def pays_for(connection: sqlite3.Connection, payer: str) -> list[str]:
    """The tenants that a customer pays for: OpenMeter's id of it, or Stripe's."""
    return [tenant_id for (tenant_id,) in connection.execute(_PAYS_FOR, (payer,))]


def link(connection: sqlite3.Connection, payer: str, tenant_ids: Iterable[str]) -> None:
    """Remember whom a customer pays for, and forget whom it paid for before."""
    wanted = sorted(set(tenant_ids))
    if wanted != pays_for(connection, payer):
        connection.execute(_FORGET_PAYER, (payer,))
        connection.executemany(_INSERT_PAYER, [(payer, one) for one in wanted])


def known_tenants(connection: sqlite3.Connection, named: Iterable[str]) -> list[str]:
    """Those of these that are tenants, each once."""
    return [one for one in dict.fromkeys(named) if connection.execute(accounts.TENANT, (one,)).fetchone()]
